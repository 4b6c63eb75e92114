"""How a pool of ready keys is filled: a batch of units is drawn at its origin and relayed to the target.

A supply is one `POOL_SUPPLY` per hop. The origin draws units of the first link, commits to them, and signs the order:
which units, for which pool, in which mode, over which path. Every hop checks that it is on the path, takes the named
bits, compares what they carry with the origin's commitment, adds its own signed statement, and passes the share on
under bits of the next link. The receipt comes back the same way with everybody's statements, and each drops what it
kept. When the origin has the receipts of all shares, both ends confirm (`pool_confirmation`).

A batch travels in one share, or in several over node-disjoint paths whose XOR it is: then no relay ever knows it.

Whatever goes wrong ends the supply at every hop it has reached, each destroying its part and keeping an account. The
refusal names the link it comes from, so that the next supply can avoid it, and everybody is asked (`inquest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from qsotn.domain import PartyId, ProcedureId, Secret
from qsotn.errors import KeyShortage, PeerError, Refusal, ReplayedMessage, WrongParty
from qsotn.interfaces import KX, Seat
from qsotn.keynetwork import provenance
from qsotn.keynetwork.provenance import Leg, Order, Statement, leg, share_key
from qsotn.keynetwork.relay import UnitRange, hide, hindrance, uncover
from qsotn.messages import PoolReceipt, PoolRelay
from qsotn.parties import km_pool
from qsotn.parties.km import Km
from qsotn.parties.km_pool import Passage, PassageState
from qsotn.parties.line_ways import check_light
from qsotn.procedures import pool_confirmation, pool_hop
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.pool_failure import destroy_share
from qsotn.procedures.pool_hop import keep, named, open_hop, ranges
from qsotn.procedures.pool_order import begin_pool_supply as begin_pool_supply
from qsotn.procedures.turn import Turn

POOL_SUPPLY = Ladder(pool_hop.POOL_SUPPLY, "ours: one hop of a batch for a pool")
_UNKNOWN_HOPS: Final = 8
"""How many hops a supply is taken to have before it, where no path was given."""


# --- at every further key manager -----------------------------------------------------------------------------------


@POOL_SUPPLY.step("1", Seat.KM_NEAR, Seat.KM_FAR, KX, PoolRelay)
def take_share(km: Km, turn: Turn[PoolRelay]) -> None:
    """Take the named bits, compare what they carry with the origin's commitment; then hold it, or pass it on."""
    asked = turn.message
    key = turn.row.subject = share_key(asked.batch, asked.share)
    if km.configuration.links.get(asked.link) != turn.sender:
        raise WrongParty(f"{turn.sender} is not the far end of {asked.link}")
    if km_pool.passages(km.desk).get(key) is not None:
        raise ReplayedMessage(f"share {key} passed {km.desk.party} before")
    km_pool.sweep(km.desk)
    chain = _verified(km, turn)
    pad = km.take_all(named(asked), turn.sender)
    share = _uncovered(km, asked, chain, pad)
    if km.desk.party == _last(km, chain[0].order):
        _hold(km, turn, chain[-1], share)
    else:
        _pass_on(km, turn, chain[-1], share)


def _last(km: Km, order: Order) -> PartyId:
    """Return who is last: on the path, or without one the target, or of a local pool whoever is asked first."""
    if order.path:
        return order.path[-1]
    return km.desk.party if order.origin == order.target else order.target


def _verified(km: Km, turn: Turn[PoolRelay]) -> tuple[Statement, ...]:
    """Verify everybody's statements, and that the message is what the last of them says it sent."""
    asked, own = turn.message, km.desk.party
    try:
        chain = provenance.verify_chain(asked.chain, km.desk.peer, complete=False)
    except PeerError as error:
        raise Refusal("BAD_PROVENANCE", hindrance(asked.link, own, str(error))) from error
    order, last = chain[0].order, chain[-1]
    signed = (last.party, last.next, last.passed, order.key, order.mode)
    sent = leg(asked.link, asked.pieces, asked.ciphertext)
    if signed != (turn.sender, own, sent, share_key(asked.batch, asked.share), asked.mode):
        raise Refusal("WRONG_MESSAGE", hindrance(asked.link, own, f"{turn.sender} signed that it sent something else"))
    if last.position == 0 and asked.ciphertext:
        raise Refusal("WRONG_MESSAGE", hindrance(asked.link, own, "the origin's own units come without a ciphertext"))
    return chain


def _uncovered(km: Km, asked: PoolRelay, chain: Sequence[Statement], pad: Secret) -> Secret:
    """Return the share, which is what the origin committed to. Raises `Refusal` KEY_MISMATCH."""
    order, last, share = chain[0].order, chain[-1], pad
    wrong = hindrance(asked.link, km.desk.party, f"{last.party} sent other bits than {order.origin} committed to")
    try:
        if last.position:
            share = uncover(order.mode, pad, asked.ciphertext, provenance.hop_context(order, last.party))
    except PeerError as error:
        raise Refusal("KEY_MISMATCH", wrong) from error
    if provenance.commitment(order, share) != chain[0].possession:
        raise Refusal("KEY_MISMATCH", wrong)
    return share


def _hold(km: Km, turn: Turn[PoolRelay], last: Statement, share: Secret) -> None:
    """The end of the way: hold the share for the confirmation; of a pool that is the origin's own, discard the copy."""
    local = last.order.origin == last.order.target
    statement = _next_statement(km, turn.message, last, PartyId(""), None)
    chain = (*turn.message.chain, provenance.sign(km.desk.identity, statement))
    state = PassageState.RELAYED if local else PassageState.HELD
    kept = None if local else share
    keep(km, statement, chain, turn.message.link, kept, inbound=turn.procedure, state=state)
    turn.send(Seat.KM_NEAR, PoolReceipt(last.order.batch, last.order.share, chain))


