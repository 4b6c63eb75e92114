"""A generation of session keys is the same at both cities, the QKMP and both devices, and is kept nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.faults.facts import History, Seated, rule
from tests.faults.snapshots import CpeSnapshot, QkmpSnapshot, QsspSnapshot

from qsotn.domain import End, KeyId, LineId, PartyId
from qsotn.interfaces import Seat
from qsotn.parties import cpe, qssp
from qsotn.parties.cpe import GenerationState
from qsotn.procedures.leased_line import LEASED_LINE, REKEY
from qsotn.procedures.turn import State


class Drawn(NamedTuple):
    """A generation at one QSSP."""

    qssp: PartyId
    end: End
    kept: qssp.Generation

    @property
    def key_ids(self) -> tuple[KeyId, KeyId]:
        return self.kept.key_id_a_to_b, self.kept.key_id_b_to_a

    def __str__(self) -> str:
        return f"generation {self.kept.generation} of {self.kept.line} at {self.qssp}, end {self.end}"


def _drawn(history: History) -> Iterator[Drawn]:
    for city in history.all(QsspSnapshot):
        for name, kept in city.generations.items():
            yield Drawn(city.party, End(name.split("/")[-2]), kept)


def _by_number(history: History, end: End) -> dict[tuple[LineId, int], Drawn]:
    return {(one.kept.line, one.kept.generation): one for one in _drawn(history) if one.end is end}


@rule
def both_cities_drew_the_same_keys(history: History) -> Iterator[str]:
    """What city B has, city A drew, under the same number."""
    masters = _by_number(history, End.A)
    for number, drawn in _by_number(history, End.B).items():
        master = masters.get(number)
        if master is None or master.key_ids != drawn.key_ids:
            yield f"{drawn} has keys {drawn.key_ids}, and end a has {master.key_ids if master else 'none'}"


@rule
def the_qkmp_saw_what_the_cities_share(history: History) -> Iterator[str]:
    """Line, number, QSSPs and key IDs of every synchronisation are those of both cities."""
    masters, others = _by_number(history, End.A), _by_number(history, End.B)
    for platform in history.all(QkmpSnapshot):
        for seen in platform.synchronisations.values():
            for cities, city in ((masters, seen.master), (others, seen.responder)):
                drawn = cities.get((seen.line, seen.generation))
                if drawn is None or (drawn.qssp, drawn.key_ids) != (city, seen.key_ids):
                    said = f"{platform.party} saw keys {seen.key_ids} for generation {seen.generation} of {seen.line}"
                    yield f"{said}, and {city} has {drawn.key_ids if drawn else 'none'}"


def _changes(history: History) -> Iterator[tuple[Seated, End]]:
    """Yield the rows of the QSSPs that completed a generation."""
    for one in history.seated:
        drew = one.row.ladder in (LEASED_LINE.name, REKEY.name) and one.row.seat in (Seat.QSSP_A, Seat.QSSP_B)
        if drew and one.row.state is State.COMPLETED and one.row.seat.end is not None:
            yield one, one.row.seat.end


@rule
def a_completed_key_change_reached_everybody(history: History) -> Iterator[str]:
    """A QSSP that completed one has drawn its generation, its device armed it, and the QKMP saw it."""
    seen = {
        (shared.line, shared.generation)
        for platform in history.all(QkmpSnapshot)
        for shared in platform.synchronisations.values()
    }
    for one, end in _changes(history):
        name = f"{one.row.subject}/{end}/{one.row.generation:08}"
        device = history.at(one.row.seats[Seat.CPE_A if end is End.A else Seat.CPE_B], CpeSnapshot)
        if name not in history.at(one.party, QsspSnapshot).generations:
            yield f"{one}, but {one.party} has no generation {name}"
        if f"{one.row.subject}/{one.row.generation:08}" not in device.generations:
            yield f"{one}, but {device.party} has no generation {one.row.generation} of {one.row.subject}"
        if (one.row.subject, one.row.generation) not in seen:
            yield f"{one}, but no QKMP saw generation {one.row.generation} of {one.row.subject}"


@rule
def no_undelivered_session_key_is_left(history: History) -> Iterator[str]:
    """A QSSP keeps wrapped keys only for a procedure that runs."""
    running = {
        (one.party, one.row.seat.end, one.row.subject, one.row.generation)
        for one in history.seated
        if one.row.state is State.RUNNING
    }
    for drawn in _drawn(history):
        if drawn.kept.wrapped and (drawn.qssp, drawn.end, drawn.kept.line, drawn.kept.generation) not in running:
            yield f"{drawn} still holds its keys {drawn.key_ids}"


@rule
def a_device_holds_what_its_city_drew(history: History) -> Iterator[str]:
    """Key IDs, and the entry that wrapped them, are those of its home QSSP for its end."""
    for device, held in _at_devices(history):
        drawn = _source(history, device, held)
        told = None if drawn is None else (drawn.key_id_a_to_b, drawn.key_id_b_to_a, drawn.key_file_id, drawn.entry)
        has = (*held.key_ids, held.key_file_id, held.entry)
        if has != told:
            yield f"{_named(device, held)}: it has {has}, its QSSP {told}"


def _source(history: History, device: CpeSnapshot, held: cpe.SessionKeys) -> qssp.Generation | None:
    own, line = device.binding.get("own"), device.lines.get(held.line)
    if own is None or line is None:
        return None
    return history.at(own.qssp, QsspSnapshot).generations.get(f"{held.line}/{line.end}/{held.generation:08}")


@rule
def a_device_keeps_keys_only_until_they_are_installed(history: History) -> Iterator[str]:
    """An ARMED generation has both keys; an INSTALLED or ERASED one has none."""
    for device, held in _at_devices(history):
        expected = len(held.key_ids) if held.state is GenerationState.ARMED else 0
        if len(held.wrapped) != expected:
            yield f"{_named(device, held)} is {held.state} and keeps {len(held.wrapped)} keys of {held.key_ids}"


def _at_devices(history: History) -> Iterator[tuple[CpeSnapshot, cpe.SessionKeys]]:
    for device in history.all(CpeSnapshot):
        for held in device.generations.values():
            yield device, held


def _named(device: CpeSnapshot, held: cpe.SessionKeys) -> str:
    return f"generation {held.generation} of {held.line} at {device.party}"
