"""Who spoiled a supply: the origin asks everybody on the way, and they testify with the bits they burnt.

A supply that fails is burnt at its origin in the transaction that begins the inquest, so no key is ever made of the
bits that testimonies show. Each key manager is asked directly, not through its neighbours: one that lies cannot keep
the others from being heard. An inquest is also how those hear of the end whom the refusal did not reach.

How the testimonies are judged is in `keynetwork/inquest.py`.
"""

from __future__ import annotations

import msgspec

from qsotn.domain import PartyId
from qsotn.errors import Refusal, WrongParty
from qsotn.interfaces import KX, Seat
from qsotn.keynetwork import provenance
from qsotn.keynetwork.inquest import Charge, Outcome, Testimony, verdict
from qsotn.keynetwork.provenance import Order, share_key
from qsotn.messages import InquestRequest, InquestTestimony, ProcedureRefusal
from qsotn.parties import km_pool
from qsotn.parties.desk import Collection, Desk
from qsotn.parties.km import Km
from qsotn.parties.km_pool import Passage, PassageState
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import Row, Turn, Work

INQUEST = Ladder("inquest", "ours: what became of a supply that failed")
INQUEST_LIFETIME_US = 60 * 1_000_000
"""How long a key manager has to testify before it counts as silent."""


class Heard(msgspec.Struct, frozen=True):
    """What one key manager testified, or that it did not."""

    testimony: Testimony | None


def _asked(desk: Desk) -> Collection[tuple[PartyId, ...]]:
    """Who was asked about a share, in the order of the path."""
    return desk.collection("inquests", tuple[PartyId, ...])


def testimonies(desk: Desk) -> Collection[Heard]:
    """Testimonies by `batch/share/party`: kept where somebody is named for a lie, as evidence."""
    return desk.collection("testimonies", Heard)


def begin(km: Km, work: Work, order: Order, first_hop: PartyId) -> None:
    """Ask everybody on the way of a share that failed here, at its origin."""
    hops = order.path[1:] or (first_hop,)
    _asked(km.desk).put(order.key, hops)
    for party in hops:
        _ask(km, work, order, party)


def give_notice(km: Km, work: Work, order: Order) -> None:
    """Tell the target that a share failed which it may hold; nobody is judged."""
    if order.target != km.desk.party:
        _ask(km, work, order, order.target)


def _ask(km: Km, work: Work, order: Order, party: PartyId) -> None:
    now, seats = km.desk.now, {Seat.KM_NEAR: km.desk.party, Seat.KM_FAR: party}
    row = Row(new_procedure(km.desk), INQUEST.name, Seat.KM_NEAR, order.key, seats, now + INQUEST_LIFETIME_US, now)
    request = InquestRequest(order.batch, order.share)
    Turn(work, work.add(row), None, km.desk.party, Seat.KM_NEAR).send(Seat.KM_FAR, request)


@INQUEST.step("1", Seat.KM_NEAR, Seat.KM_FAR, KX, InquestRequest)
def testify(km: Km, turn: Turn[InquestRequest]) -> None:
    """Burn what there still is of the share, and say what became of it here; only its origin is told."""
    key = turn.row.subject = share_key(turn.message.batch, turn.message.share)
    passage = km_pool.passages(km.desk).get(key)
    if passage is not None and passage.order.origin != turn.sender:
        raise WrongParty(f"{turn.sender} is not the origin of {key}")
    if passage is not None and passage.state is PassageState.ARRIVED:
        raise Refusal("BATCH_ARRIVED", f"{key} was confirmed at {km.desk.party}: nothing of it is shown")
    testimony = _complaint(km, key, turn.sender) or Testimony(Outcome.UNKNOWN)
    if passage is not None:
        testimony = _account(km, passage)
    km_pool.drop_bits(km.desk, key)
    km_pool.drop_complaints(km.desk, key)
    turn.send(Seat.KM_NEAR, InquestTestimony(turn.message.batch, turn.message.share, testimony))


