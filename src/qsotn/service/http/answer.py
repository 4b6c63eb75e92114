"""What a request is answered with, and how it is sent.

Nothing here may be kept by a cache on the way: an answer tells the state of a secured service, to one peer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON: Final = "application/json"
NO_STORE: Final = (b"cache-control", b"no-store")

_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True)
class Answer:
    """A whole response. `headers` go beside content type, length and `Cache-Control`; their names are lower case."""

    status: int
    body: bytes = b""
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = field(default=())


def json_answer(status: int, value: object, *headers: tuple[str, str]) -> Answer:
    """Answer with a value as JSON."""
    return Answer(status, encoded(value), JSON, headers)


def encoded(value: object) -> bytes:
    """The one JSON representation of a value: what is sent, hashed for its ETag, and kept with an order."""
    return _ENCODER.encode(value)


async def send_answer(send: Send, answer: Answer) -> None:
    """Send a whole response. One without a body has no content type."""
    headers = [NO_STORE, *((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers)]
    if answer.body:
        headers.append((b"content-type", answer.media_type.encode("latin-1")))
    if answer.status not in (204, 304):  # RFC 9110 section 8.6: 204 has no length; a 304's would be another's
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


class Sending:
    """Passes an answer on, without its body if the request was a HEAD, and remembers how far it came."""

    def __init__(self, send: Send, method: str) -> None:
        self._send = send
        self._bodiless = method == "HEAD"
        self.status = 0
        """The status that was sent, or 0 if nothing was."""

    async def __call__(self, message: Message) -> None:
        """Pass one of the application's messages on to the server."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif self._bodiless:
            message = {**message, "body": b""}
        await self._send(message)
