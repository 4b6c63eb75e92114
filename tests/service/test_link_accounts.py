"""No block of a link is forgotten: whoever dies between the two ends' copies, both agree on it or both write it off.

The modules' side is `link_keys` as the twin asks it; the key managers are real ones, with a wire between them that a
test may cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from tests.service.http.driver import Client, application_of
from tests.world import Crash, Sent, World

from qsotn.app.operator_keys import KeyStatus, LinkEnd, TwinStatus
from qsotn.app.province import KM_A, KM_RELAY, LINK_A
from qsotn.console.key import _lines
from qsotn.domain import PartyId, Secret
from qsotn.errors import KeyReuse, LineError, OutOfOrder, QsotnError, Refusal
from qsotn.parties.km import Allocation, BlockState, Km
from qsotn.parties.km_losses import LinkLosses, losses, lost_blocks, withdrawals
from qsotn.parties.link_totals import LinkTotals, totals
from qsotn.procedures import block_account
from qsotn.procedures.block_account import EXPIRES_US, look_after_blocks
from qsotn.procedures.turn import Work
from qsotn.service import link_keys
from qsotn.service.http.quantum_modules import _LEDGER_EXAMPLE
from qsotn.service.link_keys import AUTHENTICATION_BYTES, POOL_DEPTH

ENDS = (KM_A, KM_RELAY)
UNITS = 32
LOOK_US = 10_000_000
STEPS = [("begin", KM_A), ("begin", KM_RELAY), ("deposit", KM_A), ("deposit", KM_RELAY)]
"""What the modules ask for one block, in their order."""


@dataclass
class Link:
    """One link without light, and what its modules hold of it."""

    world: World
    cut: bool = False
    blocks: dict[int, tuple[Secret, Secret]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = [Secret(self.world.entropy(AUTHENTICATION_BYTES)) for _ in range(POOL_DEPTH)]
        for party in ENDS:
            self.world.begin(party, lambda km, _: link_keys.install(km, LINK_A, keys))

        def before(sent: Sent) -> None:
            if self.cut and {sent.sender, sent.hop} == {*ENDS}:
                raise LineError("the fibre of the data network is cut")

        self.world.wire.before = before

    def block(self, number: int) -> tuple[Secret, Secret]:
        drawn = self.world.entropy
        return self.blocks.setdefault(number, (Secret(drawn(UNITS * 32)), Secret(drawn(AUTHENTICATION_BYTES))))

    def ask(self, what: str, party: PartyId, number: int, block: Secret | None = None) -> None:
        key, withheld = self.block(number)

        def order(km: Km, work: Work) -> None:
            if what == "begin":
                link_keys.begin_exchange(km, LINK_A, number)
            else:
                link_keys.deposit(km, work, LINK_A, number, block or key, _LEDGER_EXAMPLE, withheld)

        self.world.nodes[party].begin(order)

    def feed(self, number: int, steps: int = len(STEPS)) -> None:
        """Do the first steps for a block; then the modules are killed."""
        for what, party in STEPS[:steps]:
            self.ask(what, party, number)

    # --- time -------------------------------------------------------------------------------------------------------

    def look(self, times: int = 1) -> None:
        """Let time pass, with both key managers looking after their blocks as their services do."""
        for _ in range(times):
            self.world.clock.advance(LOOK_US)
            for party in ENDS:
                self.world.nodes[party].begin(look_after_blocks)
                self.world.nodes[party].tick()
            for _ in range(4):
                self.world.pump()

    def wait(self, microseconds: int) -> None:
        """Let a long time pass, with a few looks in it."""
        for _ in range(4):
            self.world.clock.advance(microseconds // 4)
            self.look(2)

    # --- what both have ---------------------------------------------------------------------------------------------

    def states(self, number: int) -> tuple[BlockState | None, BlockState | None]:
        one, other = (self.at(party, lambda km: _state(km, number)) for party in ENDS)
        return one, other

    def at(self, party: PartyId, function: Callable[[Km], Any]) -> Any:
        with self.world.desk(party) as km:
            return function(km)

    def lost(self, party: PartyId) -> dict[int, int]:
        """The units that were written off, by block."""
        found: dict[int, int] = self.at(
            party, lambda km: {one.number: one.units for one in lost_blocks(km.desk).values()}
        )
        return found

    def totals(self, party: PartyId) -> LinkTotals:
        found: LinkTotals = self.at(party, lambda km: totals(km, LINK_A))
        return found

    def settled(self, number: int) -> bool:
        """Check that both ends agree on a block, or neither will ever use it and each that had it has an account."""
        states = self.states(number)
        if states == (BlockState.AVAILABLE,) * 2:
            assert not any(number in self.lost(party) for party in ENDS)
            return True
        for party, state in zip(ENDS, states, strict=True):
            assert state in (None, BlockState.DISCARDED), states
            assert (state is not None) == (number in self.lost(party))
            assert self.at(party, lambda km: list(km.desk.transaction.scan("key-units", f"{LINK_A}/{number:08}"))) == []
        return False


def _state(km: Km, number: int) -> BlockState | None:
    return km.block(LINK_A, number).state if km.has_block(LINK_A, number) else None


def use_up(km: Km) -> None:
    """Take all of this end's half, whoever it is for."""
    block = km.block(LINK_A, 1)
    km._allocated(block, km._own_half(block))


