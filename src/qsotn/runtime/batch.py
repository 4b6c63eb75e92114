"""All that one transaction of a node does: several datagrams, each able to fail alone, or one order.

A busy party takes many datagrams in one transaction, because its end is what costs: one sync of the disk and one
signature serve all of them. What that must not change is that each datagram stands alone: one that is refused is undone
by itself (a savepoint in the store, a `Work` thrown away here), and the others go on from what came before it.

Rows are written, and messages signed, once, at the end. Until then later datagrams see the rows here, in `rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from qsotn.domain import PartyId, ProcedureId
from qsotn.messages import ProcedureRefusal
from qsotn.parties.desk import Desk
from qsotn.ports import Taken
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import heard_key
from qsotn.procedures.turn import Outgoing, Row, Work

COURIER: Final = ProcedureId("courier")
"""Under which a courier keeps what it passes on: it cannot know the procedure."""
REFUSAL: Final = "refusal"
"""The label of the one message that is no step: it may travel wherever the procedure has been."""
UNSIGNED: Final = b""
"""In a row's `said`, until the end of the transaction: there is something to say, and no digest to answer yet."""


@dataclass(frozen=True)
class Answer:
    """A message to be signed, and the digest of the received message that caused it."""

    outgoing: Outgoing
    cause: bytes


@dataclass(frozen=True)
class Forward:
    """A datagram and its way: what a courier passes on, unread."""

    hop: PartyId
    datagram: bytes
    expires_at: int
    interface: str


@dataclass(frozen=True)
class Accepted:
    """A step as it was accepted, and the trace it belongs to."""

    taken: Taken
    traceparent: str


@dataclass
class Batch:
    """One transaction's rows, answers and accepted steps, as far as it has come."""

    desk: Desk
    rows: dict[str, Row] = field(default_factory=dict)
    loaded: dict[str, bytes] = field(default_factory=dict)
    """Rows as the store has them: what did not change is not written."""
    answers: list[Answer] = field(default_factory=list)
    forwards: dict[bytes, Forward] = field(default_factory=dict)
    """By the digest of the datagram: the same one comes again, and is passed on once."""
    accepted: list[Accepted] = field(default_factory=list)

    @contextmanager
    def part(self, traceparent: str = "") -> Iterator[Work]:
        """Do one datagram's, or one order's, work: kept whole, or undone alone if it raises."""
        with self.desk.transaction.part():
            work = Work(self.desk, self.rows, self.loaded, traceparent)
            yield work
        self._keep(work)

    def _keep(self, work: Work) -> None:
        for row in work.rows.values():
            row.traceparent = row.traceparent or work.traceparent
        self.rows.update(work.rows)
        self.accepted += (Accepted(taken, work.traceparent) for taken in work.taken)

    def answer(self, work: Work, cause: bytes) -> None:
        """Have everything that a work sent signed at the end, as the answer to `cause`."""
        for outgoing in work.outgoing:
            # A later datagram may fail this row: whom it speaks to must hear of that too.
            outgoing.row.said.setdefault(heard_key(label_of(outgoing), outgoing.to), UNSIGNED)
            self.answers.append(Answer(outgoing, cause))
        work.outgoing.clear()

    def write(self) -> list[Row]:
        """Put every row that is not as the store has it into the store, and return these."""
        changed = [row for key, row in self.rows.items() if row.stored().content != self.loaded.get(key)]
        for row in changed:
            row.version += 1
            self.desk.transaction.put_row(row.stored())
        return changed


def label_of(outgoing: Outgoing) -> str:
    """Return the label of the step that a message stands for."""
    if isinstance(outgoing.message, ProcedureRefusal):
        return REFUSAL
    return LADDERS[outgoing.row.ladder].of_message(type(outgoing.message)).label
