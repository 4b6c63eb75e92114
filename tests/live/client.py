"""An operator who asks again until it knows: every request it sends to the POMP goes into a history.

An order has one Idempotency-Key, however often it is sent. What ends without an answer, or with one that does not say
whether the order was taken (503), is noted as unknown and sent again, to the next replica if there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aiohttp
import msgspec
from tests.faults.history import Operation, Outcome

from qsotn.app.record import ADMIN, load_plan, load_record, operator_tls
from qsotn.domain import PartyId, ProcedureId
from qsotn.procedures.turn import State
from qsotn.service.host import now_us
from qsotn.service.identity_files import Credentialed

PREFIX: Final = "/operations/v1"
ANSWER_S: Final = 8.0
CONNECTIONS: Final = 64
PATIENCE_S: Final = 120.0
"""How long one order may remain unknown, and one procedure may run."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
UNANSWERED: Final = (TimeoutError, aiohttp.ClientError, OSError)


@dataclass(frozen=True)
class Answer:
    """What the POMP said."""

    status: int
    body: dict[str, Any]
    retry_after: str | None = None


@dataclass
class Client:
    """One operator at the POMP of a province."""

    pomp: PartyId
    urls: list[str]
    session: aiohttp.ClientSession
    operations: list[Operation] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    """Every answer, by its status; 0 is none."""
    told: dict[ProcedureId, State] = field(default_factory=dict)
    """How each procedure stood when it was last looked at."""

    async def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer | None:
        """Send one request once; return None if no answer came."""
        try:
            answer = await self._ask(method, path, body, headers or {})
        except UNANSWERED:
            self.urls.append(self.urls.pop(0))
            answer = None
        self.statuses[answer.status if answer else 0] += 1
        return answer

    async def _ask(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> Answer:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        request = self.session.request(
            method, self.urls[0] + PREFIX + path, json=body, headers=dict(headers), timeout=timeout
        )
        async with request as response:
            told = await response.read()
            document = msgspec.json.decode(told, type=dict[str, Any]) if told else {}
            return Answer(response.status, document, response.headers.get("Retry-After"))

    # --- orders -------------------------------------------------------------------------------------------------------

    async def open_account(self, name: str) -> None:
        """Open a customer's account."""
        await self._until_known("POST", "/accounts", {"name": name}, {"Idempotency-Key": str(uuid4())})

    async def order(self, kind: str, subject: str, method: str, path: str, body: object = None) -> Operation:
        """Give an order, and return how it was answered in the end."""
        request, answer, pause = str(uuid4()), None, FIRST_PAUSE_S
        end = time.monotonic() + PATIENCE_S
        while answer is None or answer.status == 503:
            invoked = now_us()
            try:
                answer = await self.ask(method, path, body, {"Idempotency-Key": request})
            except asyncio.CancelledError:
                self._note(kind, subject, request, invoked, None)
                raise
            told = self._note(kind, subject, request, invoked, answer)
            if told.outcome is Outcome.UNKNOWN:
                assert time.monotonic() < end, f"{kind} of {subject} is unknown after {PATIENCE_S:g} s"
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        return told

    def _note(self, kind: str, subject: str, request: str, invoked: int, answer: Answer | None) -> Operation:
        outcome, procedure, answered = Outcome.UNKNOWN, None, None
        if answer is not None:
            outcome, procedure = _outcome(answer)
            answered = now_us()
        told = Operation(kind, subject, self.pomp, request, invoked, answered, outcome, procedure)
        self.operations.append(told)
        return told

    async def _until_known(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> Answer:
        end = time.monotonic() + PATIENCE_S
        while True:
            answer = await self.ask(method, path, body, headers)
            if answer is not None and answer.status < 300:
                return answer
            assert answer is None or answer.status == 503, f"{method} {path} was answered {answer}"
            assert time.monotonic() < end, f"{method} {path} has no answer after {PATIENCE_S:g} s"
            await asyncio.sleep(LONGEST_PAUSE_S / 2)

    # --- procedures ---------------------------------------------------------------------------------------------------

    async def ended(self, procedure: ProcedureId | None, patience_s: float = PATIENCE_S) -> tuple[State, str]:
        """Wait for the end of a procedure; return how it ended at the POMP, and with which failure."""
        assert procedure is not None, "it was never accepted"
        end = time.monotonic() + patience_s
        while True:
            told = (await self._until_known("GET", f"/procedures/{procedure}", None, {})).body
            self.told[procedure] = state = State(told["state"])
            if state is not State.RUNNING:
                return state, str(told["failure"])
            assert time.monotonic() < end, f"a procedure has not ended within {patience_s:g} s: {told}"
            await asyncio.sleep(FIRST_PAUSE_S)


def _outcome(answer: Answer) -> tuple[Outcome, ProcedureId | None]:
    match answer.status:
        case 202:
            return Outcome.OK, ProcedureId(answer.body["procedure"])
        case 409:
            return Outcome.REFUSED, None
        case 503:
            return Outcome.UNKNOWN, None
    raise AssertionError(f"an order was answered {answer.status}: {answer.body}")


@contextlib.asynccontextmanager
async def connected(state: Path) -> AsyncIterator[Client]:
    """An operator of the province in a folder."""
    pomp, tls, sockets = load_plan(state).pomp, Credentialed(ADMIN, operator_tls(state)), list[socket.socket]()

    def made(address: Sequence[Any]) -> socket.socket:
        sockets.append(socket.socket(*address[:3]))
        return sockets[-1]

    connector = aiohttp.TCPConnector(ssl=tls.client(pomp), limit=CONNECTIONS, keepalive_timeout=60, socket_factory=made)
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Client(pomp, list(load_record(state).urls(pomp)), session)
    finally:
        for one in sockets:
            # A connection that timed out says goodbye, and would wait half a minute for an answer of one that is dead.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0.1)
