"""The twin feeds links: both ends burn the same key, get the same block, agree and allocate, whatever fails in between.

The two key managers are real ones behind their HTTP applications. The photons are not: a block is drawn, and given to
both ends if both burned the same authentication key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.service.desks import run
from tests.service.http.driver import Incoming, application_of, ask, scope_of
from tests.world import World

from qsotn.adapters.transport.http import HttpPeer
from qsotn.app.province import KM_A, KM_RELAY, LINK_A
from qsotn.domain import PartyId, Secret
from qsotn.errors import KeyShortage, LineError
from qsotn.parties.km import BlockState
from qsotn.quantum.failures import AuthenticationFailed, TooManyErrors
from qsotn.quantum.ledger import DistilledBlock
from qsotn.service import link_keys, twin
from qsotn.service.config import TlsSection, TwinLink
from qsotn.service.http.quantum_modules import _LEDGER_EXAMPLE, Block
from qsotn.service.identity_files import Credentialed
from qsotn.service.link_keys import AUTHENTICATION_BYTES, POOL_DEPTH, LinkStatus
from qsotn.service.twin import Fed, ModuleEnd

ENDS = (KM_A, KM_RELAY)
LINK = TwinLink(LINK_A, ENDS, TlsSection(*[Path("none")] * 6))
BLOCK_BYTES = 4096
HALF_BITS = BLOCK_BYTES * 8 // 2
"""What each end may allocate of one block."""

Fails = Callable[[PartyId, str, int], bool]
"""Whether a request, by its end, its path and how often that was asked, is lost: before or after it was served."""


class Unchanged:
    """Credentials that are never renewed."""

    def reload(self) -> None:
        """There is nothing to reload."""


@dataclass
class Rack:
    """One link's modules and both key managers."""

    world: World
    lost: Fails = lambda *_: False
    lost_answers: Fails = lambda *_: False
    asked: list[tuple[PartyId, str]] = field(default_factory=list)
    burned: dict[PartyId, list[bytes]] = field(default_factory=lambda: {end: [] for end in ENDS})
    distilled: list[int] = field(default_factory=list)
    authenticated: int = 0
    fails: Callable[[int], Exception | None] = lambda _: None
    fed: Fed = field(default_factory=lambda: Fed([LINK_A]))

    async def ask(self, peer: HttpPeer, method: str, path: str, body: Any, expected: int) -> bytes:
        """In the place of `HttpPeer.ask`: the same request, to the application."""
        what = path.rpartition("/")[2]
        self.asked.append((peer.party, what))
        times = self.asked.count((peer.party, what))
        if self.lost(peer.party, what, times):
            raise LineError("lost on the way")
        content = [] if body is None else [("content-type", "application/json")]
        application = application_of(self.world, peer.party)
        scope = scope_of(method, path, content, PartyId(f"qkd/{LINK_A}"))
        reply = await ask(application, scope, Incoming([b"" if body is None else msgspec.json.encode(body)]))
        if what == "exchanges" and reply.status == expected:
            self.burned[peer.party].append(reply.body)
        if self.lost_answers(peer.party, what, times):
            raise LineError("the answer was lost on the way")
        if reply.status != expected:
            raise LineError(f"{peer.party} answered {reply.status}")
        return reply.body

    def distil(self, link: str, number: int, key_a: bytes, key_b: bytes) -> tuple[Block, Block]:
        """In the place of `twin._distil`: authenticated by the keys that both ends burned, as an exchange is."""
        assert (link, len(key_a)) == (LINK_A, AUTHENTICATION_BYTES)
        self.distilled.append(number)
        failure = AuthenticationFailed("other keys") if key_a != key_b else self.fails(number)
        self.authenticated += key_a == key_b
        if failure is not None:
            raise failure
        block = Block(
            number, self.world.entropy(BLOCK_BYTES), self.world.entropy(AUTHENTICATION_BYTES), _LEDGER_EXAMPLE
        )
        return block, block

    def ends(self) -> tuple[ModuleEnd, ModuleEnd]:
        one, other = (ModuleEnd(LINK, km, ("none",), cast("Credentialed", Unchanged())) for km in ENDS)
        return one, other

    def status(self) -> list[tuple[int, int]]:
        """How both ends stand: what each may allocate, and its last exchange."""
        found = []
        for party in ENDS:
            with self.world.desk(party) as km:
                state = link_keys.status(km, LINK_A)
            found.append((state.available_bits, state.last_exchange))
        return found

    def feed(self, until: Callable[[], bool], fill_bits: int = HALF_BITS) -> None:
        """Feed the link until something holds; the key managers meanwhile say what they have to say."""

        async def story() -> None:
            with ThreadPoolExecutor(1) as pool:
                feeding = asyncio.create_task(twin._feed(LINK, self.ends(), fill_bits, cast("Any", pool), self.fed))
                while not until():
                    self.world.pump()
                    await asyncio.sleep(0.002)
                    if feeding.done():
                        feeding.result()
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

        run(story())
        for _ in range(20):
            self.world.pump()


