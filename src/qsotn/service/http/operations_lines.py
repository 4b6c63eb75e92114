"""What an operator reads and orders at a POMP: leased lines, and what they used."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from qsotn.domain import Direction, KeyId, LineId, PartyId, ProcedureId, QualityOfService
from qsotn.messages import DeletionResponse, KeyFrames, KeyUsageReport
from qsotn.parties.pomp import Line, LineState, Pomp, UsageRecord
from qsotn.procedures.turn import Work
from qsotn.service import orders
from qsotn.service.http.declaring import absent, listing, ordering, reading, terms_of
from qsotn.service.http.names import AccountName, CpeId, LineName, LinePath
from qsotn.service.http.operation import Call, Content
from qsotn.service.http.paging import Page, Window, page

_LINES: Final = "lines"
_USAGE: Final = "usage"
_DAY_S: Final = 24 * 3600


class LineOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line between two devices that are READY (Figure 4)."""

    line: LineName
    account: AccountName
    cpe_a: CpeId
    cpe_b: CpeId
    odu: Annotated[Literal["ODU0", "ODU1", "ODU2", "ODU2e", "ODU3", "ODU4"], msgspec.Meta(description="ITU-T G.709.")]
    rekey_interval_s: Annotated[int, msgspec.Meta(ge=1, le=_DAY_S, description="Seconds between two key changes.")]
    max_latency_us: Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description="One way, in microseconds.")]


class LineStatus(msgspec.Struct, frozen=True):
    """A line as it was ordered, and where it stands. `encrypted_at` in microseconds since the epoch, or 0."""

    line: LineId
    account: str
    cpe_a: PartyId
    cpe_b: PartyId
    qssp_a: PartyId
    qssp_b: PartyId
    quality: QualityOfService
    state: LineState
    procedure: ProcedureId
    encrypted_at: int
    generation: int
    failure: str


LINE_EXAMPLE: Final = LineStatus(
    line=LineId("line-1"),
    account="bank-of-shandong",
    cpe_a=PartyId("cpe/jinan-1"),
    cpe_b=PartyId("cpe/qingdao-1"),
    qssp_a=PartyId("qssp/jinan"),
    qssp_b=PartyId("qssp/qingdao"),
    quality=QualityOfService("ODU2", 3600, 5000),
    state=LineState.ENCRYPTED,
    procedure=ProcedureId("8c9e6679-7425-40de-944b-e07fc1f90ae7"),
    encrypted_at=1_780_000_000_500_000,
    generation=1,
    failure="",
)
_KEY: Final = KeyId("f02d0743-5956-43e3-9aec-35e959c5fdbd")
_END: Final = DeletionResponse(
    LineId("line-1"), 67_108_864, 67_108_864, 1150, (KeyFrames(_KEY, Direction.A_TO_B, 1600, True),)
)
USAGE_EXAMPLE: Final = UsageRecord(
    line=LineId("line-1"),
    account="bank-of-shandong",
    odu="ODU2",
    encrypted_at=1_780_000_000_500_000,
    ended_at=1_780_003_600_500_000,
    end_a=_END,
    end_b=_END,
    key_usage=(KeyUsageReport(LineId("line-1"), PartyId("cpe/jinan-1"), 6, 6, 3),),
)


def _line_view(line: Line) -> LineStatus:
    return LineStatus(
        line=line.line,
        account=line.account,
        cpe_a=line.cpe_a,
        cpe_b=line.cpe_b,
        qssp_a=line.qssp_a,
        qssp_b=line.qssp_b,
        quality=line.quality,
        state=line.state,
        procedure=line.procedure,
        encrypted_at=line.encrypted_at,
        generation=line.generation,
        failure=line.failure,
    )


# --- lines ----------------------------------------------------------------------------------------------------------


@listing("/lines", tag=_LINES, item=LineStatus, example=LINE_EXAMPLE)
def list_lines(pomp: Pomp, call: Call[Any, Window, None]) -> Page[LineStatus]:
    """The leased lines, by identifier, those of the past among them."""
    return page("lines", call.query, pomp.lines.items, _line_view)


def _read_line(pomp: Pomp, call: Call[LinePath, Any, None]) -> LineStatus:
    line = pomp.lines.get(call.path.line)
    if line is None:
        raise absent("line", call.path.line)
    return _line_view(line)


@reading("/lines/{line}", tag=_LINES, result=LineStatus, example=LINE_EXAMPLE, path_type=LinePath)
def read_line(pomp: Pomp, call: Call[LinePath, Any, None]) -> LineStatus:
    """One leased line: as it was ordered, and where it stands."""
    return _read_line(pomp, call)


_LINE_ORDER: Final = LineOrder("line-1", "bank-of-shandong", "cpe/jinan-1", "cpe/qingdao-1", "ODU2", 3600, 5000)


@ordering("POST", "/lines", tag=_LINES, body=Content(LineOrder, _LINE_ORDER))
def order_line(pomp: Pomp, work: Work, call: Call[Any, Any, LineOrder]) -> ProcedureId:
    """Order a leased line between two devices (Figure 4)."""
    asked = call.body
    ends = (PartyId(asked.cpe_a), PartyId(asked.cpe_b))
    quality = QualityOfService(asked.odu, asked.rekey_interval_s, asked.max_latency_us)
    return orders.order_line(pomp, work, LineId(asked.line), asked.account, ends, quality, terms_of(call))


@ordering("DELETE", "/lines/{line}", tag=_LINES, path_type=LinePath, resource=_read_line)
def delete_line(pomp: Pomp, work: Work, call: Call[LinePath, Any, None]) -> ProcedureId:
    """Order a line out of service: its keys are zeroised, its usage is recorded."""
    return orders.order_deletion(pomp, work, LineId(call.path.line), terms_of(call))


@ordering("POST", "/lines/{line}/rekeys", tag=_LINES, path_type=LinePath, resource=_read_line)
def rekey_line(pomp: Pomp, work: Work, call: Call[LinePath, Any, None]) -> ProcedureId:
    """Order new keys for a line, before its rekey interval is over."""
    return orders.order_rekey(pomp, work, LineId(call.path.line), terms_of(call))


# --- usage ----------------------------------------------------------------------------------------------------------


@listing("/usage", tag=_USAGE, item=UsageRecord, example=USAGE_EXAMPLE)
def list_usage(pomp: Pomp, call: Call[Any, Window, None]) -> Page[UsageRecord]:
    """What lines that were deleted had used, by line: what is billed."""
    return page("usage", call.query, pomp.usage.items, lambda record: record)


@reading("/usage/{line}", tag=_USAGE, result=UsageRecord, example=USAGE_EXAMPLE, path_type=LinePath)
def read_usage(pomp: Pomp, call: Call[LinePath, Any, None]) -> UsageRecord:
    """What one line used: both ends' own counts, and both cities' counts of keys."""
    record = pomp.usage.get(call.path.line)
    if record is None:
        raise absent("usage record of line", call.path.line)
    return record


OPERATIONS: Final = (list_lines, order_line, read_line, delete_line, rekey_line, list_usage, read_usage)
