"""What a finished run has to say, gathered from the parties' own stores: nothing in it is remembered by the demo.

Steps come from the journals (a step is there because its receiver accepted the message), frames and usage from what the
devices signed, keys from the QSSPs and key managers. No field can hold key material.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import msgspec

from qsotn.app.province import CPE_A, CPE_B, LINE, LINKS, POMP, QSSP_A, Province
from qsotn.app.state import RunState, StateFolder
from qsotn.domain import Direction, End, KeyId, LineId, PartyId, ProcedureId
from qsotn.errors import QsotnError, UsageError
from qsotn.keynetwork.pool import UNIT_BITS
from qsotn.messages import KeyUsageReport
from qsotn.parties.pomp import LineState, UsageRecord
from qsotn.ports import Taken
from qsotn.procedures.deletion import DELETION
from qsotn.procedures.leased_line import REKEY
from qsotn.procedures.turn import State


class Part(msgspec.Struct, frozen=True, omit_defaults=False):
    """One message of a step, as its receiver accepted it."""

    part: str
    message: str
    sender: str = msgspec.field(name="from")
    receiver: str = msgspec.field(name="to")
    interface: str
    ms: float
    """From the sender's issuing to the receiver's commit."""


class StepTaken(msgspec.Struct, frozen=True):
    """One numbered step of a figure, with the messages that made it."""

    n: int
    message: str
    sender: str = msgspec.field(name="from")
    receiver: str = msgspec.field(name="to")
    interface: str
    ms: float
    parts: tuple[Part, ...]


class Initialization(msgspec.Struct, frozen=True):
    """Figure 3 as it ran for one CPE."""

    cpe: str
    steps: tuple[StepTaken, ...]
    state: str


class Deletion(msgspec.Struct, frozen=True):
    """The line's deletion as it ran."""

    steps: tuple[StepTaken, ...]
    state: str


class LeasedLine(msgspec.Struct, frozen=True):
    """Figure 4 as it ran. `state` is what establishment reached; the run ends with the deletion."""

    line_id: str
    steps: tuple[StepTaken, ...]
    state: str
    odu: str
    deletion: Deletion


class Traffic(msgspec.Struct, frozen=True):
    """What the line carried, both directions together for frames; bytes are the file's."""

    bytes_in: int
    bytes_out: int
    sha256_in: str
    sha256_out: str
    frames: int
    multiframes: int
    rekeys: int
    seconds: float
    mode: str


class KeyUsed(msgspec.Struct, frozen=True):
    """One session key and how many OTU frames its sender encrypted under it: at least so many, unless `complete`."""

    key_id: str
    source: str
    direction: str
    frames: int
    complete: bool


class LinkConsumption(msgspec.Struct, frozen=True):
    """One QKD link: what the twin distilled and what was allocated from it."""

    link: str
    blocks: int
    pulses: int
    sifted_bits: int
    qber: float
    secret_bits: int
    allocated_bits: int
    remaining_bits: int


class Usage(msgspec.Struct, frozen=True):
    """The usage record that the POMP would bill."""

    account: str
    line_id: str
    odu: str
    seconds_in_service: float
    client_bytes_a_to_b: int
    client_bytes_b_to_a: int
    multiframes_a_to_b: int
    multiframes_b_to_a: int
    key_usage: tuple[KeyUsageReport, ...]


class Report(msgspec.Struct, frozen=True):
    """The whole run."""

    initialization: tuple[Initialization, ...]
    leased_line: LeasedLine
    traffic: Traffic
    keys: tuple[KeyUsed, ...]
    consumption: tuple[LinkConsumption, ...]
    usage: Usage

    @property
    def intact(self) -> bool:
        """Whether the far end received exactly what was sent."""
        return self.traffic.sha256_in == self.traffic.sha256_out


def compose(province: Province, begun: RunState, folder: StateFolder) -> Report:
    """Gather the report of a run that ended with the line's deletion."""
    record = usage_record(province)
    return Report(
        initialization=tuple(_initialization(province, cpe) for cpe in (CPE_A, CPE_B)),
        leased_line=_leased_line(province, record),
        traffic=_traffic(province, begun, folder, record),
        keys=keys_used(province, record),
        consumption=tuple(_consumption(province, link, ends) for link, ends in LINKS.items()),
        usage=_usage(record),
    )


def usage_record(province: Province) -> UsageRecord:
    """Return the POMP's record of the line. Raises `QsotnError` before the line was deleted."""
    with province.nodes[POMP].desk() as pomp:
        record = pomp.usage.get(LINE)
    if record is None:
        raise QsotnError(f"{LINE} has no usage record yet")
    return record  # type: ignore[no-any-return]  # a Node's desk is of its own party's type


def steps_taken(province: Province, procedure: ProcedureId) -> tuple[StepTaken, ...]:
    """Return one procedure's steps as their receivers accepted them, from every party's journal."""
    taken: list[Taken] = []
    for store in province.stores.values():
        with store.transaction() as transaction:
            taken += transaction.taken(procedure)
    taken.sort(key=lambda one: (one.number, one.part, one.accepted_at))
    return tuple(_step(number, list(parts)) for number, parts in groupby(taken, key=attrgetter("number")))


