"""What a run has to say: the shape of its report, and how one is made of the facts that the parties recorded.

Facts are read from stores (`qsotn.app.report`) or over HTTP (`qsotn.app.operator_report`); from here on it is the same.
Steps come from the journals (a step is there because its receiver accepted the message), frames and usage from what the
devices signed, keys from the QSSPs and key managers. No field can hold key material.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import msgspec

from qsotn.app.state import RunState
from qsotn.domain import Direction, KeyId, LineId, PartyId
from qsotn.errors import UsageError
from qsotn.messages import KeyUsageReport
from qsotn.parties.pomp import DeviceState, LineState, UsageRecord
from qsotn.ports import Taken


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


# --- facts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceFacts:
    """One device, and the steps of its initialisation from every party's journal, in any order."""

    cpe: PartyId
    state: DeviceState
    steps: Sequence[Taken]


@dataclass(frozen=True)
class LineFacts:
    """The line after its deletion, and the steps of both procedures from every party's journal, in any order."""

    line: LineId
    state: LineState
    odu: str
    establishment: Sequence[Taken]
    deletion: Sequence[Taken]


@dataclass(frozen=True)
class BlockFacts:
    """One distilled block of a QKD link: what its key managers and its ledger say."""

    pulses: int
    sifted_bits: int
    error_rate: float
    bits: int


@dataclass(frozen=True)
class LinkFacts:
    """One QKD link: its blocks, and the bits of them that both ends together may still allocate."""

    link: str
    blocks: Sequence[BlockFacts]
    remaining_bits: int


@dataclass(frozen=True)
class Facts:
    """All that a run left at the parties. `rekeys` counts the key changes that end A completed."""

    devices: Sequence[DeviceFacts]
    line: LineFacts
    record: UsageRecord
    rekeys: int
    sources: Mapping[KeyId, str]
    links: Sequence[LinkFacts]


# --- the report -----------------------------------------------------------------------------------------------------


def compose(facts: Facts, begun: RunState, received: Path) -> Report:
    """Make the report of a run that ended with the line's deletion. Raises `UsageError` if a file is gone."""
    return Report(
        initialization=tuple(Initialization(one.cpe, steps_of(one.steps), one.state) for one in facts.devices),
        leased_line=_leased_line(facts.line, facts.record),
        traffic=_traffic(facts, begun, received),
        keys=keys_of(facts.record, facts.sources),
        consumption=tuple(map(_consumption, facts.links)),
        usage=_usage(facts.record),
    )


def steps_of(journals: Iterable[Taken]) -> tuple[StepTaken, ...]:
    """Return a procedure's steps as their receivers accepted them, in the order of the figure."""
    taken = sorted(journals, key=lambda one: (one.number, one.part, one.accepted_at))
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


def _leased_line(line: LineFacts, record: UsageRecord) -> LeasedLine:
    reached = LineState.ENCRYPTED if record.encrypted_at else line.state
    deletion = Deletion(steps_of(line.deletion), line.state)
    return LeasedLine(line.line, steps_of(line.establishment), reached, line.odu, deletion)


def _traffic(facts: Facts, begun: RunState, received: Path) -> Traffic:
    source = Path(begun.file)
    multiframes = facts.record.end_a.multiframes_sent + facts.record.end_b.multiframes_sent
    return Traffic(
        sha256_in=_sha256(source),
        sha256_out=_sha256(received),
        bytes_in=source.stat().st_size,
        bytes_out=received.stat().st_size,
        frames=multiframes * 4,
        multiframes=multiframes,
        rekeys=facts.rekeys,
        seconds=round(begun.earlier_seconds, 3),
        mode="elastic",
    )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read any more: {error.strerror}") from error


def keys_of(record: UsageRecord, sources: Mapping[KeyId, str]) -> tuple[KeyUsed, ...]:
    """Return every session key of the line, with the frames its own sender encrypted under it."""
    sent = {Direction.A_TO_B: record.end_a.keys, Direction.B_TO_A: record.end_b.keys}
    return tuple(
        KeyUsed(use.key_id, sources[use.key_id], use.direction, use.frames, use.complete)
        for direction, uses in sent.items()
        for use in uses
        if use.direction == direction
    )


def _consumption(link: LinkFacts) -> LinkConsumption:
    blocks, total = link.blocks, sum(block.bits for block in link.blocks)
    return LinkConsumption(
        link=link.link,
        blocks=len(blocks),
        pulses=sum(block.pulses for block in blocks),
        sifted_bits=sum(block.sifted_bits for block in blocks),
        qber=round(sum(block.error_rate for block in blocks) / max(len(blocks), 1), 5),
        secret_bits=total,
        allocated_bits=total - link.remaining_bits,
        remaining_bits=link.remaining_bits,
    )


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
