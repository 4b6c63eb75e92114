"""Ladders as data: what each seat awaits after each step, and which declarations are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qsotn.interfaces import AK, AX, IOA, IOQ, Seat
from qsotn.messages import (
    InitializationDispatch,
    InitializationRequest,
    InitializationResponse,
    KeyServiceRequest,
    RegistrationReport,
)
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import Ladder, heard_key

# (ladder, seat): the (step, sender) pairs that the seat awaits, one after the other; a tuple of senders is a barrier.
AWAITED = {
    ("initialization", "pomp"): ["4 pmp", "6 qssp", "10b qssp"],
    ("initialization", "pmp"): ["1 pomp", "3 cpe", "7b qssp"],
    ("initialization", "qssp"): ["5a pomp", "5c km", "7a pomp", "8 cpe", "10a cpe"],
    ("initialization", "km"): ["5b qssp"],
    ("initialization", "cpe"): ["2 pmp", "7c pmp", "9 qssp"],
    ("leased-line", "pomp"): ["4 pmp", "7a qssp-a qssp-b", "12c pmp"],
    ("leased-line", "pmp"): [
        "1 pomp",
        "3 cpe-a cpe-b",
        "5 pomp",
        "7b qssp-a qssp-b",
        "8b qssp-a qssp-b",
        "12b cpe-a cpe-b",
    ],
    ("leased-line", "cpe-a"): ["2 pmp", "8c pmp", "11a qssp-a", "12a cpe-b"],
    ("leased-line", "cpe-b"): ["2 pmp", "8c pmp", "11a qssp-b", "12a cpe-a"],
    ("leased-line", "qssp-a"): ["6 pomp", "8a pomp", "9 cpe-a", "10b km-a", "10f qssp-b", "11b cpe-a"],
    ("leased-line", "qssp-b"): ["6 pomp", "8a pomp", "10c qssp-a", "10e km-b", "11b cpe-b"],
    ("leased-line", "km-a"): ["10a qssp-a"],
    ("leased-line", "km-b"): ["10d qssp-b"],
    ("leased-line", "qkmp"): ["10g qssp-a"],
    ("rekey", "cpe-a"): ["11a qssp-a", "12a cpe-b"],
    ("rekey", "cpe-b"): ["11a qssp-b", "12a cpe-a"],
    ("rekey", "qssp-a"): ["9 cpe-a", "10b km-a", "10f qssp-b", "11b cpe-a"],
    ("rekey", "qssp-b"): ["10c qssp-a", "10e km-b", "11b cpe-b"],
    ("rekey", "km-a"): ["10a qssp-a"],
    ("rekey", "km-b"): ["10d qssp-b"],
    ("rekey", "qkmp"): ["10g qssp-a"],
    ("deletion", "pomp"): ["4 pmp", "7 qssp-a qssp-b"],
    ("deletion", "pmp"): ["1 pomp", "3 cpe-a cpe-b", "5 pomp"],
    ("deletion", "cpe-a"): ["2 pmp"],
    ("deletion", "cpe-b"): ["2 pmp"],
    ("deletion", "qssp-a"): ["6 pomp", "8 pomp"],
    ("deletion", "qssp-b"): ["6 pomp", "8 pomp"],
    ("key-supply", "km-near"): ["2 km-far"],
    ("key-supply", "km-far"): ["1 km-near"],
    ("key-block", "km-near"): ["2 km-far"],
    ("key-block", "km-far"): ["1 km-near"],
}


@pytest.mark.parametrize(("ladder", "seat"), AWAITED)
def test_a_seat_awaits_one_step_after_the_other(ladder: str, seat: str) -> None:
    heard: set[str] = set()
    for expected in AWAITED[ladder, seat]:
        label, *senders = expected.split()
        while senders:
            awaited = {(step.label, str(sender)) for step, sender in LADDERS[ladder].awaited(Seat(seat), heard)}
            assert awaited == {(label, sender) for sender in senders}
            heard.add(heard_key(label, Seat(senders.pop())))
    assert LADDERS[ladder].awaited(Seat(seat), heard) == []


def test_the_table_is_about_every_seat_that_receives() -> None:
    receiving = {
        (ladder.name, str(receiver)) for ladder in LADDERS.values() for step in ladder for _, receiver in step.edges
    }
    assert receiving == set(AWAITED)


@pytest.mark.parametrize(("name", "numbers"), [("initialization", 10), ("leased-line", 12), ("deletion", 8)])
def test_a_figure_has_all_its_numbers(name: str, numbers: int) -> None:
    assert sorted({step.number for step in LADDERS[name]}) == list(range(1, numbers + 1))


def test_a_rekey_is_steps_9_to_12_of_the_line_itself() -> None:
    for step in LADDERS["rekey"]:
        assert step is LADDERS["leased-line"][step.label]


def test_every_message_of_the_wire_belongs_to_a_ladder() -> None:
    from qsotn.wire import MESSAGE_TYPES

    declared = {step.message.__name__ for ladder in LADDERS.values() for step in ladder}
    parts = {"SuppliedKey", "KeyFrames", "ProcedureRefusal"}
    assert set(MESSAGE_TYPES) == declared | parts


def _nothing(_party: object, _turn: object) -> None:
    """Do nothing."""


def _gap(ladder: Ladder) -> None:
    ladder.step("1", Seat.POMP, Seat.PMP, IOA, InitializationRequest)(_nothing)
    ladder.step("3", Seat.PMP, Seat.CPE, AX, InitializationDispatch)(_nothing)


def _order(ladder: Ladder) -> None:
    ladder.step("2", Seat.POMP, Seat.PMP, IOA, InitializationRequest)(_nothing)
    ladder.step("1", Seat.PMP, Seat.CPE, AX, InitializationDispatch)(_nothing)


def _parts(ladder: Ladder) -> None:
    ladder.step("1a", Seat.POMP, Seat.PMP, IOA, InitializationRequest)(_nothing)
    ladder.step("1c", Seat.PMP, Seat.CPE, AX, InitializationDispatch)(_nothing)


def _interface(ladder: Ladder) -> None:
    ladder.step("1", Seat.POMP, Seat.PMP, AK, InitializationRequest)(_nothing)


def _one_end(ladder: Ladder) -> None:
    ladder.step("1", Seat.POMP, (Seat.QSSP_A, Seat.CPE_B), IOQ, KeyServiceRequest)(_nothing)


def _message(ladder: Ladder) -> None:
    ladder.step("1", Seat.POMP, Seat.PMP, IOA, InitializationRequest)(_nothing)
    ladder.step("2", Seat.PMP, Seat.CPE, AX, InitializationRequest)(_nothing)


def _answer(ladder: Ladder) -> None:
    ladder.step("1", Seat.PMP, Seat.POMP, IOA, RegistrationReport, answers="0")(_nothing)


def _twice(ladder: Ladder) -> None:
    ladder.step("1", Seat.PMP, Seat.POMP, IOA, RegistrationReport)(_nothing)
    ladder.step("1", Seat.CPE, Seat.PMP, AX, InitializationResponse)(_nothing)


@pytest.mark.parametrize(
    ("declare", "complaint"),
    [
        (_gap, "not contiguous"),
        (_order, "not contiguous and in order"),
        (_parts, "the parts of step 1"),
        (_interface, "AK does not join"),
        (_one_end, "Ioq does not join"),
        (_message, "stands for two steps"),
        (_answer, "answers 0, which does not exist"),
        (_twice, "declared twice"),
    ],
)
def test_a_wrong_declaration_is_refused(declare: Callable[[Ladder], None], complaint: str) -> None:
    ladder = Ladder("test", "nowhere")

    def declare_and_seal() -> None:
        declare(ladder)
        ladder.sealed()

    with pytest.raises(ValueError, match=complaint):
        declare_and_seal()
