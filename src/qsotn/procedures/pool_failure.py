"""A share that failed: destroyed at every hop it has reached, with an account, and the link named where it ended.

See `pool_supply` for the whole.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from qsotn.domain import PartyId, ProcedureId
from qsotn.interfaces import Seat
from qsotn.keynetwork import provenance
from qsotn.keynetwork.failures import after_misnaming
from qsotn.keynetwork.inquest import COMPLAINTS, Outcome
from qsotn.keynetwork.provenance import Order, share_key
from qsotn.keynetwork.relay import hindered_link, hindrance, lies_ahead, misnamed
from qsotn.messages import PoolReceipt, PoolRelay, ProcedureRefusal
from qsotn.parties import km_pool
from qsotn.parties.km import Km
from qsotn.parties.km_blocks import joined
from qsotn.parties.km_pool import BatchState, Passage, PassageState
from qsotn.procedures import inquest
from qsotn.procedures.pool_hop import named
from qsotn.procedures.turn import Turn

_OTHER_SHARE: Final = "SHARE_FAILED"
"""Nothing is wrong with this share but that another of its batch failed: there is no inquest into it."""


def destroy_share(km: Km, turn: Turn[ProcedureRefusal]) -> None:
    """A share that failed is destroyed here, before and behind, with an account; its origin fails the batch."""
    if isinstance(turn.refused, PoolRelay):
        _note_refusal(km, turn, turn.refused)
        return
    passage = km_pool.passages(km.desk).get(turn.row.subject)
    if passage is None or passage.state is PassageState.ARRIVED:
        return
    if passage.state is PassageState.DESTROYED:
        _tell_back(turn, passage)
    elif turn.row.seat is Seat.KM_FAR:
        _destroy_onward(km, turn, passage)
    else:
        _destroy_back(km, turn, passage)


def _note_refusal(km: Km, turn: Turn[ProcedureRefusal], asked: PoolRelay) -> None:
    """Burn the bits that were named; keep what accuses the sender, or say which link could not carry it on."""
    code, sender = turn.message.code, turn.row.seats[Seat.KM_NEAR]
    burnt = joined([unit for one in named(asked) for unit in km.burn_units(one)])
    key = share_key(asked.batch, asked.share)
    account = km_pool.BurntUnits(named(asked), code, sender, turn.now)
    km_pool.burnt_units(km.desk).put(f"{key}/{sender}", account)
    if code in COMPLAINTS:
        name = f"{key}/{sender}"
        km_pool.complaints(km.desk).put(name, km_pool.Complaint(code, asked))
        km_pool.note_deadline(km.desk, key, turn.row.deadline)
        if code == "KEY_MISMATCH":  # the only one that bits decide
            km_pool.keep_bits(km.desk, name, burnt)
        return
    order = provenance.claimed_order(asked.chain[0])  # verified before the refusal, which is no complaint
    passage = Passage(
        order=order,
        position=len(asked.chain),
        state=PassageState.DESTROYED,
        taken=named(asked),
        pad=(),
        chain=asked.chain,
        link=hindered_link(turn.message.detail),
        next=PartyId(""),
        inbound=turn.procedure,
        onward="",
        at=turn.now,
        outcome=Outcome.REFUSED,
        code=code,
        detail=turn.message.detail,
    )
    km_pool.passages(km.desk).put(order.key, passage)


def _destroy_onward(km: Km, turn: Turn[ProcedureRefusal], passage: Passage) -> None:
    """The hop before gave up. A relay keeps its pad, wrapped, for the inquest.

    A share that the target holds has gone all the way: no relay can have it destroyed any more, only its origin, by an
    inquest or by not confirming it.
    """
    if passage.onward:
        if turn.message.code == _OTHER_SHARE:
            km_pool.drop_bits(km.desk, passage.order.key)
        _destroyed(km, passage, Outcome.TOLD, turn.message)
        turn.fail(ProcedureId(passage.onward), Seat.KM_NEAR, turn.message)


def _destroy_back(km: Km, turn: Turn[ProcedureRefusal], passage: Passage) -> None:
    """The hop behind refused, or gave no receipt in time: say so, and which link it was, to the hop before."""
    outcome, refusal = _reason(km, turn, passage)
    _destroyed(km, passage, outcome, refusal)
    if passage.inbound:
        turn.fail(ProcedureId(passage.inbound), Seat.KM_FAR, refusal)
    else:
        _fail_batch(km, turn, passage, refusal)


def _tell_back(turn: Turn[ProcedureRefusal], passage: Passage) -> None:
    """What was destroyed here already, by an inquest, may still be waited for by the hop before."""
    if turn.row.seat is Seat.KM_NEAR and passage.inbound:
        turn.fail(ProcedureId(passage.inbound), Seat.KM_FAR, turn.message)


def _reason(km: Km, turn: Turn[ProcedureRefusal], passage: Passage) -> tuple[Outcome, ProcedureRefusal]:
    told = turn.message
    if isinstance(turn.refused, PoolReceipt):
        return Outcome.UNANSWERED, told
    if hindered_link(told.detail):
        return Outcome.TOLD_BY_NEXT, _checked(turn, passage, km.configuration.links)
    own = turn.work.desk.party
    if told.code == "TIMEOUT":
        silent = hindrance(passage.link, own, f"{passage.next} gave no receipt in time")
        return Outcome.UNANSWERED, ProcedureRefusal(told.code, silent)
    return Outcome.TOLD_BY_NEXT, ProcedureRefusal(told.code, hindrance(passage.link, own, told.detail))


def _checked(turn: Turn[ProcedureRefusal], passage: Passage, links: Collection[str]) -> ProcedureRefusal:
    """Hold a refusal that names a link not ahead of the share against the link that it came back over."""
    told, order, own = turn.message, passage.order, turn.work.desk.party
    way = order.path or ((own, passage.next) if order.target in (own, passage.next) else ())
    if lies_ahead(told.detail, own, passage.link, links, way):
        return told
    wrong = misnamed(told.detail, passage.next)
    turn.row.failure = f"{told.code}: {wrong}"  # is logged as a warning
    return ProcedureRefusal(after_misnaming(told.code), hindrance(passage.link, own, wrong))


def _destroyed(km: Km, passage: Passage, outcome: Outcome, refusal: ProcedureRefusal) -> None:
    km_pool.update(
        km.desk,
        passage,
        state=PassageState.DESTROYED,
        outcome=outcome,
        code=refusal.code,
        detail=refusal.detail,
    )


def _fail_batch(km: Km, turn: Turn[Any], passage: Passage, refusal: ProcedureRefusal) -> None:
    """At the origin: the other shares are worth nothing without this one, and everybody on its way is asked."""
    order = passage.order
    batch = km_pool.batches(km.desk).require(order.batch)
    if batch.state is BatchState.FAILED:
        return
    km_pool.fail_batch(
        km.desk,
        batch,
        code=refusal.code,
        link=hindered_link(refusal.detail),
        detail=refusal.detail,
        failed_share=order.share,
    )
    for other in batch.orders:
        if other.share != order.share:
            _give_up(km, turn, other, ProcedureRefusal(_OTHER_SHARE, f"share {order.key} failed: {refusal.detail}"))
    inquest.begin(km, turn.work, order, passage.next)


def _give_up(km: Km, turn: Turn[Any], order: Order, refusal: ProcedureRefusal) -> None:
    passage = km_pool.passages(km.desk).get(order.key)
    if passage is not None and passage.state is not PassageState.DESTROYED:
        km_pool.drop_bits(km.desk, order.key)
        _destroyed(km, passage, Outcome.TOLD, refusal)
        turn.fail(ProcedureId(passage.onward), Seat.KM_NEAR, refusal)
        inquest.give_notice(km, turn.work, order)