@pytest.fixture
def rack(open_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> Iterator[Rack]:
    world = open_world("provisioned")
    for party in ENDS:
        connection = world.province.stores[party]._connection
        connection.execute("DELETE FROM records WHERE collection IN ('key-blocks', 'key-units', 'closed-blocks')")
    built = Rack(world)

    async def asks(peer: HttpPeer, *arguments: Any) -> bytes:
        return await built.ask(peer, *arguments)

    monkeypatch.setattr(HttpPeer, "ask", asks)
    monkeypatch.setattr(twin, "_distil", lambda *arguments: built.distil(*arguments))
    monkeypatch.setattr(twin, "LOOK_S", 0.01)
    monkeypatch.setattr(twin, "RETRY_S", 0.01)
    yield built
    for keys in built.burned.values():
        assert len(keys) == len(set(keys)), "an authentication key was given twice"


def filled(rack: Rack) -> bool:
    return rack.fed.readiness().ready


def agree(rack: Rack) -> None:
    """Both ends hold the same blocks, and each can take keys the other can name."""
    held = []
    for party in ENDS:
        with rack.world.desk(party) as km:
            blocks = [block for block in km.blocks.values(f"{LINK_A}/") if block.state is BlockState.AVAILABLE]
            held.append({block.number: km._whole(block).reveal() for block in blocks})
    assert held[0] == held[1]
    assert held[0]
    with rack.world.desk(KM_A) as km:
        taken, keys = km.allocate(LINK_A, 1, 256)
    with rack.world.desk(KM_RELAY) as km:
        place = f"{taken.link}/{taken.block:08}/{taken.unit:06}"
        assert km._unwrap(place).reveal() == keys[0].reveal()


# --- well -------------------------------------------------------------------------------------------------------------


def test_a_new_link_gets_its_first_keys_and_as_much_as_it_should_have(rack: Rack) -> None:
    assert rack.fed.readiness().reasons == (f"{LINK_A} has no keys yet",)
    rack.feed(lambda: filled(rack), fill_bits=2 * HALF_BITS)
    assert [what for _, what in rack.asked].count("first-keys") == 2
    assert rack.burned[KM_A] == rack.burned[KM_RELAY]
    assert all(bits >= 2 * HALF_BITS for bits, _ in rack.status())
    assert rack.distilled == list(range(1, len(rack.distilled) + 1))
    agree(rack)


def test_a_link_that_has_enough_is_left_alone_and_filled_again_when_it_has_not(rack: Rack) -> None:
    rack.feed(lambda: filled(rack))
    before = len(rack.distilled)
    looked = len(rack.asked) + 20
    rack.feed(lambda: len(rack.asked) > looked)
    assert len(rack.distilled) == before
    with rack.world.desk(KM_A) as km:
        while km.available_bits(LINK_A) >= HALF_BITS:
            km.allocate(LINK_A, 1, 256)
    rack.feed(lambda: len(rack.distilled) > before and min(bits for bits, _ in rack.status()) >= HALF_BITS)
    assert [what for _, what in rack.asked].count("first-keys") == 2
    assert rack.authenticated == len(rack.distilled)


def test_withheld_keys_carry_a_link_beyond_its_first_ones(rack: Rack) -> None:
    rack.feed(lambda: rack.status()[0][0] >= (POOL_DEPTH + 2) * HALF_BITS, fill_bits=(POOL_DEPTH + 2) * HALF_BITS)
    assert len(rack.distilled) > POOL_DEPTH
    assert rack.burned[KM_A] == rack.burned[KM_RELAY]


@pytest.mark.parametrize(
    ("last", "keys", "number"),
    [
        ((0, 0), ((1, 2), (1, 2)), 1),
        ((3, 3), ((4, 5), (4, 5)), 4),
        ((3, 4), ((4, 5), (5,)), 5),  # one end burned a key that the other still has
        ((3, 3), ((4, 6), (5, 6)), 6),  # each withheld a block that the other never got
        ((9, 3), ((4, 10), (4, 10)), 10),
    ],
)
def test_the_next_exchange_is_the_first_one_that_both_ends_have_a_key_for(
    last: tuple[int, int], keys: tuple[tuple[int, ...], tuple[int, ...]], number: int
) -> None:
    ends = [LinkStatus(LINK_A, 0, began, have) for began, have in zip(last, keys, strict=True)]
    assert link_keys.next_exchange(ends) == link_keys.next_exchange(ends[::-1]) == number


@pytest.mark.parametrize("keys", [((), ()), ((7,), ()), ((7,), (8,)), ((3,), (3,))])
def test_ends_that_share_no_key_any_more_have_no_next_exchange(keys: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(KeyShortage, match="install the link anew"):
        link_keys.next_exchange([LinkStatus(LINK_A, 0, 5, have) for have in keys])


# --- not well ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("served", [False, True], ids=["not served", "served without an answer"])
@pytest.mark.parametrize("what", ["first-keys", "exchanges", "blocks"])
def test_one_request_that_is_lost_leaves_no_end_with_other_keys_than_the_other(
    rack: Rack, what: str, served: bool, end: PartyId
) -> None:
    def first(party: PartyId, path: str, times: int) -> bool:
        return (party, path, times) == (end, what, 1)

    if served:
        rack.lost_answers = first
    else:
        rack.lost = first
    rack.feed(lambda: filled(rack))
    assert rack.authenticated == len(rack.distilled)
    assert all(bits >= HALF_BITS for bits, _ in rack.status())
    agree(rack)


def test_an_end_that_is_away_is_waited_for(rack: Rack) -> None:
    rack.lost = lambda party, _, __: party == KM_RELAY and len(rack.asked) < 12
    rack.feed(lambda: filled(rack))
    agree(rack)


@pytest.mark.parametrize("failure", [TooManyErrors("someone measures the light"), AuthenticationFailed("tampered")])
def test_a_block_that_fails_costs_a_key_and_the_next_one_is_distilled(rack: Rack, failure: Exception) -> None:
    rack.fails = lambda number: failure if number == 1 else None
    rack.feed(lambda: filled(rack))
    assert rack.distilled[:2] == [1, 2]
    with rack.world.desk(KM_A) as km:
        assert min(block.number for block in km.blocks.values(f"{LINK_A}/")) == 2
    agree(rack)


def test_blocks_that_fail_leave_gaps_among_the_keys_and_the_link_goes_on_beyond_them(rack: Rack) -> None:
    """An exchange that gave no block withheld no key: that of `POOL_DEPTH` exchanges later is at neither end."""
    rack.fails = lambda number: TooManyErrors("light") if number in (1, 3) else None
    rack.lost = lambda _, what, times: (what, times) == ("blocks", 4)
    rack.feed(lambda: len(rack.distilled) > POOL_DEPTH + 4, fill_bits=(POOL_DEPTH + 8) * HALF_BITS)
    assert not {POOL_DEPTH + 1, POOL_DEPTH + 3} & set(rack.distilled)
    assert rack.authenticated == len(rack.distilled)
    agree(rack)


def test_a_link_that_used_up_its_keys_says_so_and_burns_no_more(rack: Rack) -> None:
    rack.fails = lambda _: TooManyErrors("someone measures the light")
    with capture_logs() as logs:
        rack.feed(lambda: any("install the link anew" in one.get("reason", "") for one in logs))
    assert rack.distilled == list(range(1, POOL_DEPTH + 1))
    assert not rack.fed.readiness().ready


def test_a_twin_that_is_killed_and_started_again_goes_on_with_the_next_number(rack: Rack) -> None:
    """Killed between the two ends of an exchange: one end burned a key that the other still has."""
    rack.lost = lambda party, what, times: (party, what, times) == (KM_RELAY, "exchanges", 1)
    rack.feed(lambda: rack.status()[0][1] == 1)
    rack.lost = lambda *_: False
    rack.fed = Fed([LINK_A])
    rack.feed(lambda: filled(rack))
    assert rack.distilled[0] == 2
    assert [last for _, last in rack.status()] == [rack.distilled[-1]] * 2
    agree(rack)


def test_a_defect_of_the_twin_itself_is_not_hidden(rack: Rack) -> None:
    rack.fails = lambda _: ZeroDivisionError("a defect")
    with pytest.raises(ZeroDivisionError):
        rack.feed(lambda: False)


def test_an_end_that_answers_with_something_else_is_a_line_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nonsense(*_: Any) -> bytes:
        return b'{"number": 1, "key": "' + b"QUFB" * 3 + b'"}'

    monkeypatch.setattr(HttpPeer, "ask", nonsense)
    end = ModuleEnd(LINK, KM_A, ("none",), cast("Credentialed", Unchanged()))
    for asking in (end.status(), end.begin(1)):
        with pytest.raises(LineError, match=f"{KM_A} answered something else") as caught:
            run(asking)
        assert "QUFB" not in str(caught.value)


def test_what_is_distilled_is_brought_to_the_end_it_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_distil` itself, but for the light: Alice's outcome is the first end's."""

    def without_light(_: object, link: str, number: int, *rest: Any) -> tuple[DistilledBlock, DistilledBlock]:
        assert [key.reveal() for key in rest[-1]] == [b"a" * 64, b"b" * 64]
        ledger = msgspec.structs.replace(_LEDGER_EXAMPLE, link=link, block=number)
        return tuple(  # type: ignore[return-value]  # of two
            DistilledBlock(key=Secret(name * 64), next_authentication=Secret(name.upper() * 64), ledger=ledger)
            for name in (b"a", b"b")
        )

    monkeypatch.setattr("qsotn.quantum.link.distil_block", without_light)
    one, other = twin._distil(LINK_A, 7, b"a" * 64, b"b" * 64)
    assert [(block.number, block.key, block.withheld) for block in (one, other)] == [
        (7, b"a" * 64, b"A" * 64),
        (7, b"b" * 64, b"B" * 64),
    ]
    assert one.ledger.link == LINK_A
