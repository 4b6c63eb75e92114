"""Both ends of a pool make sure that they hold the same units, before either lets anybody have one.

When the receipts of all shares are back, the origin proves to the target that it holds the batch, and the target
proves the same to the origin, each by a MAC under a key derived from the units (computational, as the proof of a
block). The target lets the batch arrive when it has verified the origin's proof, the origin when it has the target's
acceptance. Only the origin gives units to anybody, so one that arrived at the target alone harms nobody.

The two speak directly: no relay can keep a confirmation from arriving for longer than the batch is waited for, and
then it is destroyed at both ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from qsotn.crypto.session import verify_possession
from qsotn.domain import PartyId, Secret
from qsotn.errors import BadProof, PeerError, Refusal
from qsotn.interfaces import KX, Seat
from qsotn.keynetwork import provenance
from qsotn.keynetwork.provenance import Order, share_key
from qsotn.keynetwork.relay import join
from qsotn.messages import BatchAcceptance, BatchConfirmation, ProcedureRefusal
from qsotn.parties import km_pool
from qsotn.parties.km import Km
from qsotn.parties.km_pool import Batch, BatchState, Passage, PassageState
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import Row, Turn, Work

POOL_CONFIRMATION = Ladder("pool-confirmation", "ours: both ends hold the same units")


def begin(km: Km, work: Work, batch: Batch) -> None:
    """At the origin: every share is known to have reached the target."""
    order, now = batch.orders[0], km.desk.now
    km_pool.batches(km.desk).put(order.batch, msgspec.structs.replace(batch, state=BatchState.CONFIRMING))
    seats = {Seat.KM_NEAR: km.desk.party, Seat.KM_FAR: order.target}
    # Over before either end forgets the shares (`km_pool.sweep`): nobody confirms what the other has destroyed.
    deadline = order.expires_at + km_pool.GRACE_US // 2
    row = Row(new_procedure(km.desk), POOL_CONFIRMATION.name, Seat.KM_NEAR, order.batch, seats, deadline, now)
    proof = provenance.end_proof(order.batch, km.desk.party, _joined(km, _held(km, order.batch)))
    turn = Turn(work, work.add(row), None, km.desk.party, Seat.KM_NEAR)
    turn.send(Seat.KM_FAR, BatchConfirmation(order.batch, proof))


@POOL_CONFIRMATION.step("1", Seat.KM_NEAR, Seat.KM_FAR, KX, BatchConfirmation)
def accept_batch(km: Km, turn: Turn[BatchConfirmation]) -> None:
    """The target joins the shares, compares them with the origin's proof, and lets the batch arrive."""
    told = turn.message
    turn.row.subject = told.batch
    shares = _held(km, told.batch)
    if shares[0].order.origin != turn.sender:
        raise Refusal("BATCH_GONE", f"{turn.sender} is not the origin of {told.batch}")
    units = _joined(km, shares)
    _verify(told.batch, turn.sender, units, told.proof)
    let_arrive(km, shares, units)
    proof = provenance.end_proof(told.batch, km.desk.party, units)
    turn.send(Seat.KM_NEAR, BatchAcceptance(told.batch, proof))


@POOL_CONFIRMATION.step("2", Seat.KM_FAR, Seat.KM_NEAR, KX, BatchAcceptance, answers="1")
def record_acceptance(km: Km, turn: Turn[BatchAcceptance]) -> None:
    """The origin compares the target's proof; from here on the units may be given out."""
    shares = _held(km, turn.row.subject)
    units = _joined(km, shares)
    _verify(turn.row.subject, turn.sender, units, turn.message.proof)
    let_arrive(km, shares, units)


def let_arrive(km: Km, shares: Sequence[Passage], units: Secret) -> None:
    """Leave the batch for the hand-over, once the whole of its provenance is verified. Raises `Refusal`."""
    order = shares[0].order
    encoded = provenance.encode([share.chain for share in shares])
    try:
        provenance.verify(encoded, km.desk.peer)
    except PeerError as error:
        raise Refusal("BAD_PROVENANCE", str(error)) from error
    km_pool.leave_arrived(km.desk, order, units, encoded)
    for share in shares:
        km_pool.drop_bits(km.desk, share.order.key)
        km_pool.update(km.desk, share, state=PassageState.ARRIVED, chain=())
    batch = km_pool.batches(km.desk).get(order.batch)
    if batch is not None:
        km_pool.batches(km.desk).put(order.batch, msgspec.structs.replace(batch, state=BatchState.ARRIVED))


def _held(km: Km, batch: str) -> list[Passage]:
    """Return the shares of a batch, all of which are held here. Raises `Refusal` BATCH_GONE."""
    first = km_pool.passages(km.desk).get(share_key(batch, 0))
    number = 0 if first is None else first.order.shares
    found = [km_pool.passages(km.desk).get(share_key(batch, share)) for share in range(number)]
    held = [one for one in found if one is not None and one.state is PassageState.HELD]
    if not held or len(held) != number:
        raise Refusal("BATCH_GONE", f"{len(held)} of {number} shares of {batch} are held at {km.desk.party}")
    return held


def _joined(km: Km, shares: Sequence[Passage]) -> Secret:
    return join([_bits(km, one.order) for one in shares])


def _bits(km: Km, order: Order) -> Secret:
    bits = km_pool.kept_bits(km.desk, order.key)
    if bits is None:
        raise Refusal("BATCH_GONE", f"the bits of {order.key} are gone at {km.desk.party}")
    return bits


def _verify(batch: str, prover: PartyId, units: Secret, proof: bytes) -> None:
    try:
        verify_possession(units, provenance.end_context(batch, prover), proof)
    except BadProof as error:
        raise Refusal("KEY_MISMATCH", f"{prover} holds other units of {batch}") from error


@POOL_CONFIRMATION.compensate(Seat.KM_NEAR.role)
def destroy_batch(km: Km, turn: Turn[ProcedureRefusal]) -> None:
    """A batch that is not confirmed is destroyed at both ends, but for units that were handed over already."""
    refused = turn.refused
    batch = refused.batch if isinstance(refused, BatchConfirmation) else turn.row.subject
    reason = {"code": turn.message.code, "detail": turn.message.detail}
    first = km_pool.passages(km.desk).get(share_key(batch, 0))
    if first is None or turn.row.seats[Seat.KM_NEAR] != first.order.origin:
        return
    km_pool.handed_over(km.desk, batch)
    for share in range(first.order.shares):
        km_pool.destroy(km.desk, share_key(batch, share), **reason)
    own = km_pool.batches(km.desk).get(batch)
    if own is not None:
        km_pool.fail_batch(km.desk, own, **reason)


POOL_CONFIRMATION.revocable = {Seat.KM_NEAR: (), Seat.KM_FAR: (Seat.KM_NEAR,)}
POOL_CONFIRMATION.sealed()