def _step(number: int, parts: Sequence[Taken]) -> StepTaken:
    first = parts[0]
    return StepTaken(
        n=number,
        message=_joined(one.message for one in parts),
        sender=_joined(one.sender for one in parts if one.part == first.part),
        receiver=_joined(one.receiver for one in parts if one.part == first.part),
        interface=_joined(one.interface for one in parts),
        ms=_milliseconds(max(one.accepted_at for one in parts) - min(one.issued_at for one in parts)),
        parts=tuple(_part(one) for one in parts),
    )


def _part(one: Taken) -> Part:
    ms = _milliseconds(one.accepted_at - one.issued_at)
    return Part(one.part, one.message, one.sender, one.receiver, one.interface, ms)


def _joined(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _milliseconds(microseconds: int) -> float:
    return round(microseconds / 1000, 1)


def _initialization(province: Province, cpe: PartyId) -> Initialization:
    with province.nodes[POMP].desk() as pomp:
        device = pomp.devices.require(cpe)
    return Initialization(cpe, steps_taken(province, device.work_order), device.state)


def _leased_line(province: Province, record: UsageRecord) -> LeasedLine:
    with province.nodes[POMP].desk() as pomp:
        line = pomp.lines.require(LINE)
    with province.nodes[POMP].rows() as rows:
        removed = next(row for row in rows if row.ladder == DELETION.name and row.subject == LINE)
    reached = LineState.ENCRYPTED if record.encrypted_at else line.state
    deletion = Deletion(steps_taken(province, removed.procedure), line.state)
    return LeasedLine(LINE, steps_taken(province, line.procedure), reached, line.quality.odu, deletion)


def _traffic(province: Province, begun: RunState, folder: StateFolder, record: UsageRecord) -> Traffic:
    source, received = Path(begun.file), folder.received
    multiframes = record.end_a.multiframes_sent + record.end_b.multiframes_sent
    return Traffic(
        sha256_in=_sha256(source),
        sha256_out=_sha256(received),
        bytes_in=source.stat().st_size,
        bytes_out=received.stat().st_size,
        frames=multiframes * 4,
        multiframes=multiframes,
        rekeys=_rekeys(province),
        seconds=round(begun.earlier_seconds, 3),
        mode="elastic",
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read any more: {error.strerror}") from error


def _rekeys(province: Province) -> int:
    with province.nodes[CPE_A].rows() as rows:
        return sum(row.ladder == REKEY.name and row.state is State.COMPLETED for row in rows)


def keys_used(province: Province, record: UsageRecord) -> tuple[KeyUsed, ...]:
    """Return every session key of the line, with the frames its own sender encrypted under it."""
    sources = _sources(province, record.line)
    sent = {Direction.A_TO_B: record.end_a.keys, Direction.B_TO_A: record.end_b.keys}
    return tuple(
        KeyUsed(use.key_id, sources[use.key_id], use.direction, use.frames, use.complete)
        for direction, uses in sent.items()
        for use in uses
        if use.direction == direction
    )


def _sources(province: Province, line: LineId) -> dict[KeyId, str]:
    with province.nodes[QSSP_A].desk() as qssp:
        kept = list(qssp.generations.values(f"{line}/{End.A}/"))
    return {
        key_id: source
        for generation in kept
        for key_id, source in zip((generation.key_id_a_to_b, generation.key_id_b_to_a), generation.sources, strict=True)
    }


def _consumption(province: Province, link: str, ends: tuple[PartyId, PartyId]) -> LinkConsumption:
    allocated = remaining = 0
    for party in ends:
        with province.nodes[party].desk() as km:
            blocks = list(km.blocks.values(f"{link}/"))
            left = km.available_bits(link)
        remaining += left
    total = sum(block.units for block in blocks) * UNIT_BITS
    allocated = total - remaining
    ledgers = [block.ledger for block in blocks]
    sifted = sum(ledger["key_basis_bits"] + ledger["test_basis_bits"] for ledger in ledgers)
    qber = sum(ledger["error_rate"] for ledger in ledgers) / max(len(ledgers), 1)
    pulses = sum(ledger["pulses"] for ledger in ledgers)
    return LinkConsumption(link, len(blocks), pulses, sifted, round(qber, 5), total, allocated, remaining)


def _usage(record: UsageRecord) -> Usage:
    return Usage(
        account=record.account,
        line_id=record.line,
        odu=record.odu,
        seconds_in_service=round((record.ended_at - record.encrypted_at) / 1e6, 3),
        client_bytes_a_to_b=record.end_b.client_bytes_out,
        client_bytes_b_to_a=record.end_a.client_bytes_out,
        multiframes_a_to_b=record.end_a.multiframes_sent,
        multiframes_b_to_a=record.end_b.multiframes_sent,
        key_usage=record.key_usage,
    )
