"""An operator at a running province: asks its services over mutual TLS, and gives orders to its POMP.

An order goes out under one Idempotency-Key, however often it is sent: if an answer is lost, the same order is sent
again and the POMP gives the same answer, so that nothing is begun twice. Only what surely reached nobody, or was
refused, ends at once.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar, cast
from uuid import uuid4

import aiohttp
import msgspec

from qsotn.app.operator_errors import Busy, Declined, StillRunning, Unanswered, Unreachable, problem_in, reason_of
from qsotn.app.record import ADMIN, ProvinceRecord, load_record, operator_tls
from qsotn.domain import PartyId, ProcedureId, Role, role_of
from qsotn.errors import LineError, PeerError, UsageError
from qsotn.procedures.turn import State
from qsotn.service.config import LogSection
from qsotn.service.http.operation import PREFIX
from qsotn.service.http.paging import LARGEST_PAGE, Page
from qsotn.service.http.procedures import Procedure
from qsotn.service.identity_files import Credentialed
from qsotn.service.observability import configure_logging

T = TypeVar("T")

CONNECT_S, ANSWER_S = 5.0, 15.0
PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Before each repetition of what was not answered: together more than a service takes to start again."""
FIRST_LOOK_S, LAST_LOOK_S = 0.05, 1.0
"""Between two looks at a procedure; each is longer than the one before."""
LARGEST_ANSWER: Final = 16 * 1024 * 1024
_ABSENT, _UNAVAILABLE = 404, 503

Context = Callable[[PartyId], ssl.SSLContext | bool]
"""Returns what connections to one party are opened with."""


@dataclass(frozen=True)
class _Request:
    """One request under /operations/v1, the same however often it is sent."""

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Operator:
    """The services of one province as an operator reaches them: a context manager, within one event loop."""

    def __init__(self, urls: Mapping[PartyId, Sequence[str]], context: Context, advice: str = "") -> None:
        """`advice` says what to check when a service is not reached."""
        self.parties = tuple(urls)
        self.pomp = next(party for party in urls if role_of(party) is Role.POMP)
        self._urls = {party: list(addresses) for party, addresses in urls.items()}
        self._context = context
        self._contexts: dict[PartyId, ssl.SSLContext | bool] = {}
        self._advice = advice
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    # --- reading ----------------------------------------------------------------------------------------------------

    async def read(self, party: PartyId, path: str, kind: type[T]) -> T:
        """Return one resource under /operations/v1. Raises `LineError` or `Declined`."""
        return await self._ask(party, _Request("GET", path), kind)

    async def find(self, party: PartyId, path: str, kind: type[T]) -> T | None:
        """Return one resource, or None if there is none. Raises `LineError` or `Declined`."""
        try:
            return await self.read(party, path, kind)
        except Declined as error:
            if error.status == _ABSENT:
                return None
            raise

    async def every(self, party: PartyId, path: str, item: type[T]) -> list[T]:
        """Return a whole list. Raises `LineError` or `Declined`."""
        found: list[T] = []
        cursor: str | None = ""
        while cursor is not None:
            listed = await self.read(party, f"{path}?limit={LARGEST_PAGE}&cursor={cursor}", _page_of(item))
            found += listed.items
            cursor = listed.next_cursor
        return found

    async def ask(self, party: PartyId, path: str, question: msgspec.Struct, answer: type[T]) -> T:
        """Put a question that changes nothing, and return its answer.

        Raises `Refusal` if the party cannot answer it, `LineError` or `Declined`.
        """
        headers = {"Content-Type": "application/json"}
        return await self._ask(party, _Request("POST", path, msgspec.json.encode(question), headers), answer)

    # --- ordering ---------------------------------------------------------------------------------------------------

    async def order(self, method: str, path: str, body: msgspec.Struct | None, answer: type[T]) -> T:
        """Give an order to the POMP, once, and return its answer.

        Raises `Refusal` if the POMP decides no, `Declined` if it cannot take the order at all, `LineError` without an
        answer: then the order may have been taken.
        """
        headers = {"Idempotency-Key": str(uuid4())}
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else msgspec.json.encode(body)
        return await self._ask(self.pomp, _Request(method, path, content, headers), answer)

    async def ended(
        self, procedure: ProcedureId, patience_s: float, show: Callable[[Procedure], None] = lambda _: None
    ) -> Procedure:
        """Return a procedure of the POMP's when it has ended, well or not; `show` is told at every look.

        A POMP that does not answer is asked again. Raises `StillRunning` after `patience_s`, or what kept it unseen.
        """
        deadline, pause = time.monotonic() + patience_s, FIRST_LOOK_S
        unseen: LineError | None = None
        while True:
            try:
                seen = await self.read(self.pomp, f"/procedures/{procedure}", Procedure)
            except LineError as error:
                unseen = error
            else:
                unseen = None
                show(seen)
                if seen.state is not State.RUNNING:
                    return seen
            if time.monotonic() >= deadline:
                raise unseen or StillRunning(procedure, patience_s)
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LAST_LOOK_S)

    # --- one request ------------------------------------------------------------------------------------------------

    async def _ask(self, party: PartyId, request: _Request, kind: type[T]) -> T:
        answer = await self._repeated(party, request)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise LineError(f"{party} answered {request.path} with something else than it should: {error}") from None

    async def _repeated(self, party: PartyId, request: _Request) -> bytes:
        asked = False
        for pause in (*PAUSES_S, None):
            try:
                return await self._at_any_url(party, request)
            except (Unanswered, Busy) as error:
                asked = True
                failure: LineError = error
            except Unreachable as error:
                if not asked:
                    raise
                failure = error
            if pause is not None:
                await asyncio.sleep(max(pause, failure.retry_after_s if isinstance(failure, Busy) else 0.0))
        raise failure

    async def _at_any_url(self, party: PartyId, request: _Request) -> bytes:
        urls = self._urls[party]
        for _ in range(len(urls)):
            try:
                return await self._at(party, urls[0], request)
            except Unreachable as error:
                failure = error
                urls.append(urls.pop(0))
            except (Unanswered, Busy):
                urls.append(urls.pop(0))  # another replica may do better
                raise
        raise failure

    async def _at(self, party: PartyId, url: str, request: _Request) -> bytes:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S, connect=CONNECT_S)
        asked = self._session.request(
            request.method,
            url + PREFIX + request.path,
            data=request.content,
            headers=request.headers,
            timeout=timeout,
            ssl=self._context_for(party),
        )
        try:
            async with asked as response:
                return await _body(party, response)
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unreachable(party, url, reason_of(error)) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, PeerError) as error:
            raise Unreachable(party, url, reason_of(error), self._advice) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(party, url, reason_of(error), self._advice) from error

    def _context_for(self, party: PartyId) -> ssl.SSLContext | bool:
        if party not in self._contexts:  # connections are pooled by context
            self._contexts[party] = self._context(party)
        return self._contexts[party]


