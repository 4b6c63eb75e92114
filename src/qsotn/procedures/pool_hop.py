"""What every key manager on the way of a share does alike: open a hop, and write down what it did.

See `pool_supply` for the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qsotn.domain import PartyId, ProcedureId, Secret
from qsotn.interfaces import Seat
from qsotn.keynetwork.provenance import Leg, Statement, share_key
from qsotn.keynetwork.relay import UnitRange
from qsotn.messages import PoolRelay
from qsotn.parties import km_pool
from qsotn.parties.km import Allocation, Km
from qsotn.parties.km_pool import Passage, PassageState
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import Row, Turn, Work

POOL_SUPPLY: Final = "pool-supply"


def open_hop(work: Work, km: Km, relay: PoolRelay, hop: PartyId, deadline: int, traceparent: str) -> ProcedureId:
    """Begin a hop, and send the share over it."""
    procedure, own = new_procedure(km.desk), km.desk.party
    seats = {Seat.KM_NEAR: own, Seat.KM_FAR: hop}
    subject = share_key(relay.batch, relay.share)
    row = Row(procedure, POOL_SUPPLY, Seat.KM_NEAR, subject, seats, deadline, km.desk.now, traceparent=traceparent)
    Turn(work, work.add(row), None, own, Seat.KM_NEAR).send(Seat.KM_FAR, relay)
    return procedure


def keep(
    km: Km,
    statement: Statement,
    chain: tuple[bytes, ...],
    link: str,
    bits: Secret | None,
    *,
    inbound: str = "",
    onward: str = "",
    state: PassageState = PassageState.PASSED_ON,
) -> None:
    """Write down what was done with a share, and keep the bits that it, or its inquest, still needs."""
    order = statement.order
    if bits is not None:
        km_pool.keep_bits(km.desk, order.key, bits)
        km_pool.note_deadline(km.desk, order.key, order.expires_at)
    came_by = statement.received or statement.passed
    passage = Passage(
        order=order,
        position=statement.position,
        state=state,
        taken=_units_of(came_by),
        pad=_units_of(statement.passed if statement.position else None),
        chain=chain,
        link=link,
        next=statement.next,
        inbound=inbound,
        onward=onward,
        at=km.desk.now,
    )
    km_pool.passages(km.desk).put(order.key, passage)


def ranges(drawn: Sequence[Allocation]) -> tuple[UnitRange, ...]:
    """Name units to the far end of their link."""
    return tuple(UnitRange(one.block, one.unit, one.units) for one in drawn)


def _units_of(leg: Leg | None) -> tuple[Allocation, ...]:
    return () if leg is None else tuple(_allocation(leg.link, one) for one in leg.pieces)


def _allocation(link: str, piece: UnitRange) -> Allocation:
    return Allocation(link, piece.block, piece.unit, piece.units)


def named(asked: PoolRelay) -> tuple[Allocation, ...]:
    """Return the units that a hop names of its link."""
    return tuple(_allocation(asked.link, one) for one in asked.pieces)
