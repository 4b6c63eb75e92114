"""Ladders as data: what every seat awaits, against tables written by hand from the two figures; bad declarations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest

from qsotn.interfaces import AX, IOA, IOQ, Seat
from qsotn.messages import (
    BindingRequest,
    DeletionRequest,
    InitializationDispatch,
    InitializationRequest,
    Message,
    RegistrationReport,
)
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import Ladder

BOTH_CPES, BOTH_QSSPS = ("cpe-a", "cpe-b"), ("qssp-a", "qssp-b")


def _both(label: str, seats: tuple[str, str]) -> str:
    return f"{label}:{seats[0]} {label}:{seats[1]}"


# Each row: a seat, and what it awaits at the beginning, after that, and so on; one set of `step:sender` a column.
AWAITED: dict[str, dict[str, list[str]]] = {
    "initialization": {  # Figure 3
        "pmp": ["1:pomp", "3:cpe", "7b:qssp"],
        "cpe": ["2:pmp", "7c:pmp", "9:qssp"],
        "pomp": ["4:pmp", "6:qssp", "10b:qssp"],
        "qssp": ["5a:pomp", "5c:km", "7a:pomp", "8:cpe", "10a:cpe"],
        "km": ["5b:qssp"],
    },
    "leased-line": {  # Figure 4
        "pmp": [
            "1:pomp",
            _both("3", BOTH_CPES),
            "5:pomp",
            _both("7b", BOTH_QSSPS),
            _both("8b", BOTH_QSSPS),
            _both("12b", BOTH_CPES),
        ],
        "cpe-a": ["2:pmp", "8c:pmp", "11a:qssp-a", "12a:cpe-b"],
        "cpe-b": ["2:pmp", "8c:pmp", "11a:qssp-b", "12a:cpe-a"],
        "pomp": ["4:pmp", _both("7a", BOTH_QSSPS), "12c:pmp"],
        "qssp-a": ["6:pomp", "8a:pomp", "9:cpe-a", "10b:km-a", "10f:qssp-b", "11b:cpe-a"],
        "qssp-b": ["6:pomp", "8a:pomp", "10c:qssp-a", "10e:km-b", "11b:cpe-b"],
        "km-a": ["10a:qssp-a"],
        "km-b": ["10d:qssp-b"],
        "qkmp": ["10g:qssp-a"],
    },
    "rekey": {  # Figure 4, steps 9 to 12
        "cpe-a": ["11a:qssp-a", "12a:cpe-b"],
        "cpe-b": ["11a:qssp-b", "12a:cpe-a"],
        "qssp-a": ["9:cpe-a", "10b:km-a", "10f:qssp-b", "11b:cpe-a"],
        "qssp-b": ["10c:qssp-a", "10e:km-b", "11b:cpe-b"],
        "km-a": ["10a:qssp-a"],
        "km-b": ["10d:qssp-b"],
        "qkmp": ["10g:qssp-a"],
    },
    "deletion": {
        "pmp": ["1:pomp", _both("3", BOTH_CPES), "5:pomp"],
        "cpe-a": ["2:pmp"],
        "cpe-b": ["2:pmp"],
        "pomp": ["4:pmp", _both("7", BOTH_QSSPS)],
        "qssp-a": ["6:pomp", "8:pomp"],
        "qssp-b": ["6:pomp", "8:pomp"],
    },
    "rekey-order": {"pmp": ["1:pomp", "3:cpe-a"], "cpe-a": ["2:pmp"], "pomp": ["4:pmp"]},
    "revocation": {"pmp": ["1:pomp"], "pomp": ["2:pmp", "4:qssp"], "qssp": ["3:pomp"]},
    "key-supply": {"km-far": ["1:km-near"], "km-near": ["2:km-far"]},
    "key-block": {"km-far": ["1:km-near"], "km-near": ["2:km-far"]},
    "block-withdrawal": {"km-far": ["1:km-near"], "km-near": ["2:km-far"]},
    "pool-supply": {"km-far": ["1:km-near"], "km-near": ["2:km-far"]},
    "pool-confirmation": {"km-far": ["1:km-near"], "km-near": ["2:km-far"]},
    "inquest": {"km-far": ["1:km-near"], "km-near": ["2:km-far"]},
}
ROWS = [(ladder, seat, columns) for ladder, seats in AWAITED.items() for seat, columns in seats.items()]


def _awaited(ladder: str, seat: str, heard: list[str]) -> set[str]:
    return {f"{step.label}:{sender}" for step, sender in LADDERS[ladder].awaited(Seat(seat), heard)}


@pytest.mark.parametrize(("ladder", "seat", "columns"), ROWS, ids=[f"{row[0]}-{row[1]}" for row in ROWS])
def test_a_seat_awaits_its_own_column_step_by_step_and_the_two_senders_of_a_step_in_any_order(
    ladder: str, seat: str, columns: list[str]
) -> None:
    heard: list[str] = []
    for column in columns:
        assert _awaited(ladder, seat, heard) == set(column.split())
        for order in permutations(column.split()):
            for count in range(1, len(order)):
                assert _awaited(ladder, seat, heard + list(order[:count])) == set(order[count:])
        heard += column.split()
    assert _awaited(ladder, seat, heard) == set()


def test_the_tables_leave_out_no_ladder_and_no_seat() -> None:
    for name, ladder in LADDERS.items():
        receiving = {receiver for step in ladder for _, receiver in step.edges}
        assert {str(seat) for seat in receiving} == set(AWAITED[name])
    assert set(AWAITED) == set(LADDERS)


def test_a_seat_that_receives_nothing_awaits_nothing() -> None:
    assert LADDERS["initialization"].awaited(Seat.QKMP, []) == []


Declared = tuple[str, Seat, Seat, object, type[Message]]


def _ladder(*steps: Declared, answers: dict[str, str] | None = None) -> Callable[[], Ladder]:
    def declare() -> Ladder:
        ladder = Ladder("test", "nowhere")
        for label, sender, receiver, interface, message in steps:
            step = ladder.step(
                label,
                sender,
                receiver,
                interface,  # type: ignore[arg-type]
                message,
                answers=(answers or {}).get(label),
            )
            step(lambda _party, _turn: None)
        return ladder.sealed()

    return declare


FIRST: Declared = ("1", Seat.POMP, Seat.PMP, IOA, InitializationRequest)
BAD: dict[str, tuple[Callable[[], Ladder], str]] = {
    "a gap": (_ladder(FIRST, ("3", Seat.PMP, Seat.CPE, AX, InitializationDispatch)), "not contiguous"),
    "out of order": (
        _ladder(("2", Seat.PMP, Seat.CPE, AX, InitializationDispatch), FIRST),
        "not contiguous and in order",
    ),
    "a label twice": (_ladder(FIRST, ("1", Seat.PMP, Seat.CPE, AX, InitializationDispatch)), "declared twice"),
    "an interface that does not join the roles": (
        _ladder(FIRST, ("2", Seat.PMP, Seat.CPE, IOQ, InitializationDispatch)),
        "Ioq does not join pmp and cpe",
    ),
    "one message type for two steps": (
        _ladder(FIRST, ("2", Seat.PMP, Seat.POMP, IOA, InitializationRequest)),
        "one message type stands for two steps",
    ),
    "letters with a hole": (
        _ladder(
            FIRST,
            ("2a", Seat.PMP, Seat.POMP, IOA, RegistrationReport),
            ("2c", Seat.POMP, Seat.QSSP, IOQ, BindingRequest),
        ),
        r"expected \['a', 'b'\]",
    ),
    "a letter beside a bare number": (
        _ladder(
            FIRST,
            ("2", Seat.PMP, Seat.POMP, IOA, RegistrationReport),
            ("2b", Seat.POMP, Seat.QSSP, IOQ, BindingRequest),
        ),
        r"expected \['a', 'b'\]",
    ),
    "an answer to nothing": (
        _ladder(FIRST, ("2", Seat.PMP, Seat.POMP, IOA, RegistrationReport), answers={"2": "7"}),
        "answers 7, which does not exist",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_ladder_that_contradicts_itself_is_refused_when_it_is_sealed(name: str) -> None:
    declare, told = BAD[name]
    with pytest.raises(ValueError, match=told):
        declare()


def test_a_ladder_without_a_contradiction_is_not_refused() -> None:
    ladder = _ladder(FIRST, ("2", Seat.PMP, Seat.POMP, IOA, RegistrationReport), answers={"2": "1"})()
    assert [step.label for step in ladder] == ["1", "2"]


def test_a_message_type_that_is_no_step_is_not_found() -> None:
    with pytest.raises(KeyError, match="initialization has no DeletionRequest"):
        LADDERS["initialization"].of_message(DeletionRequest)


def test_every_step_of_both_figures_is_there_by_its_number() -> None:
    assert [step.number for step in LADDERS["initialization"]] == [1, 2, 3, 4, 5, 5, 5, 6, 7, 7, 7, 8, 9, 10, 10]
    assert sorted({step.number for step in LADDERS["leased-line"]}) == list(range(1, 13))
    assert sorted({step.number for step in LADDERS["rekey"]}) == [9, 10, 11, 12]