async def _body(party: PartyId, response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > LARGEST_ANSWER:
            raise LineError(f"{party} answered with more than {LARGEST_ANSWER} bytes")
    if response.ok:
        return bytes(answer)
    if response.status == _UNAVAILABLE:
        raise Busy(party, problem_in(response.status, answer), response.headers.get("Retry-After"))
    raise Declined.of(party, problem_in(response.status, answer))


async def together(*asked: Awaitable[T]) -> list[T]:
    """Wait for all; a failure is raised when nothing is under way any more."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return cast("list[T]", answers)


def _page_of(item: type[T]) -> type[Page[T]]:
    return cast("type[Page[T]]", Page[item])  # type: ignore[valid-type]  # a type that is a value here


def operator_of(state: Path) -> Operator:
    """Return the operator of a province's folder, with the certificate that lies in it.

    Raises `UsageError` for a folder that holds no province, `UsageError` or `BadProof` for one whose certificate cannot
    be used.
    """
    record = load_record(state)
    configure_logging(LogSection(level="error"), ADMIN)
    itself = Credentialed(ADMIN, operator_tls(state))
    advice = f"is it running? start it with: qsotn up --state {state}, or look into {state / 'log'}"
    return Operator(urls_of(record), itself.client, advice)


def urls_of(record: ProvinceRecord) -> dict[PartyId, tuple[str, ...]]:
    """Return where each party of a province is reached. Raises `UsageError` for a province without a POMP."""
    urls = {one.party: record.urls(one.party) for one in record.services}
    if not any(role_of(party) is Role.POMP for party in urls):
        raise UsageError(f"the province {record.name} has no POMP; nobody could take an order")
    return urls
