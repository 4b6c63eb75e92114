"""Clients of the streams of ETSI GS QKD 004 in our encoding: an application's, and the peer's key manager's."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from qsotn.domain import Secret
from qsotn.errors import LineError
from qsotn.service.interoperation import etsi004_messages as form
from qsotn.service.interoperation.etsi004_messages import QoS, Status

T = TypeVar("T")
_OK, _NO_CONTENT = 200, 204


class Line(Protocol):
    """A way to a key manager, as `adapters.transport.http.HttpPeer` is one."""

    async def ask(self, method: str, path: str, body: msgspec.Struct | None, expected: int) -> bytes:
        """Ask in JSON; return the body of the answer with the status `expected`. Raises `LineError`."""


class RemoteOwner:
    """`etsi004.Owner` at another key manager."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def connect(self, asked: form.Connect) -> form.Connected:
        """Connect an application, if the stream is there and it is the peer. Raises `LineError`."""
        return await _ask(self._line, form.CONNECT, asked, form.Connected)

    async def locate(self, asked: form.Locate) -> form.Located:
        """Say where a chunk is. Raises `LineError`."""
        return await _ask(self._line, form.LOCATE, asked, form.Located)

    async def leave(self, asked: form.Leave) -> None:
        """Note that the peer is gone. Raises `LineError`."""
        await self._line.ask("POST", form.LEAVE, asked, _NO_CONTENT)


class StreamClient:
    """The three functions, for one application at its key manager."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def open_connect(self, source: str, destination: str, qos: QoS, stream: str | None = None) -> form.Opened:
        """OPEN_CONNECT: return status, QoS and Key_stream_ID. Raises `LineError`."""
        return await _ask(
            self._line, form.OPEN_CONNECT, form.OpenConnect(source, destination, qos, stream), form.Opened
        )

    async def get_key(self, stream: str, index: int | None = None) -> tuple[Status, int | None, Secret | None]:
        """GET_KEY: return status, index, and the chunk if there is one. Raises `LineError`."""
        chunk = await _ask(self._line, form.GET_KEY, form.GetKey(stream, index), form.Chunk)
        return chunk.status, chunk.index, None if chunk.key is None else Secret(chunk.key)

    async def close(self, stream: str) -> Status:
        """CLOSE: return the status. Raises `LineError`."""
        return (await _ask(self._line, form.CLOSE, form.Close(stream), form.Closed)).status


async def _ask(line: Line, path: str, body: msgspec.Struct, kind: type[T]) -> T:
    answer = await line.ask("POST", path, body, _OK)
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, RecursionError):
        # Not the library's words nor their cause: they may quote what came, and a key may have come.
        raise LineError(f"the answer to {path} is none of its form") from None
