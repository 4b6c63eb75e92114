"""Datagrams to another party over HTTP: bytes out, receipts back, over mutual TLS that is somebody else's concern here.

A party may be served by several replicas: each address is tried in turn until one answers. Whatever ends without an
answer is a `LineError`, and its outcome is unknown: the receiver may have taken what was sent, and recognises it when
it comes again.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Final

import cbor2
import httptools
import msgspec

from qsotn.adapters.tls.context import PostQuantumContext
from qsotn.adapters.transport.exchange import MOST_CONNECTIONS, Exchanges, Response
from qsotn.domain import PartyId
from qsotn.errors import LineError, PeerError

CBOR_SEQUENCE: Final = "application/cbor-seq"
"""RFC 8742; here every item is a byte string."""
ANSWER_S: Final = 15.0
MAILBOX_WAIT_S: Final = 20
DEVICE_CONNECTIONS: Final = 2
"""A device keeps one connection to collect by, and one to send by: a request that waits its turn on it costs less than
another handshake."""
_ACCEPTED, _OK, _NOTHING, _UNAVAILABLE = 202, 200, 204, 503


class Receipt(msgspec.Struct, frozen=True):
    """What became of one datagram. `status` 202 is the receipt; anything else says why there is none."""

    status: int
    title: str = ""
    detail: str = ""
    procedure: str = ""

    @property
    def taken(self) -> bool:
        """Whether the receiver has the datagram durably."""
        return self.status == _ACCEPTED


class Receipts(msgspec.Struct, frozen=True):
    """One receipt a datagram, in their order."""

    receipts: tuple[Receipt, ...]


class Unavailable(LineError):
    """The other party asks to be left alone for a moment."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Declined(LineError):
    """The other party answered, and what it was asked did not happen."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class HttpPeer:
    """Another party as it is reached from here. Use it within one event loop, and close it."""

    def __init__(
        self,
        party: PartyId,
        urls: Sequence[str],
        context: Callable[[], PostQuantumContext],
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        self.party = party
        self._ways = [(url, Exchanges(url, context, most_connections)) for url in urls]

    async def send(self, interface: str, datagrams: Sequence[bytes]) -> tuple[Receipt, ...]:
        """Hand over datagrams of one interface; return a receipt for each. Raises `LineError`."""
        body = b"".join(cbor2.dumps(datagram) for datagram in datagrams)
        status, answer = await self._call("POST", f"/{interface.lower()}/v1/messages", body, ANSWER_S)
        if status == _ACCEPTED:
            return self._receipts(answer, len(datagrams))
        if len(datagrams) == 1:
            return (_refused(status, answer),)
        raise LineError(
            f"{self.party} answered {status} to {len(datagrams)} datagrams: {_refused(status, answer).title}"
        )

    def _receipts(self, answer: bytes, count: int) -> tuple[Receipt, ...]:
        try:
            receipts = msgspec.json.decode(answer, type=Receipts).receipts
        except msgspec.DecodeError as error:
            raise LineError(f"{self.party} answered with what are no receipts: {error}") from None
        if len(receipts) != count:
            raise LineError(f"{self.party} gave {len(receipts)} receipts for {count} datagrams")
        return receipts

    async def collect(self, limit: int, received: Sequence[int] = ()) -> list[tuple[int, bytes]]:
        """Fetch what waits for this device, at most `limit` datagrams, or wait for the first. Raises `LineError`.

        `received` are the numbers of those fetched before that are durable here.
        """
        path = f"/ax/v1/mailbox?wait={MAILBOX_WAIT_S}&limit={limit}"
        if received:
            path += f"&received={','.join(map(str, received))}"
        status, answer = await self._call("GET", path, None, MAILBOX_WAIT_S + ANSWER_S)
        if status == _NOTHING:
            return []
        if status != _OK:
            raise LineError(f"{self.party} answered {status}: {_refused(status, answer).detail}")
        return _numbered(answer)

    async def confirm(self, numbers: Sequence[int]) -> None:
        """Tell that these datagrams are durable here. Raises `LineError`."""
        body = msgspec.json.encode({"numbers": list(numbers)})
        status, answer = await self._call("POST", "/ax/v1/mailbox/receipts", body, ANSWER_S, "application/json")
        if status != _NOTHING:
            raise LineError(f"{self.party} answered {status} to receipts: {_refused(status, answer).detail}")

    async def ask(self, method: str, path: str, body: msgspec.Struct | None, expected: int) -> bytes:
        """Ask anything in JSON; return the answer's body.

        Raises `LineError`, which is `Declined` for an answer of another status than `expected`.
        """
        content = None if body is None else msgspec.json.encode(body)
        status, answer = await self._call(method, path, content, ANSWER_S, "application/json")
        if status != expected:
            detail = _refused(status, answer).detail
            raise Declined(f"{self.party} answered {status} to {method} {path}: {detail}", status)
        return answer

    async def _call(
        self, method: str, path: str, body: bytes | None, patience: float, kind: str = CBOR_SEQUENCE
    ) -> tuple[int, bytes]:
        failure = LineError(f"no address of {self.party} is known")
        for _ in range(len(self._ways)):
            url, way = self._ways[0]
            try:
                return self._whole(await way.request(method, path, body, kind, patience))
            except LineError as error:
                failure = error
            except (TimeoutError, OSError, PeerError, httptools.HttpParserError) as error:
                failure = LineError(f"{self.party} at {url} gave no answer: {type(error).__name__} {error}")
            self._ways.append(self._ways.pop(0))
        raise failure

    def _whole(self, response: Response) -> tuple[int, bytes]:
        if response.status == _UNAVAILABLE:
            raise Unavailable(f"{self.party} is not available now", _seconds(response.headers.get("retry-after")))
        return response.status, response.body

    async def close(self) -> None:
        """Close the connections."""
        for _, way in self._ways:
            await way.close()


def _numbered(answer: bytes) -> list[tuple[int, bytes]]:
    stream, found = io.BytesIO(answer), []
    while stream.tell() < len(answer):
        match _item(stream):
            case [int(number), bytes(datagram)]:
                found.append((number, datagram))
            case _:
                raise LineError("the mailbox holds something else than numbered datagrams")
    return found


def _item(stream: io.BytesIO) -> object:
    try:
        return cbor2.load(stream)
    except cbor2.CBORError as error:
        raise LineError(f"the mailbox holds no CBOR sequence: {error}") from None


def _refused(status: int, answer: bytes) -> Receipt:
    try:
        problem: dict[str, Any] = msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError:
        problem = {}
    return Receipt(status, str(problem.get("title", "no problem document")), str(problem.get("detail", "")))


def _seconds(value: str | None) -> float:
    return float(value) if value is not None and value.isdigit() else 1.0