@pytest.fixture
def link(open_world: Callable[..., World]) -> Link:
    world = open_world("provisioned")
    for party in ENDS:
        connection = world.province.stores[party]._connection
        connection.execute("DELETE FROM records WHERE collection IN ('key-blocks', 'key-units', 'block-proofs')")
    return Link(world)


# --- the modules die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
def test_wherever_the_modules_die_the_next_exchange_settles_the_block_before(link: Link, steps: int) -> None:
    link.feed(1, steps)
    link.look(2)
    link.feed(2)
    link.look(12)
    assert link.settled(1) == (steps == len(STEPS))
    assert link.settled(2)


@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
def test_and_without_a_next_exchange_it_is_written_off_after_its_time(link: Link, steps: int) -> None:
    link.feed(1, steps)
    link.wait(EXPIRES_US // 2)
    if steps == 3:
        assert link.states(1) == (BlockState.PENDING, None), "the modules may bring it yet"
    link.wait(EXPIRES_US)
    assert link.settled(1) == (steps == len(STEPS))


def test_a_copy_that_only_the_second_end_has_is_settled_too(link: Link) -> None:
    """Who tells the other first is the end whose name sorts first: this one never gets anything to tell."""
    link.feed(1, 2)
    link.ask("deposit", KM_RELAY, 1)
    link.look(5)
    assert link.states(1) == (None, BlockState.PENDING)
    link.feed(2)
    link.look(8)
    assert not link.settled(1)
    assert link.lost(KM_RELAY) == {1: UNITS}


def test_what_comes_late_to_one_end_is_agreed_on_as_if_it_had_come_at_once(link: Link) -> None:
    link.feed(1, 3)
    link.wait(EXPIRES_US // 2)
    link.ask("deposit", KM_RELAY, 1)
    link.look(8)
    assert link.settled(1)


def test_the_same_copy_again_changes_nothing_and_another_one_is_refused(link: Link) -> None:
    link.feed(1)
    link.look(2)
    link.at(KM_A, lambda km: km.allocate(LINK_A, 1, 256))
    before = link.world.dump(KM_A)
    link.ask("deposit", KM_A, 1)
    assert link.world.dump(KM_A) == before
    with pytest.raises(Refusal, match="was deposited at km/jinan before"):
        link.ask("deposit", KM_A, 1, Secret(bytes(UNITS * 32)))


def test_a_withheld_key_that_was_burned_does_not_come_back_with_its_block(link: Link) -> None:
    link.feed(1)
    later = POOL_DEPTH + 1
    for party in ENDS:
        link.ask("begin", party, later)
    link.ask("deposit", KM_A, 1)
    with pytest.raises(Refusal, match="is not after"):
        link.ask("begin", KM_A, later)


def test_a_copy_that_comes_after_a_later_exchange_began_is_refused(link: Link) -> None:
    link.feed(1, 3)
    link.feed(2, 2)
    with pytest.raises(Refusal, match=r"a later exchange of .* has begun") as refused:
        link.ask("deposit", KM_RELAY, 1)
    assert refused.value.code == "PASSED_OVER"


# --- a key manager dies ---------------------------------------------------------------------------------------------


def transactions(link: Link, party: PartyId, at: int = -1, moment: str = "") -> int:
    """Feed a block and let both ends agree; kill a key manager at one of its transactions, and count them.

    The modules bring again what they got no answer for, as the twin does.
    """
    seen = 0

    def fuse(who: PartyId, when: str) -> None:
        nonlocal seen
        seen += when == "before COMMIT"
        if (seen - 1, when) == (at, moment):
            raise Crash(who, when)

    store: Any = link.world.nodes[party]._store
    store._fuse = fuse
    for what, end in STEPS:
        try:
            link.ask(what, end, 1)
        except Crash as crash:
            link.world.restart(crash.party)
            if what == "begin":
                return seen  # this exchange is lost; nothing was distilled
            link.ask(what, end, 1)
    for _ in range(4):
        link.world.pump()
    return seen


def test_wherever_a_key_manager_dies_both_ends_agree_in_the_end(open_world: Callable[..., World]) -> None:
    def fresh() -> Link:
        world = open_world("provisioned")
        for party in ENDS:
            connection = world.province.stores[party]._connection
            connection.execute("DELETE FROM records WHERE collection IN ('key-blocks', 'key-units', 'block-proofs')")
        return Link(world)

    killed = 0
    for party in ENDS:
        for at in range(transactions(fresh(), party)):
            for moment in ("before COMMIT", "after COMMIT"):
                link = fresh()
                transactions(link, party, at, moment)
                killed += link.world.crashes
                link.look(6)
                begun = [link.at(end, lambda km: link_keys.last_exchange(km, LINK_A)) for end in ENDS]
                assert link.settled(1) == (begun == [1, 1] and None not in link.states(1))
    assert killed >= 20


# --- the ends cannot reach each other -------------------------------------------------------------------------------


def test_ends_that_were_apart_for_less_than_its_time_agree_when_they_meet_again(link: Link) -> None:
    link.cut = True
    link.feed(1)
    link.wait(EXPIRES_US // 2)
    assert link.states(1) == (BlockState.PENDING,) * 2
    link.cut = False
    link.look(8)
    assert link.settled(1)


def test_ends_that_were_apart_for_longer_both_write_it_off(link: Link) -> None:
    link.cut = True
    link.feed(1)
    link.wait(2 * EXPIRES_US)
    assert not link.settled(1)
    for party in ENDS:
        (account,) = link.at(party, lambda km: list(lost_blocks(km.desk).values()))
        assert (account.units, account.reason) == (UNITS, f"{_far(party)} did not agree on it within 3600 s")
    link.cut = False
    link.wait(EXPIRES_US)
    assert [link.at(party, lambda km: list(withdrawals(km.desk).items())) for party in ENDS] == [[], []]


def test_an_operator_is_shown_what_waits_and_what_was_written_off(link: Link) -> None:
    def shown() -> tuple[int, float, int, int]:
        reply = Client(application_of(link.world, KM_A))("GET", "/operations/v1/links")
        (told,) = (one for one in reply.json()["items"] if one["link"] == LINK_A)
        return told["pending_blocks"], told["pending_s"], told["lost_blocks"], told["lost_bits"]

    link.cut = True
    link.feed(1)
    link.world.clock.advance(90_000_000)
    assert shown() == (1, 90.0, 0, 0)
    link.wait(2 * EXPIRES_US)
    assert shown() == (0, 0.0, 1, UNITS * 256)
    end = LinkEnd(LINK_A, KM_A, KM_RELAY, 0, 24576, 1, 0, UNITS * 256)
    lines = list(_lines(KeyStatus(TwinStatus(True, "", 24576), (end,), (), (), ())))
    assert any("bits written off" in line and "8,192" in line for line in lines)


def _far(party: PartyId) -> PartyId:
    return ENDS[1] if party == ENDS[0] else ENDS[0]


def agreed_at_one_end(link: Link) -> None:
    """The far end agrees, and its word does not arrive."""
    link.feed(1)
    link.world.nodes[KM_A].flush(link.world.wire)
    assert link.states(1) == (BlockState.PENDING, BlockState.AVAILABLE)
    link.cut = True


def test_one_end_that_agreed_alone_is_not_left_with_the_block(link: Link) -> None:
    agreed_at_one_end(link)
    link.at(KM_RELAY, lambda km: km.allocate(LINK_A, 2, 256))
    link.wait(2 * EXPIRES_US)
    assert link.states(1) == (BlockState.DISCARDED, BlockState.AVAILABLE), "nobody could tell it"
    link.cut = False
    link.wait(EXPIRES_US // 4)
    assert not link.settled(1)
    assert (link.lost(KM_A), link.lost(KM_RELAY)) == ({1: UNITS}, {1: UNITS - 2})
    assert [link.totals(party).agreed_units for party in ENDS] == [0, 0], "the ends do not disagree for good"
    assert link.totals(KM_RELAY).drawn_units == 2
    assert [(one.lost_blocks, one.lost_units) for one in map(link.totals, ENDS)] == [(1, UNITS), (1, UNITS - 2)]


def test_one_end_that_agreed_alone_says_so_again_though_it_used_the_block_meanwhile(link: Link) -> None:
    agreed_at_one_end(link)
    link.at(KM_RELAY, use_up)
    link.wait(EXPIRES_US // 2)
    link.cut = False
    link.look(8)
    assert link.settled(1)


def test_a_block_that_was_used_up_and_counted_can_still_be_withdrawn(link: Link) -> None:
    agreed_at_one_end(link)
    link.at(KM_RELAY, use_up)
    assert (link.totals(KM_RELAY).summed, link.totals(KM_RELAY).agreed_units) == (1, UNITS)
    link.wait(2 * EXPIRES_US)
    link.cut = False
    link.wait(EXPIRES_US // 4)
    assert (link.totals(KM_RELAY).agreed_units, link.totals(KM_RELAY).drawn_units) == (0, UNITS // 2)
    assert link.at(KM_RELAY, lambda km: losses(km.desk).get(LINK_A)) == LinkLosses(
        1, UNITS // 2, UNITS, link.at(KM_RELAY, lambda km: lost_blocks(km.desk).require(f"{LINK_A}/00000001").at)
    )


def test_units_of_a_block_that_the_far_end_wrote_off_are_refused_and_hang_nothing(link: Link) -> None:
    agreed_at_one_end(link)
    taken, _ = link.at(KM_RELAY, lambda km: km.allocate(LINK_A, 1, 256))
    link.wait(2 * EXPIRES_US)
    with pytest.raises(Refusal, match="was discarded at km/jinan"):
        link.at(KM_A, lambda km: km.take_units(Allocation(taken.link, taken.block, taken.unit, 1), KM_RELAY))


# --- copies that differ ---------------------------------------------------------------------------------------------


def test_copies_that_differ_are_written_off_at_both_ends_with_the_reason(link: Link) -> None:
    link.feed(1, 3)
    link.ask("deposit", KM_RELAY, 1, Secret(bytes(UNITS * 32)))
    link.look(2)
    assert not link.settled(1)
    for party in ENDS:
        (account,) = link.at(party, lambda km: list(lost_blocks(km.desk).values()))
        assert account.reason == f"BLOCK_MISMATCH: {KM_A} holds another block 1 of {LINK_A}"


def test_an_end_whose_agreement_is_refused_hears_of_it_however_long_it_was_away(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It agreed, and did not prove that it holds the block: it is not believed, and must not use it."""
    with monkeypatch.context() as lying:
        proves = Km.prove_block
        lying.setattr(Km, "prove_block", lambda km, one: proves(km, one)[:: -1 if km.desk.party == KM_RELAY else 1])
        link.feed(1)
        link.world.nodes[KM_A].flush(link.world.wire)
        link.world.nodes[KM_RELAY].flush(link.world.wire)
    assert link.states(1) == (BlockState.DISCARDED, BlockState.AVAILABLE)
    link.cut = True
    link.wait(2 * EXPIRES_US)
    link.cut = False
    link.wait(EXPIRES_US // 4)
    assert not link.settled(1)


def test_a_stranger_cannot_withdraw_a_block(link: Link) -> None:
    from qsotn.messages import BlockWithdrawal

    link.feed(1)
    link.look(2)
    message = BlockWithdrawal(LINK_A, 1, "because")
    turn: Any = type("Turn", (), {"message": message, "sender": PartyId("km/qingdao")})()
    with pytest.raises(QsotnError, match="is not the far end"):
        link.at(KM_RELAY, lambda km: block_account.write_off_withdrawn(km, turn))
    assert link.settled(1)


# --- blocks of an older release -------------------------------------------------------------------------------------


def test_a_block_of_an_older_release_is_agreed_on_by_its_units(link: Link) -> None:
    link.cut = True
    link.feed(1)
    for party in ENDS:
        connection = link.world.province.stores[party]._connection
        connection.execute("DELETE FROM records WHERE collection = 'block-proofs'")
        link.at(
            party, lambda km: km.blocks.put(f"{LINK_A}/00000001", msgspec.structs.replace(km.block(LINK_A, 1), at=0))
        )
    link.cut = False
    link.look(5)
    assert link.settled(1)


def test_a_number_that_was_closed_takes_in_nothing_more(link: Link) -> None:
    link.feed(1)
    link.look(2)
    link.at(KM_A, use_up)
    link.at(KM_A, lambda km: km.blocks.delete(f"{LINK_A}/00000001"))
    with pytest.raises(KeyReuse):
        link.at(KM_A, lambda km: km.deposit(LINK_A, 1, Secret(bytes(1024)), {}))


def test_an_offer_waits_for_a_copy_that_may_yet_come(link: Link) -> None:
    link.feed(1, 3)
    with pytest.raises(OutOfOrder):
        link.at(KM_RELAY, lambda km: km.block(LINK_A, 1))
    link.look(3)
    assert link.world.nodes[KM_RELAY].rejections["OutOfOrder"] > 0
    assert not link.at(KM_A, lambda km: list(lost_blocks(km.desk).values()))
