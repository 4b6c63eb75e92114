"""ETSI GS QKD 020 V1.1.1, the sending end: what waits for other operators in the border store, said until it was heard.

One courier for all operators, each on its own: one that does not answer delays nobody else. What is due, and when
again, is in the store (`sent`, `received`), so nothing is forgotten with this process. A request is repeated after a
pause that doubles; its receiver takes a repetition for what it is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

import aiohttp
import msgspec
import structlog

from qsotn.domain import KeyId
from qsotn.errors import LineError, QsotnError, StoreError
from qsotn.service.interoperation import etsi020_messages as form
from qsotn.service.interoperation import received, sent
from qsotn.service.interoperation.border_store import InThread
from qsotn.service.interoperation.operators import Operator, Operators
from qsotn.service.interoperation.reply import ACCEPTED, JSON, OK

ANSWER_S: Final = 10.0
LOOK_S: Final = 1.0
LARGEST_ANSWER: Final = 64 * 1024
MOST_AT_ONCE: Final = 64
_CLIENT_ERRORS: Final = range(400, 500)
_NOTHING_KEPT: Final = 400
"""The only one to say so of the keys of the request: with any other they may have been taken."""
_TRY_AGAIN: Final = frozenset({401, 403, 404, 408, 425, 429})
"""Statuses of a far end that is being set up or is busy: they say nothing about the keys."""
_log = structlog.get_logger("interoperation")


class Line(Protocol):
    """The way to one operator's key manager."""

    async def post(self, path: str, body: bytes) -> int:
        """Send a document; return the status of the answer. Raises `LineError` if there was none."""


class HttpLine:
    """The way over HTTP and mutual TLS. Use it within one event loop, and close it."""

    def __init__(self, operator: Operator, context: Callable[[], ssl.SSLContext]) -> None:
        self._operator = operator
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes) -> int:
        """Send a document; return the status of the answer. No redirection is followed. Raises `LineError`."""
        url = self._operator.url.rstrip("/") + path
        headers = {"Content-Type": JSON}
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with self._opened().post(
                url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                await answer.content.read(LARGEST_ANSWER)
                return answer.status
        except (TimeoutError, aiohttp.ClientError, OSError, QsotnError) as error:
            raise LineError(f"{self._operator.name} gave no answer: {type(error).__name__} {error}") from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._context(), limit=4)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class Courier:
    """Says what is due to every operator, until it is stopped."""

    def __init__(
        self,
        operators: Operators,
        store: InThread,
        line: Callable[[Operator], Line],
        clock: Callable[[], int],
        own_url: str,
        settled: Callable[[Mapping[KeyId, sent.Sending]], None],
    ) -> None:
        """`own_url` is the origin under which operators reach this key manager, for their acknowledgements.

        `settled` is called with keys whose state a refusal changed.
        """
        self._operators, self._store, self._clock = operators, store, clock
        self._lines = {operator.name: line(operator) for operator in operators.all}
        self._callback = own_url.rstrip("/") + form.ACK
        self._settled = settled
        self._nudged = {operator.name: asyncio.Event() for operator in operators.all}

    def nudge(self) -> None:
        """Something may be due now."""
        for event in self._nudged.values():
            event.set()

    async def run(self) -> None:
        """Serve all operators until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_time())
            for name in self._lines:
                tasks.create_task(self._serve(name))

    async def _keep_time(self) -> None:
        while True:
            try:
                await self._store.call(partial(received.sweep, now=self._clock()))
            except StoreError as error:
                _log.error("the border store is not available", reason=str(error))
            await asyncio.sleep(LOOK_S)
            self.nudge()

    async def _serve(self, name: str) -> None:
        while True:
            await self._nudged[name].wait()
            self._nudged[name].clear()
            try:
                while await self.round(name):
                    pass
            except StoreError as error:
                _log.error("the border store is not available", reason=str(error))

    async def round(self, name: str) -> bool:
        """Say what is due to one operator now, once; return whether there was anything. Raises `StoreError`."""
        now = self._clock()
        acks = await self._store.call(partial(sent.acks_due, operator=name, now=now, limit=MOST_AT_ONCE))
        found = await self._store.call(partial(sent.due, operator=name, now=now, limit=form.MOST_KEYS))
        for ack in acks:
            await self._acknowledge(ack)
        for due in found:
            await self._send(due)
        return bool(acks or found)

    async def _acknowledge(self, ack: sent.PostedAck) -> None:
        status = await self._said(ack.operator, ack.path, ack.content)
        if status == OK or _is_final(status):
            await self._store.call(partial(sent.acked, number=ack.number))
        if status != OK:
            _log.warning("acknowledgement not taken", operator=ack.operator, status=status)

    async def _send(self, due: sent.Due) -> None:
        path, document = self._request(due)
        status = await self._said(due.operator, path, msgspec.json.encode(document))
        if _is_final(status):
            if due.state is sent.Sending.SENDING and status != _NOTHING_KEPT:
                abandoned = partial(sent.abandon, key_ids=due.key_ids, now=self._clock(), target=due.target)
                await self._store.call(abandoned)
            else:
                await self._store.call(partial(sent.refused, what=due))
            after = sent.Sending.FAILED if due.state is sent.Sending.SENDING else sent.Sending.FAILED_TO_VOID
            self._settled(dict.fromkeys(due.key_ids, after))
        if status != ACCEPTED:
            _log.warning("keys not taken", operator=due.operator, what=str(due.state), status=status)

    def _request(self, due: sent.Due) -> tuple[str, msgspec.Struct]:
        if due.state is sent.Sending.VOIDING:
            void = form.VoidContainer(due.initiator, (due.target,), due.key_ids, self._callback)
            return form.VOID, void
        keys = tuple(form.ExtKey(key.key_id, key.key.reveal()) for key in due.keys)
        return form.EXT_KEYS, form.ExtKeyContainer(keys, due.initiator, (due.target,), self._callback)

    async def _said(self, name: str, path: str, body: bytes) -> int | None:
        try:
            return await self._lines[name].post(path, body)
        except LineError as error:
            _log.warning("operator not reached", operator=name, reason=str(error))
            return None


def _is_final(status: int | None) -> bool:
    """Whether the far end refused this for good: the same again would be refused again."""
    return status in _CLIENT_ERRORS and status not in _TRY_AGAIN
