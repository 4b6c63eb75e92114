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

from qsotn.adapters.transport.http import Declined, HttpPeer
from qsotn.app.province import KM_A, KM_RELAY, LINK_A
from qsotn.domain import PartyId, Secret
from qsotn.errors import KeyShortage, LineError, UsageError
from qsotn.keynetwork.widths import BARRED_QBER
from qsotn.parties.km import BlockState
from qsotn.parties.link_totals import quality, totals
from qsotn.quantum.failures import AuthenticationFailed, TooManyErrors, VerificationFailed
from qsotn.quantum.ledger import DistilledBlock
from qsotn.service import link_keys, twin, twin_watch
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
    intercepted: float = 0.0
    measured: int = 0

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
            raise Declined(f"{peer.party} answered {reply.status}", reply.status)
        return reply.body

    def distil(self, link: str, number: int, key_a: bytes, key_b: bytes, intercepted: float) -> tuple[Block, Block]:
        """In the place of `twin._distil`: authenticated by the keys that both ends burned, as an exchange is."""
        assert (link, len(key_a)) == (LINK_A, AUTHENTICATION_BYTES)
        self.distilled.append(number)
        light = TooManyErrors("errors", intercepted / 4) if intercepted / 4 > BARRED_QBER else None
        failure = AuthenticationFailed("other keys") if key_a != key_b else self.fails(number) or light
        self.authenticated += key_a == key_b
        if failure is not None:
            raise failure
        block = Block(
            number, self.world.entropy(BLOCK_BYTES), self.world.entropy(AUTHENTICATION_BYTES), _LEDGER_EXAMPLE
        )
        return block, block

    def measure(self, intercepted: float) -> float | None:
        """In the place of `twin._measure`: what an eavesdropper adds to the errors, or no light at all."""
        self.measured += 1
        return None if intercepted == 1 else intercepted / 4

    def light(self) -> list[tuple[float | None, bool]]:
        """What both ends were told of the light."""
        found = []
        for party in ENDS:
            with self.world.desk(party) as km:
                told = quality(km, LINK_A, totals(km, LINK_A))
            found.append((told.error_rate, bool(told.distils)))
        return found

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
                feeding = asyncio.create_task(
                    twin._feed(LINK, self.ends(), fill_bits, cast("Any", pool), self.fed, lambda _: self.intercepted)
                )
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
    monkeypatch.setattr(twin, "_measure", lambda *arguments: built.measure(*arguments))
    monkeypatch.setattr(twin_watch, "MEASURE_S", 0.02)
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
    rack.fails = lambda number: VerificationFailed("not reconciled") if number in (1, 3) else None
    rack.lost = lambda _, what, times: (what, times) == ("blocks", 4)
    rack.feed(lambda: len(rack.distilled) > POOL_DEPTH + 4, fill_bits=(POOL_DEPTH + 8) * HALF_BITS)
    assert not {POOL_DEPTH + 1, POOL_DEPTH + 3} & set(rack.distilled)
    assert rack.authenticated == len(rack.distilled)
    agree(rack)


def test_a_link_that_used_up_its_keys_says_so_and_burns_no_more(rack: Rack) -> None:
    rack.fails = lambda _: VerificationFailed("not reconciled")
    with capture_logs() as logs:
        rack.feed(lambda: any("install the link anew" in one.get("reason", "") for one in logs))
    assert rack.distilled == list(range(1, POOL_DEPTH + 1))
    assert not rack.fed.readiness().ready


# --- the light --------------------------------------------------------------------------------------------------------


def test_a_link_that_rests_is_measured_and_both_ends_are_told(rack: Rack) -> None:
    rack.feed(lambda: filled(rack))
    exchanges, rack.intercepted = len(rack.distilled), 0.1
    rack.feed(lambda: rack.light() == [(0.025, True)] * 2)
    rack.intercepted = 1.0
    rack.feed(lambda: rack.light() == [(None, False)] * 2)
    rack.intercepted = 0.0
    rack.feed(lambda: rack.light() == [(0.0, True)] * 2)
    assert len(rack.distilled) == exchanges, "no authentication key was spent"
    agree(rack)


def test_an_exchange_that_an_eavesdropper_spoilt_is_told_and_costs_one_key_until_the_light_is_better(
    rack: Rack,
) -> None:
    rack.intercepted, seen = 0.4, list[tuple[float | None, bool]]()

    def stage() -> bool:
        """The attack, a weaker one, and none: each until the light was measured a few times."""
        if rack.measured >= 3 and rack.intercepted:
            assert rack.distilled == [1], "light is measured instead, which costs no key"
            seen.extend(set(rack.light()))
            rack.measured, rack.intercepted = 0, 0.35 if rack.intercepted == 0.4 else 0.0
        return filled(rack)

    rack.feed(stage)
    assert seen == [(0.1, False), (0.0875, False)]
    assert rack.distilled[:2] == [1, 2]
    assert [told for _, told in rack.light()] == [True] * 2
    agree(rack)


