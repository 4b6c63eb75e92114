"""A key manager that lies about a supply is found and named, and no wrong key reaches anybody.

Each story ends the same way: no end was given the batch, every hop destroyed its part and kept an account, nothing of
the bits is left anywhere, and the origin's record names who lied, for what, and on which link. Where the evidence does
not part two neighbours, both are named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.procedures.key_network import CHAIN, MODES, A, B, C, D, E, Network, link_of, same_units
from tests.procedures.liars import flipped, passes_other_bits, refuse_everything
from tests.world import Sent

from qsotn.domain import PartyId, ProcedureId, Secret
from qsotn.errors import LineError, Refusal
from qsotn.interfaces import Seat
from qsotn.keynetwork import provenance
from qsotn.keynetwork.delivery import Pool
from qsotn.keynetwork.inquest import Charge, Finding, Outcome
from qsotn.keynetwork.relay import Mode, hindrance
from qsotn.messages import (
    BatchAcceptance,
    BatchConfirmation,
    InquestRequest,
    InquestTestimony,
    PoolReceipt,
    PoolRelay,
    ProcedureRefusal,
)
from qsotn.parties import km_pool
from qsotn.procedures import inquest, pool_supply
from qsotn.procedures.turn import Row, Turn

Patch = pytest.MonkeyPatch
replace = msgspec.structs.replace
PATH = (A, B, C, D)


def nobody_has_it(network: Network) -> None:
    assert all("batch" not in deposits for deposits in network.deposits.values())
    assert network.bits_kept() == {}
    assert not any(state in ("PASSED_ON", "HELD", "ARRIVED") for state in network.states())
    assert network.batch().state == "FAILED"


def named(network: Network, *findings: tuple[tuple[PartyId, ...], Charge, str]) -> None:
    nobody_has_it(network)
    assert network.batch().findings == tuple(Finding(*one) for one in findings)


def supply(network: Network, mode: Mode = Mode.ONE_TIME_PAD, **how: Any) -> None:
    """Supply over the whole chain, and let everybody run out of time where something is missing."""
    wanted: dict[str, Any] = {"paths": (PATH,), "lifetime": 30_000_000, "mode": mode}
    network.supply(**(wanted | how))
    network.run(100)


def accuses(patch: Patch, liar: PartyId) -> None:
    """It says that what it was sent is not what the origin committed to."""
    honest = pool_supply._uncovered

    def lying(km: Any, asked: PoolRelay, chain: Any, pad: Secret) -> Secret:
        if km.desk.party == liar:
            raise Refusal("KEY_MISMATCH", hindrance(asked.link, liar, "wrong bits"))
        return honest(km, asked, chain, pad)

    patch.setattr(pool_supply, "_uncovered", lying)


# --- other links ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [(), (PATH,)], ids=["own routes", "a path"])
@pytest.mark.parametrize(("code", "goes_on"), [("KEY_SHORTAGE", "KEY_SHORTAGE"), ("LINK_BARRED", "NO_ROUTE")])
def test_one_that_refuses_for_a_link_behind_is_corrected_by_the_one_before(
    chain: Network, monkeypatch: Patch, paths: Any, code: str, goes_on: str
) -> None:
    honest = pool_supply._next_hop

    def lying(km: Any, *asked: Any) -> tuple[str, PartyId]:
        if km.desk.party == C:
            raise Refusal(code, hindrance(link_of(A, B), C, "too few"))
        return honest(km, *asked)

    monkeypatch.setattr(pool_supply, "_next_hop", lying)
    supply(chain, paths=paths)
    nobody_has_it(chain)
    wrong = "km/c named 'a-b', which is not ahead on the way"
    assert (chain.batch().code, chain.batch().link) == (goes_on, link_of(B, C))
    assert chain.batch().detail == hindrance(link_of(B, C), B, wrong)
    assert [name.split()[0] for name, one in chain.rows().items() if one == f"FAILED {code}: {wrong}"] == [B]


# --- other bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("liar", "after"), [(B, C), (C, D)])
def test_a_relay_that_passes_on_other_bits_is_found_by_the_next_one_and_named(
    chain: Network, monkeypatch: Patch, liar: PartyId, after: PartyId, mode: Mode
) -> None:
    passes_other_bits(monkeypatch, liar)
    supply(chain, mode)
    assert chain.batch().code == "KEY_MISMATCH"
    assert chain.batch().link == link_of(liar, after)
    named(chain, ((liar,), Charge.PASSED_OTHER_BITS, link_of(liar, after)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("before", "liar"), [(B, C), (C, D)])
def test_one_that_accuses_an_honest_neighbour_is_named_itself(
    chain: Network, monkeypatch: Patch, before: PartyId, liar: PartyId, mode: Mode
) -> None:
    accuses(monkeypatch, liar)
    supply(chain, mode)
    named(chain, ((liar,), Charge.ACCUSED_FALSELY, link_of(before, liar)))


def test_the_first_relay_accuses_the_origin_which_knows_better(chain: Network, monkeypatch: Patch) -> None:
    accuses(monkeypatch, B)
    supply(chain)
    named(chain, ((B,), Charge.ACCUSED_FALSELY, link_of(A, B)))


@pytest.mark.parametrize(
    ("liar", "other_end", "field", "finding"),
    [
        (B, C, "pad_out", ((B, C), Charge.LINK_DISAGREES)),
        (C, D, "pad_out", ((C, D), Charge.LINK_DISAGREES)),
    ],
)
def test_one_that_lies_about_the_bits_of_the_link_too_is_named_with_its_neighbour(
    chain: Network, monkeypatch: Patch, liar: PartyId, other_end: PartyId, field: str, finding: Any
) -> None:
    passes_other_bits(monkeypatch, liar)

    def bent(told: InquestTestimony) -> InquestTestimony:
        return replace(told, testimony=replace(told.testimony, **{field: flipped(getattr(told.testimony, field))}))

    assert chain.lie(liar, InquestTestimony, bent) == []
    supply(chain)
    named(chain, (*finding, link_of(liar, other_end)))


def test_one_that_shows_no_bits_is_named_for_that(chain: Network, monkeypatch: Patch) -> None:
    passes_other_bits(monkeypatch, B)
    told = chain.lie(B, InquestTestimony, lambda one: replace(one, testimony=replace(one.testimony, pad_out=b"")))
    supply(chain)
    assert told
    named(chain, ((B,), Charge.WITHHELD_EVIDENCE, link_of(B, C)))


@pytest.mark.parametrize(
    "forged",
    [
        lambda one: replace(one, ciphertext=flipped(one.ciphertext)),
        lambda one: replace(one, chain=(*one.chain[:-1], flipped(one.chain[-1]))),
        lambda one: replace(one, chain=one.chain[:1]),
        lambda one: replace(one, chain=()),
    ],
    ids=["another ciphertext", "another statement", "a shorter chain", "no chain"],
)
def test_one_that_accuses_with_forged_evidence_is_named_itself(
    chain: Network, monkeypatch: Patch, forged: Callable[[Any], Any]
) -> None:
    accuses(monkeypatch, C)
    told = chain.lie(C, InquestTestimony, lambda one: replace(one, testimony=forged(one.testimony)))
    supply(chain)
    assert told
    named(chain, ((C,), Charge.ACCUSED_FALSELY, link_of(B, C)))


def test_a_complaint_that_nobody_asks_for_is_deleted_in_time(chain: Network, monkeypatch: Patch) -> None:
    passes_other_bits(monkeypatch, B)
    chain.wire.before = lambda sent: _late(chain, sent, InquestRequest, A)
    chain.supply(paths=(PATH,))
    for _ in range(20):
        chain.pump()
    assert chain.bits_kept()[C] == [f"batch/00/{B}"]
    chain.clock.advance(2 * km_pool.GRACE_US)
    with chain.desk(C) as km:
        km_pool.sweep(km.desk)
        assert list(km_pool.complaints(km.desk).values()) == []
    assert C not in chain.bits_kept()


def test_a_liar_that_keeps_the_complaint_from_the_origin_is_named_all_the_same(
    chain: Network, monkeypatch: Patch
) -> None:
    passes_other_bits(monkeypatch, B)

    def swallow(sent: Sent) -> None:
        if sent.sender == B and isinstance(chain.opened(sent.data).message, ProcedureRefusal):
            raise LineError("B keeps it to itself")

    chain.wire.before = swallow
    supply(chain)
    assert chain.batch().code == "TIMEOUT"
    named(chain, ((B,), Charge.PASSED_OTHER_BITS, link_of(B, C)))


# --- other statements -----------------------------------------------------------------------------------------------


def restated(network: Network, liar: PartyId, *, at: int = -1, **changes: Any) -> Callable[[PoolRelay], PoolRelay]:
    """Let a liar sign another statement of its own at one position of the chain."""

    def change(relay: PoolRelay) -> PoolRelay:
        identity = network.certified.identities[liar]
        honest = provenance.claimed_statement(relay.chain[at])
        statements = list(relay.chain)
        statements[at] = provenance.sign(identity, replace(honest, **changes))
        return replace(relay, chain=tuple(statements))

    return change


@pytest.mark.parametrize(
    "changes",
    [
        {"possession": bytes(48)},
        {"position": 2},
        {"received": None},
        {"order": "another"},
        {"next": D},
        {"previous": b""},
    ],
    ids=["other bits", "another position", "from nowhere", "another order", "to another", "after nothing"],
)
def test_a_relay_that_signs_what_does_not_follow_is_named_with_its_neighbour_or_alone(
    chain: Network, changes: dict[str, Any]
) -> None:
    def change(relay: PoolRelay) -> PoolRelay:
        order = provenance.claimed_order(relay.chain[0])
        wanted = {"order": replace(order, first=99)} if "order" in changes else changes
        return restated(chain, B, **wanted)(relay)

    told = chain.lie(B, PoolRelay, change)
    supply(chain)
    assert told
    assert chain.batch().code in ("BAD_PROVENANCE", "TIMEOUT")
    nobody_has_it(chain)
    (finding,) = chain.batch().findings
    assert B in finding.parties


def test_whoever_signs_on_top_of_a_broken_chain_is_named_alone(chain: Network) -> None:
    told = chain.lie(B, PoolRelay, restated(chain, B, possession=bytes(48)))
    supply(chain)
    assert told
    named(chain, ((B,), Charge.SIGNED_BROKEN_CHAIN, link_of(B, C)))


def test_a_chain_that_its_last_signer_did_not_sign_for_names_both(chain: Network) -> None:
    told = chain.lie(B, PoolRelay, lambda relay: replace(relay, chain=(flipped(relay.chain[0]), *relay.chain[1:])))
    supply(chain)
    assert told
    named(chain, ((B, C), Charge.LINK_DISAGREES, link_of(B, C)))


def test_one_that_breaks_a_chain_to_accuse_its_neighbour_does_not_have_it_named_alone(chain: Network) -> None:
    """C would frame B: it refuses an honest chain, and shows another."""
    passes = chain.lie(
        C,
        InquestTestimony,
        lambda one: replace(
            one,
            testimony=replace(
                one.testimony,
                outcome=Outcome.COMPLAINED,
                code="BAD_PROVENANCE",
                link=link_of(B, C),
                chain=(flipped(one.testimony.chain[0]), *one.testimony.chain[1:2]),
            ),
        ),
    )
    chain.drain(C, link_of(C, D))
    supply(chain)
    assert passes
    named(chain, ((B, C), Charge.LINK_DISAGREES, link_of(B, C)))


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, ciphertext=flipped(one.ciphertext)),
        lambda one: replace(one, mode=Mode.AES_WRAPPED),
        lambda one: replace(one, pieces=(replace(one.pieces[0], unit=one.pieces[0].unit + 1), *one.pieces[1:])),
        lambda one: replace(one, share=7),
    ],
    ids=["another ciphertext", "another mode", "other units", "another share"],
)
def test_a_message_that_is_not_what_its_sender_signed_for_names_the_link(
    chain: Network, change: Callable[[Any], Any]
) -> None:
    told = chain.lie(B, PoolRelay, change)
    supply(chain)
    assert told
    nobody_has_it(chain)
    (finding,) = chain.batch().findings
    assert finding.parties == (B, C)


def test_what_the_origin_sends_beside_its_units_is_refused(chain: Network) -> None:
    def change(relay: PoolRelay) -> PoolRelay:
        passed = provenance.leg(relay.link, relay.pieces, b"besides")
        return restated(chain, A, passed=passed)(replace(relay, ciphertext=b"besides"))

    assert chain.lie(A, PoolRelay, change) == []
    supply(chain)
    assert chain.batch().code == "WRONG_MESSAGE"
    nobody_has_it(chain)


def test_a_liar_has_no_units_of_anothers_link_burnt(chain: Network) -> None:
    told = chain.lie(B, PoolRelay, lambda one: replace(one, link=link_of(C, D), chain=()))
    before = chain.units_left(C, link_of(C, D))
    supply(chain)
    assert told
    assert chain.units_left(C, link_of(C, D)) == before
    assert chain.nodes[C].rejections["WrongParty"]


def test_a_receipt_before_the_share_has_gone_all_the_way_is_found_out(chain: Network) -> None:
    """B gives the receipt that C gave it, without the last statement."""
    told = chain.lie(B, PoolReceipt, lambda one: replace(one, chain=one.chain[:-1]))
    supply(chain)
    assert told
    assert chain.batch().code == "BAD_RECEIPT"
    named(chain, ((B,), Charge.GAVE_FALSE_RECEIPT, link_of(A, B)))


def test_the_receipt_of_another_share_is_none(chain: Network) -> None:
    chain.supply("first", paths=(PATH,))
    chain.settle()
    receipts = [chain.opened(one.data).message for one in chain.wire.sent if (one.sender, one.hop) == (C, B)]
    (old,) = [one for one in receipts if isinstance(one, PoolReceipt)]
    told = chain.lie(C, PoolReceipt, lambda one: replace(one, chain=old.chain))
    supply(chain, first=8)
    assert told
    named(chain, ((B, C), Charge.GAVE_FALSE_RECEIPT, link_of(B, C)))


# --- silence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("silent", "before"), [(B, A), (C, B), (D, C)])
def test_one_that_stays_silent_is_named_by_the_one_that_waited_for_it(
    chain: Network, silent: PartyId, before: PartyId
) -> None:
    chain.mute(silent)
    supply(chain)
    assert (chain.batch().code, chain.batch().link) == ("TIMEOUT", link_of(before, silent))
    named(chain, ((silent,), Charge.SILENT, link_of(before, silent)))


@pytest.mark.parametrize(("silent", "before"), [(B, A), (C, B), (D, C)])
def test_the_way_is_found_by_asking_where_none_was_given(chain: Network, silent: PartyId, before: PartyId) -> None:
    chain.mute(silent)
    supply(chain, paths=())
    named(chain, ((silent,), Charge.SILENT, link_of(before, silent)))


def test_a_relay_that_stays_silent_about_the_supply_only_stands_against_its_neighbours_word(chain: Network) -> None:
    def before(sent: Sent) -> None:
        if sent.hop == C and isinstance(chain.opened(sent.data).message, PoolRelay):
            raise LineError("C does not hear it")

    chain.wire.before = before
    supply(chain)
    named(chain, ((B, C), Charge.SILENT, link_of(B, C)))


# --- the two ends ---------------------------------------------------------------------------------------------------


def test_what_arrived_at_the_target_alone_is_destroyed_there_too(chain: Network) -> None:
    chain.takes_in = False
    told = chain.lie(D, BatchAcceptance, lambda one: replace(one, proof=flipped(one.proof)))
    chain.supply(paths=(PATH,))
    chain.settle()
    assert told
    with chain.desk(D) as km:
        assert list(km_pool.arrived(km.desk)) == []
    assert chain.states()[3] == "DESTROYED"


def test_an_inquest_burns_what_is_still_on_its_way_and_shows_nothing_of_what_arrived(chain: Network) -> None:
    def ask(km: Any, work: Any) -> None:
        inquest.begin(km, work, km_pool.passages(km.desk).require("batch/00").order, B)

    chain.wire.before = lambda sent: _late(chain, sent, PoolReceipt, C)
    chain.supply(paths=(PATH,))
    for _ in range(20):
        chain.pump()
    chain.begin(A, ask)
    for _ in range(20):
        chain.pump()
    assert chain.states() == ["PASSED_ON", "DESTROYED", "DESTROYED", "DESTROYED"]
    chain.wire.before = lambda _: None
    chain.run(100)
    assert chain.states() == ["DESTROYED"] * 4
    assert (chain.batch().code, chain.batch().link) == ("BATCH_GONE", link_of(B, C))
    assert chain.bits_kept() == {}

    chain.supply("second", first=8, paths=(PATH,))
    chain.settle()
    chain.begin(A, lambda km, work: inquest._ask(km, work, km_pool.passages(km.desk).require("second/00").order, D))
    chain.settle()
    assert chain.states("second/00")[3] == "ARRIVED"
    assert {"FAILED BATCH_ARRIVED"} <= set(chain.rows().values())


@pytest.mark.parametrize(
    ("liar", "message"), [(D, BatchAcceptance), (A, BatchConfirmation)], ids=["the target", "the origin"]
)
def test_an_end_that_holds_other_units_is_refused(chain: Network, liar: PartyId, message: type[Any]) -> None:
    told = chain.lie(liar, message, lambda one: replace(one, proof=flipped(one.proof)))
    chain.supply(paths=(PATH,))
    for _ in range(20):
        chain.pump()
    assert told
    assert "batch" not in chain.deposits[A]
    assert chain.batch().code == "KEY_MISMATCH"
    assert chain.bits_kept() == {}


@pytest.mark.parametrize("party", [B, C])
def test_a_share_that_went_all_the_way_is_not_for_a_relay_to_destroy(chain: Network, party: PartyId) -> None:
    done: list[Sent] = []

    def before(sent: Sent) -> None:
        if not done and isinstance(chain.opened(sent.data).message, BatchConfirmation):
            done.append(sent)
            refuse_everything(chain, party)
            raise LineError("the refusals are first")

    chain.wire.before = before
    supply(chain)
    assert done
    assert same_units(chain)


@pytest.mark.parametrize(("liar", "findings"), [(B, (B,)), (C, (B, C))])
def test_a_relay_that_refuses_without_a_reason_is_named_or_it_and_its_neighbour(
    chain: Network, liar: PartyId, findings: tuple[PartyId, ...]
) -> None:
    done: list[Sent] = []

    def before(sent: Sent) -> None:
        if not done and sent.sender == liar and isinstance(chain.opened(sent.data).message, PoolRelay):
            done.append(sent)
            refuse_everything(chain, liar)
        if isinstance(chain.opened(sent.data).message, PoolReceipt):
            raise LineError("late")

    chain.wire.before = before
    supply(chain)
    assert chain.batch().code == "SPITE"
    before_it = {B: A, C: B}[liar]
    named(chain, (findings, Charge.LINK_DISAGREES, link_of(before_it, liar)))


@pytest.mark.parametrize("stranger", [B, C])
def test_only_its_origin_ends_or_confirms_what_the_target_holds(chain: Network, stranger: PartyId) -> None:
    def known_bits() -> Secret:
        """A relay knew them in clear for a moment, and may have kept them."""
        with chain.desk(D) as km:
            bits = km_pool.kept_bits(km.desk, "batch/00")
        assert bits is not None
        return bits

    def ask(km: Any, work: Any) -> None:
        order = km_pool.passages(km.desk).require("batch/00").order
        inquest._ask(km, work, order, D)
        seats = {Seat.KM_NEAR: stranger, Seat.KM_FAR: D}
        row = Row(
            ProcedureId("forged"), "pool-confirmation", Seat.KM_NEAR, "batch", seats, order.expires_at, km.desk.now
        )
        forged = BatchConfirmation("batch", provenance.end_proof("batch", stranger, bits))
        Turn(work, work.add(row), None, stranger, Seat.KM_NEAR).send(Seat.KM_FAR, forged)

    chain.wire.before = lambda sent: _late(chain, sent, BatchConfirmation, A)
    chain.supply(paths=(PATH,))
    for _ in range(30):
        chain.pump()
    assert chain.states()[3] == "HELD"
    bits = known_bits()
    chain.begin(stranger, ask)
    for _ in range(10):
        chain.pump()
    assert chain.states()[3] == "HELD"
    assert chain.nodes[D].rejections["WrongParty"]
    chain.wire.before = lambda _: None
    supply(chain, batch="next", first=8)
    assert same_units(chain)


def _late(network: Network, sent: Sent, message: type[Any], sender: PartyId) -> None:
    if sent.sender == sender and isinstance(network.opened(sent.data).message, message):
        raise LineError("late")


def test_a_refusal_of_a_relay_undoes_nothing_that_both_ends_have_confirmed(chain: Network) -> None:
    chain.supply(paths=(PATH,))
    chain.settle()
    refuse_everything(chain, B)
    refuse_everything(chain, C)
    chain.settle()
    assert (chain.states()[0], chain.states()[3]) == ("ARRIVED", "ARRIVED")
    assert chain.batch().state == "ARRIVED"
    assert same_units(chain)


# --- replays --------------------------------------------------------------------------------------------------------


def test_nothing_that_was_sent_once_moves_anything_when_it_comes_again(chain: Network) -> None:
    chain.supply(paths=(PATH,))
    chain.settle()
    before = {party: chain.units_left(party, link_of(B, C)) for party in (B, C)}
    states, given = chain.states(), dict(chain.deposits[D])
    for sent in list(chain.wire.sent):
        chain.nodes[sent.hop].receive(sent.data)
    chain.settle()
    assert chain.states() == states
    assert {party: chain.units_left(party, link_of(B, C)) for party in (B, C)} == before
    assert chain.deposits[D] == given


def test_a_relay_that_sends_an_old_share_on_as_a_new_one_is_refused(chain: Network) -> None:
    """B repeats, in the second supply, what it sent in the first."""
    chain.supply("first", paths=(PATH,))
    chain.settle()
    old = [chain.opened(one.data).message for one in chain.wire.sent if (one.sender, one.hop) == (B, C)]
    (relay,) = [one for one in old if isinstance(one, PoolRelay)]
    chain.lie(B, PoolRelay, lambda _: relay)
    supply(chain, first=8)
    assert chain.nodes[C].rejections["ReplayedMessage"]
    nobody_has_it(chain)
    named(chain, ((B, C), Charge.SILENT, link_of(B, C)))


def test_liars_at_every_place_of_a_longer_chain(open_network: Callable[..., Network], monkeypatch: Patch) -> None:
    for liar, after in ((B, C), (C, D), (D, E)):
        network = open_network((*CHAIN, (D, E)))
        with monkeypatch.context() as patch:
            passes_other_bits(patch, liar)
            supply(network, pool=Pool(A, E, 1), paths=((A, B, C, D, E),))
        named(network, ((liar,), Charge.PASSED_OTHER_BITS, link_of(liar, after)))
