"""What an operator reads at a device: its binding, and the line it serves."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from qsotn.domain import End, LineId, PartyId, ProcedureId, QualityOfService
from qsotn.parties.cpe import BindingState, Cpe, CpeLine, LineState, Traffic
from qsotn.service.http.declaring import absent, reading
from qsotn.service.http.operation import Call


class BindingStatus(msgspec.Struct, frozen=True):
    """The device's relation to its operator and home QSSP, and its key file by count."""

    pomp: PartyId
    pmp: PartyId
    qssp: PartyId
    state: BindingState
    procedure: ProcedureId
    binding_id: str
    key_file_id: str
    entries: int
    left: int


class EndStatus(msgspec.Struct, frozen=True):
    """A line at this end: its state, what its terminal reports, what it carried.

    `generation` is the newest generation of keys asked for or received, `active` the one that encrypts; 0 is none.
    """

    line: LineId
    end: End
    peer: PartyId
    account: str
    quality: QualityOfService
    port: str
    procedure: ProcedureId
    state: LineState
    generation: int
    active: int
    alarms: tuple[str, ...]
    client_bytes_in: int
    client_bytes_out: int
    multiframes_sent: int


@reading(
    "/binding",
    tag="cpe",
    result=BindingStatus,
    example=BindingStatus(
        pomp=PartyId("pomp/shandong"),
        pmp=PartyId("pmp/shandong"),
        qssp=PartyId("qssp/jinan"),
        state=BindingState.READY,
        procedure=ProcedureId("8c9e6679-7425-40de-944b-e07fc1f90ae7"),
        binding_id="0b7f1b8e-3f0e-4c43-9d0e-5a9d0a1c2b3d",
        key_file_id="5d0c9f0a-7e0b-4a5c-8f5e-0f6c1d2e3a4b",
        entries=64,
        left=61,
    ),
)
def read_binding(cpe: Cpe, _: Call[Any, Any, None]) -> BindingStatus:
    """The device's binding, and how many entries of its key file are not burned yet."""
    held = cpe.binding.get("own")
    if held is None:
        raise absent("binding of", cpe.desk.party)
    file = cpe.key_files.get(held.key_file_id)
    entries = 0 if file is None else len(file.entries)
    return BindingStatus(
        pomp=held.pomp,
        pmp=held.pmp,
        qssp=held.qssp,
        state=held.state,
        procedure=held.procedure,
        binding_id=held.binding_id,
        key_file_id=held.key_file_id,
        entries=entries,
        left=0 if file is None else entries - file.burned_below,
    )


@reading(
    "/line",
    tag="cpe",
    result=EndStatus,
    example=EndStatus(
        line=LineId("line-1"),
        end=End.A,
        peer=PartyId("cpe/qingdao-1"),
        account="bank-of-shandong",
        quality=QualityOfService("ODU2", 3600, 5000),
        port="line-1/1",
        procedure=ProcedureId("8c9e6679-7425-40de-944b-e07fc1f90ae7"),
        state=LineState.ENCRYPTED,
        generation=3,
        active=3,
        alarms=(),
        client_bytes_in=67_108_864,
        client_bytes_out=67_108_864,
        multiframes_sent=1150,
    ),
)
def read_line_end(cpe: Cpe, call: Call[Any, Any, None]) -> EndStatus:
    """The line this device serves: its state, alarms and counters."""
    for line in cpe.lines.values():
        if line.state is not LineState.STOPPED:
            alarms = call.service.deployment.alarms(line.line)
            return _status(line, cpe.traffic.get(line.line) or Traffic(), alarms)
    raise absent("line in service at", cpe.desk.party)


def _status(line: CpeLine, carried: Traffic, alarms: tuple[str, ...]) -> EndStatus:
    return EndStatus(
        line=line.line,
        end=line.end,
        peer=line.peer,
        account=line.account,
        quality=line.quality,
        port=line.port,
        procedure=line.procedure,
        state=line.state,
        generation=line.generation,
        active=line.active,
        alarms=alarms,
        client_bytes_in=carried.client_bytes_in,
        client_bytes_out=carried.client_bytes_out,
        multiframes_sent=carried.multiframes_sent,
    )


OPERATIONS: Final = (read_binding, read_line_end)
