"""A store in plain dictionaries: what `ports.Transaction` says, in the simplest words that hold."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from qsotn.ports import Posted, StoredRow, Taken


@dataclass
class Waiting:
    """One datagram in the outbox."""

    procedure: str
    next_hop: str
    datagram: bytes
    answers: bytes
    expires_at: int
    due: int
    collected: bool
    attempts: int = 0
    delivered: bool = False


@dataclass
class Model:
    """Records, rows, datagrams and accepted steps. Every method returns what a transaction's would."""

    records: dict[tuple[str, str], bytes] = field(default_factory=dict)
    stored: dict[tuple[str, str], StoredRow] = field(default_factory=dict)
    outbox: dict[int, Waiting] = field(default_factory=dict)
    steps: list[Taken] = field(default_factory=list)

    def copy(self) -> Model:
        return copy.deepcopy(self)

    def get(self, collection: str, key: str) -> bytes | None:
        return self.records.get((collection, key))

    def put(self, collection: str, key: str, value: bytes) -> None:
        self.records[collection, key] = value

    def delete(self, collection: str, key: str) -> None:
        self.records.pop((collection, key), None)

    def take(self, collection: str, first: str, last: str) -> list[tuple[str, bytes]]:
        taken = [place for place in sorted(self.records) if place[0] == collection and first <= place[1] <= last]
        return [(key, self.records.pop((name, key))) for name, key in taken]

    def scan(self, collection: str, prefix: str, after: str, limit: int | None) -> list[tuple[str, bytes]]:
        found = [(key, value) for (name, key), value in sorted(self.records.items()) if name == collection]
        return [(key, value) for key, value in found if key.startswith(prefix) and key > after][:limit]

    def put_row(self, row: StoredRow) -> None:
        self.stored[row.procedure, row.seat] = row

    def row(self, procedure: str, seat: str) -> bytes | None:
        found = self.stored.get((procedure, seat))
        return None if found is None else found.content

    def _sorted(self) -> list[StoredRow]:
        return [row for _, row in sorted(self.stored.items())]

    def rows_of(self, procedure: str) -> list[bytes]:
        return [row.content for row in self._sorted() if row.procedure == procedure]

    def rows_about(self, subject: str) -> list[bytes]:
        return [row.content for row in self._sorted() if row.running and row.subject == subject]

    def late_rows(self, now: int, limit: int) -> list[bytes]:
        late = [row for row in self._sorted() if row.running and row.deadline <= now]
        return [row.content for row in sorted(late, key=lambda row: row.deadline)][:limit]

    def rows(self, after: str, limit: int | None) -> list[bytes]:
        procedure, _, seat = after.partition("/")
        return [row.content for row in self._sorted() if (row.procedure, row.seat) > (procedure, seat)][:limit]

    def post_again(self, procedure: str, answers: bytes) -> None:
        for waiting in self.outbox.values():
            if (waiting.procedure, waiting.answers) == (procedure, answers):
                waiting.delivered, waiting.due = False, 0

    def is_posted(self, procedure: str, answers: bytes) -> bool:
        return any((waiting.procedure, waiting.answers) == (procedure, answers) for waiting in self.outbox.values())

    def lease(self, now: int, until: int, limit: int, collector: str | None) -> list[Posted]:
        due = [
            (waiting.due, number)
            for number, waiting in self.outbox.items()
            if not waiting.delivered and waiting.due <= now < waiting.expires_at
            if waiting.collected == (collector is not None) and collector in {None, waiting.next_hop}
        ]
        numbers = sorted(number for _, number in sorted(due)[:limit])
        for number in numbers:
            self.outbox[number].due = until
        return [self._posted(number) for number in numbers]

    def _posted(self, number: int) -> Posted:
        waiting = self.outbox[number]
        return Posted(number, waiting.next_hop, waiting.datagram, waiting.attempts)  # type: ignore[arg-type]  # a name

    def delivered(self, numbers: Sequence[int], next_hop: str | None) -> None:
        for number in numbers:
            if next_hop in {None, self.outbox[number].next_hop}:
                self.outbox[number].delivered = True

    def postpone(self, number: int, due: int) -> None:
        self.outbox[number].attempts += 1
        self.outbox[number].due = due

    def undelivered(self, now: int) -> int:
        return sum(not waiting.delivered and waiting.expires_at > now for waiting in self.outbox.values())

    def prune(self, now: int) -> int:
        """Forget all that has expired. With a limit, ties would be a matter of taste."""
        expired = [number for number, waiting in self.outbox.items() if waiting.expires_at <= now]
        for number in expired:
            del self.outbox[number]
        return len(expired)

    def journal(self, taken: Taken) -> None:
        self.steps.append(taken)

    def taken(self, procedure: str) -> list[Taken]:
        return [step for step in self.steps if step.procedure == procedure]
