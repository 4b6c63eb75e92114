"""A run as it was recorded: what the stores say at the end, and what clients were told on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple, TypeVar

from tests.faults.snapshots import Snapshot

from qsotn.domain import PartyId, ProcedureId
from qsotn.interfaces import Seat
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.leased_line import REKEY
from qsotn.procedures.revocation import REVOCATION
from qsotn.procedures.turn import Row, State

S = TypeVar("S", bound=Snapshot)


class Outcome(StrEnum):
    """What a client knows of a request."""

    OK = "ok"
    """It was accepted, and this procedure carries it out."""
    REFUSED = "refused"
    """It was refused for good and began nothing."""
    UNKNOWN = "unknown"
    """No answer came, or none that says whether it was accepted (a 503): it may have been."""


@dataclass(frozen=True)
class Operation:
    """One request of one client to one party. Times in microseconds since the epoch.

    `kind` is the name of the ladder that the request begins; `request` its idempotency key, the same when it is
    repeated.
    """

    kind: str
    subject: str
    party: PartyId
    request: str
    invoked_at: int
    answered_at: int | None
    outcome: Outcome
    procedure: ProcedureId | None = None

    def __post_init__(self) -> None:
        if self.kind not in LADDERS:
            raise ValueError(f"no procedure {self.kind!r} that request {self.request} could begin")
        if (self.outcome is Outcome.OK) != (self.procedure is not None):
            raise ValueError(f"request {self.request}: a procedure is named by an acceptance, and by nothing else")
        if self.answered_at is None and self.outcome is not Outcome.UNKNOWN:
            raise ValueError(f"request {self.request} was {self.outcome} without an answer")


@dataclass(frozen=True)
class Violation:
    """A rule that does not hold, and where: party, record, and key or procedure."""

    rule: str
    detail: str


class Seated(NamedTuple):
    """One seat's part of a procedure, and whose it is."""

    party: PartyId
    row: Row

    def __str__(self) -> str:
        failure = f" {self.row.failure}" if self.row.failure else ""
        about = f"{self.row.ladder} {self.row.procedure} of {self.row.subject or 'nothing yet'}"
        return f"{self.party} in seat {self.row.seat} of {about} is {self.row.state}{failure}"


@dataclass(frozen=True, eq=False, repr=False)
class History:
    """All that is known of one run."""

    snapshots: tuple[Snapshot, ...]
    operations: tuple[Operation, ...] = ()

    def all(self, kind: type[S]) -> list[S]:
        """Return every snapshot of one kind of party."""
        return [snapshot for snapshot in self.snapshots if isinstance(snapshot, kind)]

    def at(self, party: PartyId, kind: type[S]) -> S:
        """Return one party's snapshot; an empty one if none was taken, so that all it should say is missed."""
        found = self._by_party.get(party)
        return found if isinstance(found, kind) else kind(party)

    @cached_property
    def _by_party(self) -> dict[PartyId, Snapshot]:
        return {snapshot.party: snapshot for snapshot in self.snapshots}

    @cached_property
    def seated(self) -> list[Seated]:
        """Every row of every party."""
        return [Seated(snapshot.party, row) for snapshot in self.snapshots for row in snapshot.rows]

    @cached_property
    def procedures(self) -> dict[ProcedureId, dict[Seat, Seated]]:
        """Rows by procedure and seat."""
        found: dict[ProcedureId, dict[Seat, Seated]] = defaultdict(dict)
        for one in self.seated:
            found[one.row.procedure][one.row.seat] = one
        return found

    @cached_property
    def begun(self) -> dict[tuple[str, str], list[Seated]]:
        """The rows of those who begin procedures, by ladder and subject, oldest first."""
        found: dict[tuple[str, str], list[Seated]] = defaultdict(list)
        for one in sorted(self.seated, key=lambda one: one.row.started):
            if one.row.seat is beginner(one.row.ladder):
                found[one.row.ladder, one.row.subject].append(one)
        return found

    def ended(self, ladder: str, state: State) -> Iterator[Seated]:
        """Yield the beginners' rows of procedures that ended like this."""
        for (name, _), rows in self.begun.items():
            if name == ladder:
                yield from (one for one in rows if one.row.state is state)

    def is_revoked(self, cpe: str) -> bool:
        """Say whether a device was ever ordered out of service for good: its gate is shut, and it is told nothing."""
        return bool(self.begun.get((REVOCATION.name, cpe)))


def beginner(ladder: str) -> Seat:
    """The seat that begins a procedure, and whose word on its end counts."""
    sender, _ = next(iter(LADDERS[ladder])).edges[0]
    return sender


def overtaken(row: Row) -> bool:
    """Say whether this is a rekey whose last step never comes.

    The device lost the keys when it was killed, and a later generation took their place on the line: what the row
    awaits travels on the line alone.
    """
    awaited = LADDERS[row.ladder].awaited(row.seat, row.heard)
    on_line_alone = bool(awaited) and all(step.on_line for step, _ in awaited)
    return row.ladder == REKEY.name and row.state is State.RUNNING and on_line_alone


@dataclass(frozen=True)
class Rule:
    """Something every history must satisfy, by name; `find` yields what does not."""

    name: str
    find: Callable[[History], Iterator[str]]

    def __call__(self, history: History) -> list[Violation]:
        return [Violation(self.name, detail) for detail in self.find(history)]


def rule(find: Callable[[History], Iterator[str]]) -> Rule:
    """Make a rule of a function that yields what it found: its name is the rule's."""
    return Rule(find.__name__, find)
