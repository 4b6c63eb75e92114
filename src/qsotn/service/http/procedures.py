"""Procedures as they are shown: to the operator whole, to a neighbour what concerns it.

A party may sit in several seats of one procedure; each has a row, and the procedure is shown once, with its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final, TypeVar

import msgspec

from qsotn.domain import PartyId, ProcedureId
from qsotn.interfaces import Seat
from qsotn.parties.desk import Desk
from qsotn.ports import Taken, Transaction
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.turn import Row, State, read_row
from qsotn.service.http.paging import Page, Window, cursor_after, key_before

T = TypeVar("T")

_LISTING: Final = "procedures"
SCANNED: Final = 512
"""Rows that one page of a neighbour's list reads at most; behind them begins the next page."""
_BEHIND_SEATS: Final = "~"
"""Sorts behind every seat, so that `procedure/~` is behind all rows of a procedure."""


class Part(msgspec.Struct, frozen=True):
    """One seat of this party. `awaits` names the messages it would take now, as `3 from cpe`."""

    seat: Seat
    state: State
    failure: str
    awaits: tuple[str, ...]


class Procedure(msgspec.Struct, frozen=True):
    """One procedure as this party knows it. Times in microseconds since the epoch; `failure` is a refusal's code."""

    procedure: ProcedureId
    ladder: str
    subject: str
    state: State
    failure: str
    started_at: int
    deadline: int
    traceparent: str
    parts: tuple[Part, ...]
    seats: dict[Seat, PartyId]


class NeighbourProcedure(msgspec.Struct, frozen=True):
    """What a party that sits in a procedure may know of it from its neighbour."""

    procedure: ProcedureId
    ladder: str
    state: State
    failure: str
    deadline: int
    awaits: tuple[str, ...]


class Steps(msgspec.Struct, frozen=True):
    """The steps this party accepted, in that order."""

    items: tuple[Taken, ...]


def procedure_view(rows: Sequence[Row]) -> Procedure:
    """Show all rows of one procedure."""
    first = rows[0]
    return Procedure(
        procedure=first.procedure,
        ladder=first.ladder,
        subject=next((row.subject for row in rows if row.subject), ""),
        state=_state(rows),
        failure=_failure(rows),
        started_at=min(row.started for row in rows),
        deadline=max(row.deadline for row in rows),
        traceparent=next((row.traceparent for row in rows if row.traceparent), ""),
        parts=tuple(Part(row.seat, row.state, row.failure, _awaits(row)) for row in rows),
        seats={seat: party for row in rows for seat, party in sorted(row.seats.items())},
    )


def neighbour_view(rows: Sequence[Row]) -> NeighbourProcedure:
    """Show a procedure to a party that sits in it: not what it is about, nor who else sits there."""
    awaits = tuple(dict.fromkeys(awaited for row in rows for awaited in _awaits(row)))
    deadline = max(row.deadline for row in rows)
    return NeighbourProcedure(rows[0].procedure, rows[0].ladder, _state(rows), _failure(rows), deadline, awaits)


def _state(rows: Sequence[Row]) -> State:
    """Failed if any part failed, running as long as one runs."""
    states = {row.state for row in rows}
    return next((state for state in (State.FAILED, State.RUNNING) if state in states), State.COMPLETED)


def _failure(rows: Sequence[Row]) -> str:
    return next((row.failure for row in rows if row.failure), "")


def _awaits(row: Row) -> tuple[str, ...]:
    if row.state is not State.RUNNING or row.ladder not in LADDERS:
        return ()
    return tuple(f"{step.label} from {sender}" for step, sender in LADDERS[row.ladder].awaited(row.seat, row.heard))


def rows_of(desk: Desk, procedure: ProcedureId) -> list[Row]:
    """Return this party's rows of one procedure."""
    return [read_row(content) for content in desk.transaction.rows_of(procedure)]


def sits_in(rows: Sequence[Row], party: PartyId) -> bool:
    """Say whether a party has a seat in a procedure."""
    return any(party in row.seats.values() for row in rows)


def every_procedure(transaction: Transaction, window: Window) -> Page[Procedure]:
    """Return a page of all procedures. Raises `HttpProblem` 400 for a cursor that is not one."""
    return procedure_page(transaction, window, procedure_view, lambda _: True, window.limit + len(Seat) + 1)


def procedure_page(
    transaction: Transaction,
    window: Window,
    view: Callable[[Sequence[Row]], T],
    shown: Callable[[Sequence[Row]], bool],
    scanned: int,
) -> Page[T]:
    """Return a page of procedures that are to be shown. It reads at most `scanned` rows, and may be empty.

    Raises `HttpProblem` 400 for a cursor that is not one.
    """
    after = key_before(_LISTING, window.cursor)
    contents = transaction.rows(after=after, limit=scanned)
    items: list[T] = []
    last = ""
    for procedure, rows in _whole(contents, cut=len(contents) == scanned):
        if len(items) == window.limit:
            return Page(tuple(items), cursor_after(_LISTING, last))
        last = f"{procedure}/{_BEHIND_SEATS}"
        if shown(rows):
            items.append(view(rows))
    return Page(tuple(items), cursor_after(_LISTING, last) if len(contents) == scanned else None)


def _whole(contents: Sequence[bytes], *, cut: bool) -> Iterator[tuple[ProcedureId, list[Row]]]:
    """Group rows by procedure, without the last group if the reading may have ended in the middle of it."""
    groups = [
        (procedure, list(rows)) for procedure, rows in groupby(map(read_row, contents), lambda row: row.procedure)
    ]
    yield from groups[:-1] if cut else groups


PROCEDURE_EXAMPLE: Final = Procedure(
    procedure=ProcedureId("8c9e6679-7425-40de-944b-e07fc1f90ae7"),
    ladder="initialization",
    subject="cpe/jinan-1",
    state=State.RUNNING,
    failure="",
    started_at=1_780_000_000_000_000,
    deadline=1_780_000_600_000_000,
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    parts=(Part(Seat.POMP, State.RUNNING, "", ("4 from pmp",)),),
    seats={
        Seat.POMP: PartyId("pomp/shandong"),
        Seat.PMP: PartyId("pmp/shandong"),
        Seat.QSSP: PartyId("qssp/jinan"),
        Seat.CPE: PartyId("cpe/jinan-1"),
    },
)
NEIGHBOUR_EXAMPLE: Final = NeighbourProcedure(
    procedure=PROCEDURE_EXAMPLE.procedure,
    ladder="initialization",
    state=State.RUNNING,
    failure="",
    deadline=1_780_000_600_000_000,
    awaits=("5a from pomp",),
)
STEP_EXAMPLE: Final = Taken(
    procedure=PROCEDURE_EXAMPLE.procedure,
    ladder="initialization",
    number=4,
    part="",
    message="RegistrationReport",
    sender=PartyId("pmp/shandong"),
    receiver=PartyId("pomp/shandong"),
    interface="Ioa",
    issued_at=1_780_000_000_020_000,
    accepted_at=1_780_000_000_027_700,
)