def _account(km: Km, passage: Passage) -> Testimony:
    """Tell what became of a share that was taken here; a relay shows the bits it passed it on under."""
    if passage.state is not PassageState.DESTROYED:
        passage = km_pool.update(
            km.desk, passage, state=PassageState.DESTROYED, code="BURNT", detail="told by an inquest"
        )
    relayed = passage.next and passage.position
    pad = km_pool.kept_bits(km.desk, passage.order.key) if relayed else None
    return _told(passage, b"" if pad is None else pad.reveal())


def _told(passage: Passage, pad_out: bytes) -> Testimony:
    return Testimony(
        outcome=passage.outcome,
        code=passage.code,
        link=passage.link,
        next=passage.next,
        chain=passage.chain,
        pad_out=pad_out,
    )


def _complaint(km: Km, key: str, origin: PartyId) -> Testimony | None:
    """Show what was refused here, and, where the order of this very origin was verified, the bits it came under."""
    for name, complaint in km_pool.complaints(km.desk).items(f"{key}/"):
        asked, pad = complaint.asked, None
        if complaint.code == "KEY_MISMATCH" and provenance.claimed_order(asked.chain[0]).origin == origin:
            pad = km_pool.kept_bits(km.desk, name)
        return Testimony(
            outcome=Outcome.COMPLAINED,
            code=complaint.code,
            link=asked.link,
            chain=asked.chain,
            ciphertext=asked.ciphertext,
            pad_in=b"" if pad is None else pad.reveal(),
        )
    return None


@INQUEST.step("2", Seat.KM_FAR, Seat.KM_NEAR, KX, InquestTestimony, answers="1")
def hear(km: Km, turn: Turn[InquestTestimony]) -> None:
    """Keep the testimony; when everybody has spoken, or had the time to, judge."""
    testimony = turn.message.testimony
    order = km_pool.passages(km.desk).require(turn.row.subject).order
    if not order.path and _asked(km.desk).get(order.key) is not None:
        _follow(km, turn, order, testimony)
    _keep(km, turn.row.subject, turn.sender, testimony)


def _follow(km: Km, turn: Turn[InquestTestimony], order: Order, testimony: Testimony) -> None:
    """Where each hop found the next by its own routes, the way becomes known by asking."""
    asked = _asked(km.desk).require(order.key)
    further = testimony.next
    if further and further not in (*asked, km.desk.party) and turn.sender == asked[-1]:
        _asked(km.desk).put(order.key, (*asked, further))
        _ask(km, turn.work, order, further)


@INQUEST.compensate(Seat.KM_NEAR.role)
def note_silence(km: Km, turn: Turn[ProcedureRefusal]) -> None:
    """Whoever does not testify in time, or refuses to, is put down as silent."""
    if turn.row.seat is Seat.KM_NEAR:
        _keep(km, turn.row.subject, turn.row.seats[Seat.KM_FAR], None)


def _keep(km: Km, key: str, party: PartyId, testimony: Testimony | None) -> None:
    asked = _asked(km.desk).get(key)
    if asked is None:
        return  # it was given notice, and is not judged
    testimonies(km.desk).put(f"{key}/{party}", Heard(testimony))
    heard = {one: testimonies(km.desk).get(f"{key}/{one}") for one in asked}
    told = {one: record.testimony for one, record in heard.items() if record is not None}
    if len(told) == len(asked):
        _judge(km, key, asked, told)


def _judge(km: Km, key: str, asked: tuple[PartyId, ...], told: dict[PartyId, Testimony | None]) -> None:
    own = km_pool.passages(km.desk).require(key)
    bits = km_pool.kept_bits(km.desk, key)
    told[km.desk.party] = _told(own, b"" if bits is None else bits.reveal())
    findings = verdict(own.order, told, (km.desk.party, *asked), km.desk.peer)
    batch = km_pool.batches(km.desk).require(own.order.batch)
    judged = msgspec.structs.replace(batch, findings=findings, judged_at=km.desk.now)
    km_pool.batches(km.desk).put(own.order.batch, judged)
    km_pool.drop_bits(km.desk, key)
    if all(one.charge is Charge.COULD_NOT_CARRY for one in findings):
        for party in asked:
            testimonies(km.desk).delete(f"{key}/{party}")


INQUEST.revocable = {Seat.KM_NEAR: (), Seat.KM_FAR: ()}
INQUEST.sealed()
