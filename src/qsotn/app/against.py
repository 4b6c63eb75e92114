"""The main job in a running province: two of its devices onboarded, a line between them, a file over it, the report.

Everything goes the way that a customer and an operator would go: orders and readings over the services' HTTP
interfaces, frames over the devices' client ports. What is found half done is taken up (a device that is READY stays
so); the line is new each time, and deleted at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from qsotn.app.client import ReceivingHost, SendingHost, Window
from qsotn.app.demo import QUALITY, Watcher
from qsotn.app.operator import Operator, together
from qsotn.app.operator_orders import (
    DEFAULT_ACCOUNT,
    OVER,
    LineWishes,
    delete_line,
    devices,
    line_order,
    line_view,
    lines,
    open_account,
    order_device,
    order_line,
    rekey_line,
)
from qsotn.app.operator_report import gather
from qsotn.app.operator_transfer import FIRST_WINDOW, LARGEST_WINDOW, PATIENCE_S, Passage, UdpPort
from qsotn.app.plan import Plan
from qsotn.app.record import ProvinceRecord
from qsotn.app.report_form import Report, compose
from qsotn.app.state import RunState
from qsotn.domain import LineId, PartyId, ProcedureId, Role, role_of
from qsotn.errors import LineError, QsotnError, Refusal, UsageError
from qsotn.parties.pomp import DeviceState
from qsotn.procedures.turn import State
from qsotn.service.http.operations_pomp import DeviceOrder, DeviceStatus

ORDER_S: Final = 600.0
"""A procedure may take as long as the POMP gives it."""
_REKEY_ATTEMPTS: Final = 5
_UNDER_WAY: Final = ("UNDER_WAY", "REKEY_UNDER_WAY")
"""The line changes its keys by itself, too; who comes between asks again."""

Ends = tuple[PartyId, PartyId]


def check_pomp(record: ProvinceRecord, url: str) -> None:
    """Check that a URL is that of the POMP of this province. Raises `UsageError`."""
    known = [one.url for one in record.services if role_of(one.party) is Role.POMP]
    if url.rstrip("/") not in known:
        raise UsageError(
            f"{url} is not the POMP of the province {record.name}, which is at {' and '.join(known)}; "
            "name that, or the folder of the province that is meant with --state DIR"
        )


class Job:
    """One run against a province."""

    def __init__(self, operator: Operator, record: ProvinceRecord, plan: Plan, watcher: Watcher) -> None:
        self._operator = operator
        self._record = record
        self._plan = plan
        self._watcher = watcher
        self.line = LineId(f"demo-{secrets.token_hex(4)}")
        self.line_may_be_there = False
        """Whether the line was ordered, and not deleted yet: whoever ends a run early leaves it."""

    async def run(self, begun: RunState, received: Path) -> Report:
        """Carry a file and report. Raises `QsotnError`; the line, once there, is then left as it is."""
        ends = await self._onboard()
        await self._establish(ends)
        seconds = await self._carry(ends, begun, received)
        deletion = await self._delete()
        facts = await gather(self._operator, self.line, deletion, self._plan.links)
        return compose(facts, msgspec.structs.replace(begun, earlier_seconds=seconds), received)

    # --- phases -----------------------------------------------------------------------------------------------------

    async def _onboard(self) -> Ends:
        self._watcher.phase("initialisation")
        ordered = {one.cpe: one for one in await devices(self._operator)}
        ends = await self._free_ends(ordered)
        await together(*(self._make_ready(cpe, ordered.get(cpe)) for cpe in ends))
        return ends

    async def _free_ends(self, ordered: dict[PartyId, DeviceStatus]) -> Ends:
        """Return the first fibre whose two devices serve no line and are not revoked. Raises `UsageError`."""
        serving = {
            cpe: line.line
            for line in await lines(self._operator)
            if line.state not in OVER
            for cpe in (line.cpe_a, line.cpe_b)
        }
        why = {cpe: f"{cpe} serves {line}, which qsotn line delete ends" for cpe, line in serving.items()}
        why |= {one.cpe: f"{one.cpe} is revoked" for one in ordered.values() if one.state is DeviceState.REVOKED}
        for ends in (fibre.ends for fibre in self._record.fibres):
            if why.keys().isdisjoint(ends):
                return ends
        raise UsageError(
            f"no fibre of {self._record.name} is free for a line: {'; '.join(why.values()) or 'it has none'}"
        )

    async def _make_ready(self, cpe: PartyId, known: DeviceStatus | None) -> None:
        if known is not None and known.state is DeviceState.READY:
            return
        if known is None or known.state is DeviceState.FAILED:
            order = DeviceOrder(cpe, self._plan.serial_numbers[cpe], self._plan.homes[cpe])
            work_order = (await order_device(self._operator, order)).procedure
        else:
            work_order = known.work_order
        await self._ended(work_order)

    async def _establish(self, ends: Ends) -> None:
        self._watcher.phase("leased line")
        await open_account(self._operator, DEFAULT_ACCOUNT)
        wanted = (DEFAULT_ACCOUNT, QUALITY.odu, QUALITY.rekey_interval_s, QUALITY.max_latency_us)
        order = line_order(LineWishes(self.line, ends, *wanted))
        self.line_may_be_there = True
        await self._ended((await order_line(self._operator, order)).procedure)

    async def _carry(self, ends: Ends, begun: RunState, received: Path) -> float:
        self._watcher.phase("traffic")
        window = Window(FIRST_WINDOW, LARGEST_WINDOW)
        sender = SendingHost(Path(begun.file), begun.size, 0, patience=PATIENCE_S, window=window)
        receiver = ReceivingHost(received, 0)
        with contextlib.closing(sender), contextlib.closing(receiver), contextlib.ExitStack() as ports:
            near, far = (ports.enter_context(UdpPort(self._record.client_ports[cpe])) for cpe in ends)
            passage = Passage(sender, receiver, near, far, self._rekey, self._shows(begun.size))
            try:
                return await passage.run()
            except LineError as error:
                raise LineError(f"{error}; {await self._alarms()}") from error

    def _shows(self, size: int) -> Callable[[int, int], None]:
        def show(received: int, rekeys: int) -> None:
            self._watcher.advance(f"{received >> 20} of {size >> 20} MiB, {rekeys} key changes", received / (size or 1))

        return show

    async def _rekey(self) -> None:
        """Order new keys; if the line is changing them by itself just now, ask again when it has."""
        for _ in range(_REKEY_ATTEMPTS):
            try:
                await self._ended((await rekey_line(self._operator, self.line)).procedure)
            except Refusal as no:
                if no.code not in _UNDER_WAY:
                    raise
                await asyncio.sleep(1.0)
            else:
                return
        raise QsotnError(f"{self.line} was changing its keys whenever it was asked to")

    async def _delete(self) -> ProcedureId:
        self._watcher.phase("deletion and usage")
        deletion = (await delete_line(self._operator, self.line)).procedure
        await self._ended(deletion)
        self.line_may_be_there = False
        return deletion

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def _ended(self, procedure: ProcedureId) -> None:
        """Wait for a procedure. Raises `Refusal` with the reason it failed for."""
        ended = await self._operator.ended(procedure, ORDER_S)
        if ended.state is not State.COMPLETED:
            raise Refusal(ended.failure, f"{ended.ladder} {procedure} of {ended.subject} failed")

    async def _alarms(self) -> str:
        view = await line_view(self._operator, self.line)
        told = (f"{end.cpe}: {', '.join(end.status.alarms) or 'none'}" for end in view.ends if end.status is not None)
        return f"alarms {'; '.join(told) or 'unknown'}"