def _pass_on(km: Km, turn: Turn[PoolRelay], last: Statement, share: Secret) -> None:
    asked, order = turn.message, last.order
    link, hop = _next_hop(km, asked, order, last.position + 1)
    pieces, pad = _pad(km, order, link)
    ciphertext = hide(order.mode, pad, share, provenance.hop_context(order, km.desk.party))
    statement = _next_statement(km, asked, last, hop, leg(link, pieces, ciphertext))
    chain = (*asked.chain, provenance.sign(km.desk.identity, statement))
    relay = PoolRelay(order.batch, order.share, order.mode, link, pieces, ciphertext, chain)
    deadline = _deadline(turn, order, statement.position)
    onward = open_hop(turn.work, km, relay, hop, deadline, turn.row.traceparent)
    keep(km, statement, chain, link, pad, inbound=turn.procedure, onward=onward)


def _next_statement(km: Km, asked: PoolRelay, last: Statement, hop: PartyId, passed: Leg | None) -> Statement:
    return msgspec.structs.replace(
        last,
        position=last.position + 1,
        party=km.desk.party,
        next=hop,
        received=last.passed,
        passed=passed,
        previous=provenance.digest(asked.chain[-1]),
        at=km.desk.now,
    )


def _next_hop(km: Km, asked: PoolRelay, order: Order, position: int) -> tuple[str, PartyId]:
    try:
        if order.path:
            hop = order.path[position + 1]
            return km.link_to(hop), hop
        return km.link_towards(order.target)
    except Refusal as no:
        raise Refusal("NO_ROUTE", hindrance(asked.link, km.desk.party, no.detail)) from no


def _pad(km: Km, order: Order, link: str) -> tuple[tuple[UnitRange, ...], Secret]:
    check_light(km, link)
    try:
        drawn, pad = km.draw(link, order.mode.pad_units(order.units))
    except KeyShortage as error:
        raise Refusal("KEY_SHORTAGE", hindrance(link, km.desk.party, str(error))) from error
    return ranges(drawn), pad


def _deadline(turn: Turn[PoolRelay], order: Order, position: int) -> int:
    """Return until when the next hop's receipt is awaited: earlier than the hop before awaits this one's.

    So that of a chain of waiting key managers the one next to whoever is silent gives up first, and can name it.
    """
    hops = len(order.path) - 1 - position if order.path else _UNKNOWN_HOPS
    until = min(turn.row.deadline, order.expires_at)
    return until - (until - turn.now) // (2 * (hops + 1))


# --- the receipt ----------------------------------------------------------------------------------------------------


@POOL_SUPPLY.step("2", Seat.KM_FAR, Seat.KM_NEAR, KX, PoolReceipt, answers="1")
def take_receipt(km: Km, turn: Turn[PoolReceipt]) -> None:
    """The whole way has the share: let go of its pad and pass the receipt on; at the origin, confirm the batch."""
    passage = km_pool.passages(km.desk).require(turn.row.subject)
    order, receipt = passage.order, turn.message
    if passage.state is not PassageState.PASSED_ON:
        raise Refusal("BATCH_GONE", hindrance(passage.link, km.desk.party, f"{order.key} was destroyed here"))
    _check_receipt(km, passage, receipt)
    if passage.inbound:
        km_pool.drop_bits(km.desk, order.key)
        km_pool.update(km.desk, passage, state=PassageState.RELAYED)
        turn.resume(ProcedureId(passage.inbound), Seat.KM_FAR).send(Seat.KM_NEAR, receipt)
    else:
        km_pool.update(km.desk, passage, state=PassageState.HELD, chain=receipt.chain)
        _confirm(km, turn, order)


def _check_receipt(km: Km, passage: Passage, receipt: PoolReceipt) -> None:
    """Hold a receipt against what was sent: every statement down to the last, the own ones as they were."""
    try:
        provenance.verify_chain(receipt.chain, km.desk.peer, complete=True)
    except PeerError as error:
        raise Refusal("BAD_RECEIPT", hindrance(passage.link, km.desk.party, str(error))) from error
    if receipt.chain[: len(passage.chain)] != passage.chain:
        another = f"{passage.next} gave the receipt of another share"
        raise Refusal("BAD_RECEIPT", hindrance(passage.link, km.desk.party, another))


def _confirm(km: Km, turn: Turn[PoolReceipt], order: Order) -> None:
    shares = [km_pool.passages(km.desk).require(share_key(order.batch, number)) for number in range(order.shares)]
    if any(share.state is not PassageState.HELD for share in shares):
        return
    if order.origin == order.target:
        bits = km_pool.kept_bits(km.desk, order.key)
        if bits is None:
            raise Refusal("BATCH_GONE", f"the bits of {order.key} are gone at {km.desk.party}")
        pool_confirmation.let_arrive(km, shares, bits)
    else:
        pool_confirmation.begin(km, turn.work, km_pool.batches(km.desk).require(order.batch))


POOL_SUPPLY.compensate(Seat.KM_NEAR.role)(destroy_share)
POOL_SUPPLY.revocable = {Seat.KM_NEAR: (), Seat.KM_FAR: (Seat.KM_NEAR,)}
POOL_SUPPLY.sealed()
