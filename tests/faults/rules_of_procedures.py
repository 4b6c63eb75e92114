"""Every procedure ends, and ends alike at all its seats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.faults.facts import History, Seated, beginner, overtaken, rule

from qsotn.interfaces import Seat
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.turn import State


@rule
def every_procedure_ended(history: History) -> Iterator[str]:
    """No row runs on, but a rekey that was overtaken on the line."""
    for one in history.seated:
        if one.row.state is State.RUNNING and not overtaken(one.row):
            yield str(one)


@rule
def a_completed_procedure_is_complete_at_every_seat(history: History) -> Iterator[str]:
    """What its beginner completed, everybody completed."""
    for begun, seats in _by_beginner(history):
        if begun.row.state is State.COMPLETED:
            for seat in _seats(begun.row.ladder):
                yield from _incomplete(begun, seats.get(seat), seat)


def _incomplete(begun: Seated, one: Seated | None, seat: Seat) -> Iterator[str]:
    if one is None:
        yield f"{begun}, and nobody has a row for seat {seat}"
    elif one.row.state is not State.COMPLETED and not overtaken(one.row):
        yield f"{begun}, but {one}"


@rule
def a_failed_procedure_failed_at_every_seat(history: History) -> Iterator[str]:
    """What its beginner failed, nobody takes for completed, but a revoked device, which nobody can tell."""
    for begun, seats in _by_beginner(history):
        for one in seats.values() if begun.row.state is State.FAILED else ():
            if one.row.state is State.COMPLETED and not history.is_revoked(one.party):
                yield f"{begun}, but {one}"


@rule
def nobody_knows_a_procedure_that_its_beginner_does_not(history: History) -> Iterator[str]:
    """Who begins a procedure has it in its store before anybody hears of it."""
    for seats in history.procedures.values():
        one = next(iter(seats.values()))
        if beginner(one.row.ladder) not in seats:
            yield f"{one}, and whoever sits in {beginner(one.row.ladder)} does not know this procedure"


def _by_beginner(history: History) -> Iterator[tuple[Seated, Mapping[Seat, Seated]]]:
    for seats in history.procedures.values():
        ladder = next(iter(seats.values())).row.ladder
        if beginner(ladder) in seats:
            yield seats[beginner(ladder)], seats


def _seats(ladder: str) -> set[Seat]:
    return {seat for step in LADDERS[ladder] for edge in step.edges for seat in edge}