def test_the_eavesdropper_of_the_twins_folder_raises_the_errors_of_one_link(tmp_path: Path) -> None:
    """With real light: measured, and an exchange that fails."""
    file = tmp_path / twin_watch.EAVESDROPPERS
    taps = twin_watch.Eavesdroppers(file)
    assert taps.fraction(LINK_A) == 0
    file.write_text(f'"{LINK_A}" = 0.4\n')
    assert (taps.fraction(LINK_A), taps.fraction("another")) == (0.4, 0.0)
    quiet, raised = twin._measure(), twin._measure(0.4)
    assert quiet is not None
    assert raised is not None
    assert quiet < 0.02 < BARRED_QBER < raised < 0.13
    with pytest.raises(TooManyErrors) as failed:
        twin._distil(LINK_A, 1, bytes(AUTHENTICATION_BYTES), bytes(AUTHENTICATION_BYTES), 0.4)
    assert failed.value.error_rate == pytest.approx(0.105, abs=0.02)


@pytest.mark.parametrize("text", ["no toml", '"a" = "b"', f'"{LINK_A}" = 1.5', f'"{LINK_A}" = nan'])
def test_a_file_of_eavesdroppers_that_is_none_is_told_and_no_link_is_fed_by_guess(tmp_path: Path, text: str) -> None:
    file = tmp_path / twin_watch.EAVESDROPPERS
    file.write_text(text)
    with pytest.raises(UsageError, match=twin_watch.EAVESDROPPERS):
        twin_watch.Eavesdroppers(file).fraction(LINK_A)


def test_exchanges_that_give_no_key_are_tried_again_after_pauses_that_double() -> None:
    now = [0.0]
    watch = twin_watch.LinkWatch(lambda: now[0])

    def worth_a_key() -> bool:
        return watch.is_worth_a_key

    waits = []
    for _ in range(12):
        watch.gave_nothing(0.06)
        before = now[0]
        while not worth_a_key():
            now[0] += 1
        waits.append(now[0] - before)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


def test_an_exchange_is_tried_again_at_once_when_the_light_is_clearly_better() -> None:
    watch = twin_watch.LinkWatch(lambda: 0.0)
    seen = []
    watch.gave_nothing(0.06)
    for measured in (0.05, None, 0.09, 0.045):
        watch.measured(measured)
        seen.append(watch.is_worth_a_key)
    assert seen == [False, False, False, True]
    watch.distilled()
    watch.gave_nothing(None)
    seen = [watch.is_worth_a_key]
    watch.measured(0.01)
    assert [*seen, watch.is_worth_a_key] == [False, True]


def test_a_block_is_brought_again_until_both_ends_have_it(rack: Rack) -> None:
    rack.lost = lambda party, what, times: (party, what) == (KM_RELAY, "blocks") and times < 5
    with capture_logs() as logs:
        rack.feed(lambda: filled(rack))
    assert [one["event"] for one in logs].count("a block is brought again") == 4
    for party in ENDS:
        with rack.world.desk(party) as km:
            assert km.block(LINK_A, 1).state is BlockState.AVAILABLE
    agree(rack)


def test_a_block_that_an_end_declines_is_not_brought_again(rack: Rack) -> None:
    """A later exchange began there meanwhile, so that the other end may have been told that it never came."""

    def passed_over(party: PartyId, what: str, times: int) -> bool:
        first = (party, what, times) == (KM_RELAY, "blocks", 1)
        if first:
            with rack.world.desk(KM_RELAY) as km:
                link_keys.begin_exchange(km, LINK_A, 2)
        return first

    rack.lost = passed_over
    with capture_logs() as logs:
        rack.feed(lambda: filled(rack))
    assert [one["reason"] for one in logs if one["event"] == "link not fed"] == ["km/weifang answered 409"]
    assert rack.distilled[:2] == [1, 3]
    with rack.world.desk(KM_A) as km:
        assert km.block(LINK_A, 1).state is BlockState.DISCARDED
    agree(rack)


def test_an_end_that_is_away_for_long_is_not_waited_for_with_the_same_block(
    rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twin, "BROUGHT_S", 0.03)
    rack.lost = lambda party, what, _: (party, what) == (KM_RELAY, "blocks") and len(rack.distilled) < 2
    rack.feed(lambda: filled(rack))
    assert rack.distilled[:2] == [1, 2]
    agree(rack)


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

    def without_light(
        _: object, link: str, number: int, *rest: Any, attack: object
    ) -> tuple[DistilledBlock, DistilledBlock]:
        assert attack is None
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
