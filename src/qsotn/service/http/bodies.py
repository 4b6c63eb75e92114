"""What the bodies of all requests together may occupy, from their first byte to the answer.

Each body has a limit of its own, but a process serves many connections, and a peer may open many and be slow on all.
What is beyond the common limit is refused at once, as all other work is that a service has no room for.
"""

from __future__ import annotations

from typing import Final

from qsotn.service.http.answer import Message, Receive
from qsotn.service.http.problems import OVERLOADED, HttpProblem

LARGEST_TOGETHER: Final = 64 * 1024 * 1024
"""Bytes."""


class Bodies:
    """The bodies that are here."""

    def __init__(self, most: int = LARGEST_TOGETHER) -> None:
        self._most = most
        self._together = 0

    def read(self, receive: Receive) -> Body:
        """Begin to read one more."""
        return Body(self, receive)

    def add(self, size: int) -> None:
        """Make room. Raises `HttpProblem` 503, which closes the connection: the rest would still come over it."""
        if self._together + size > self._most:
            detail = f"{self._together} bytes of other requests are here already; the limit is {self._most}"
            raise HttpProblem(OVERLOADED, detail, ("connection", "close"))
        self._together += size

    def remove(self, size: int) -> None:
        """Give room back."""
        self._together -= size


class Body:
    """An ASGI `receive` that counts what comes of one request's body."""

    def __init__(self, bodies: Bodies, receive: Receive) -> None:
        self._bodies = bodies
        self._receive = receive
        self._size = 0

    async def __call__(self) -> Message:
        """Return the server's next message. Raises `HttpProblem` 503 if there is no room for it."""
        message = await self._receive()
        arrived = len(message.get("body", b""))
        self._bodies.add(arrived)
        self._size += arrived
        return message

    def forget(self) -> None:
        """The request was answered, and its body is gone."""
        self._bodies.remove(self._size)
        self._size = 0
