"""A device's side of Ax: it has no address, so it fetches what waits for it at its PMP, and says what it has.

A datagram is confirmed once it is durable here, or refused for good; one that comes too early stays at the PMP and
comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from qsotn.adapters.transport.http import HttpPeer
from qsotn.errors import BadSignature, LineError, OutOfOrder, PeerError
from qsotn.runtime.admission import Bearer
from qsotn.service.taking import Receipts
from qsotn.service.worker import DeskWorker, Overloaded

LIMIT: Final = 32
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
_log = structlog.get_logger("collector")


class Collector:
    """Fetches a device's mail as long as it runs."""

    def __init__(self, worker: DeskWorker, pmp: HttpPeer) -> None:
        self._worker = worker
        self._pmp = pmp
        self._task: asyncio.Task[None] | None = None
        self._pause = FIRST_PAUSE_S
        self._received: list[int] = []

    async def start(self) -> None:
        """Begin to fetch."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop fetching, and confirm what was taken last. What is not confirmed comes again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._received:
            with contextlib.suppress(LineError):
                await self._pmp.confirm(self._received)

    async def _run(self) -> None:
        while True:
            try:
                await self._fetch()
                self._pause = FIRST_PAUSE_S
            except (LineError, Overloaded) as error:
                _log.warning("no mail", reason=str(error))
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE_S)

    async def _fetch(self) -> None:
        mail = await self._pmp.collect(LIMIT, self._received)
        self._received = []
        if not mail:
            return
        receipts = await self._worker.receive([datagram for _, datagram in mail], Bearer(self._pmp.party, None))
        for error in receipts.refused.values():
            _log.info("no receipt", reason=str(error))
        # Told with the next request, which follows at once: a receipt of its own would double the requests.
        self._received = [number for at, (number, _) in enumerate(mail) if _is_done(receipts, at)]


def _is_done(receipts: Receipts, position: int) -> bool:
    """Whether a datagram need not come again: it is here, or it can never be taken.

    What comes too early, or from a party whose certificate this device does not know yet, may be taken later.
    """
    refused = receipts.refused.get(position)
    return refused is None or (isinstance(refused, PeerError) and not isinstance(refused, OutOfOrder | BadSignature))
