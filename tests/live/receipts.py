"""What was acknowledged before a power cut, and what of it is gone after it.

A receipt is seen in the sender's outbox, where a datagram is marked as delivered; a client has its answers. What was
acknowledged is read from what the processes had committed when they were stopped, whether it was on the disk or not.
What a store holds is read by any number of steps; nothing here knows what a step does.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.live.load import Load
from tests.live.stores import Place

from qsotn import wire
from qsotn.domain import PartyId, ProcedureId
from qsotn.procedures.turn import Row, State, read_row
from qsotn.runtime.batch import REFUSAL

ROWS: Final = "SELECT content FROM {schema}procedures"
OUTBOX: Final = "SELECT next_hop, procedure, datagram FROM {schema}outbox"
RECEIPTS: Final = f"{OUTBOX} WHERE delivered"


@dataclass
class Known:
    """What one store holds."""

    rows: dict[ProcedureId, list[Row]] = field(default_factory=lambda: defaultdict(list))
    carried: set[bytes] = field(default_factory=set)
    """The datagrams in its outbox, delivered or not."""
    delivered: Counter[tuple[ProcedureId, PartyId]] = field(default_factory=Counter)
    """How many datagrams of a procedure got their receipt from their own receiver."""
    handed_over: list[tuple[PartyId, bytes]] = field(default_factory=list)
    """Datagrams that got it from a courier."""

    def heard(self, procedure: ProcedureId) -> set[bytes]:
        """The messages this party has taken."""
        return {digest for row in self.rows[procedure] for digest in row.heard.values()}

    def said(self, procedure: ProcedureId, to: PartyId) -> set[bytes]:
        """The messages this party has for another one."""
        return {
            digest
            for row in self.rows[procedure]
            for key, digest in row.said.items()
            if row.seats.get(key.partition(":")[2]) == to  # type: ignore[call-overload]  # a seat is its text
        }

    def refused(self, procedure: ProcedureId) -> bool:
        """Whether this party said that a procedure is over: refusals are counted by nobody."""
        return any(key.startswith(REFUSAL) for row in self.rows[procedure] for key in row.said)


def read(places: Sequence[Place]) -> dict[PartyId, Known]:
    """Read what every party's store holds."""
    known: dict[PartyId, Known] = {}
    answers = iter(
        places[0].stores.look([(one.folder, one.party, sql) for one in places for sql in (ROWS, OUTBOX, RECEIPTS)])
    )
    for place in places:
        store = known[place.party] = Known()
        for (content,) in next(answers):
            row = read_row(content)
            store.rows[row.procedure].append(row)
        store.carried = {datagram for _, _, datagram in next(answers)}
        for next_hop, procedure, datagram in next(answers):
            if wire.unpack(datagram).receiver == next_hop:
                store.delivered[procedure, next_hop] += 1
            else:
                store.handed_over.append((next_hop, datagram))
    return known


def lost(before: Mapping[PartyId, Known], after: Mapping[PartyId, Known], load: Load) -> list[str]:
    """Say what was acknowledged before the cut and is not there after it."""
    return [*_lost_answers(after[load.client.pomp], load), *_lost_steps(before, after)]


def _lost_answers(pomp: Known, load: Load) -> Iterator[str]:
    for told in load.operations:
        if told.procedure is not None and told.procedure not in pomp.rows:
            yield f"{told.kind} {told.procedure} of {told.subject} was acknowledged to a client"
    for procedure, state in load.client.told.items():
        rows = pomp.rows.get(procedure, [])
        if state is not State.RUNNING and all(row.state is State.RUNNING for row in rows):
            yield f"{procedure} was {state} to a client"


def _lost_steps(before: Mapping[PartyId, Known], after: Mapping[PartyId, Known]) -> Iterator[str]:
    for sender, known in before.items():
        for (procedure, receiver), receipts in known.delivered.items():
            taken = known.said(procedure, receiver) & after[receiver].heard(procedure)
            if len(taken) < receipts and not known.refused(procedure):
                missing = receipts - len(taken)
                yield f"{missing} of {receipts} steps of {procedure} that {receiver} acknowledged to {sender}"
        for courier, datagram in known.handed_over:
            if datagram not in after[courier].carried:
                yield f"a datagram of {sender} that {courier} took to carry"
