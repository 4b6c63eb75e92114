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
from tests.live.stores import Place, Rows

from qsotn import wire
from qsotn.domain import PartyId, ProcedureId
from qsotn.procedures.turn import Row, State, read_row
from qsotn.runtime.batch import REFUSAL

ROWS: Final = "SELECT content FROM {schema}procedures"
OUTBOX: Final = "SELECT datagram, procedure FROM {schema}outbox"
RECEIPTS: Final = "SELECT next_hop, datagram FROM {schema}outbox WHERE delivered"


@dataclass
class Known:
    """What one store holds."""

    rows: dict[ProcedureId, list[Row]] = field(default_factory=lambda: defaultdict(list))
    outbox: dict[bytes, ProcedureId] = field(default_factory=dict)
    """The procedure of each datagram; a courier does not know it."""
    delivered: list[tuple[PartyId, bytes]] = field(default_factory=list)
    """To whom which datagrams of the outbox were handed over, with a receipt."""

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
    asked = [(place.folder, place.party, sql) for place in places for sql in (ROWS, OUTBOX, RECEIPTS)]
    answers = iter(places[0].stores.look(asked))
    return {place.party: _known(next(answers), next(answers), next(answers)) for place in places}


def _known(rows: Rows, outbox: Rows, receipts: Rows) -> Known:
    known = Known(outbox=dict(outbox), delivered=[(hop, datagram) for hop, datagram in receipts])
    for row in (read_row(content) for (content,) in rows):
        known.rows[row.procedure].append(row)
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
    taken: Counter[tuple[PartyId, PartyId, ProcedureId]] = Counter()
    for giver, known in before.items():
        for hop, datagram in known.delivered:
            sent = wire.unpack(datagram)
            if sent.receiver == hop:
                taken[sent.sender, hop, before[sent.sender].outbox[datagram]] += 1
            elif datagram not in after[hop].outbox:
                yield f"a datagram of {giver} that {hop} took to carry"
    for (sender, receiver, procedure), receipts in taken.items():
        there = before[sender].said(procedure, receiver) & after[receiver].heard(procedure)
        if len(there) < receipts and not before[sender].refused(procedure):
            missing = receipts - len(there)
            yield f"{missing} of {receipts} steps of {procedure} that {receiver} took from {sender}"
