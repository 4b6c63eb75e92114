"""What the bodies of all requests together may occupy, from their first byte to the answer.

Each body has a limit of its own, but a process serves many connections, and a peer may open many and be slow on all.
So every peer has a share, and devices, of which there are many in many hands, have no more than half of the room
together: what they fill is never the platform's. What is beyond a limit is refused at once, as all other work is that a
service has no room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from qsotn.domain import Role
from qsotn.service.http.answer import Message, Receive
from qsotn.service.http.context import Peer
from qsotn.service.http.problems import OVERLOADED, HttpProblem

MIB: Final = 1024 * 1024
EVERYBODY, DEVICES = "everybody", "devices"
ROOM: Final = {EVERYBODY: 64 * MIB, DEVICES: 32 * MIB}
SHARE: Final = 24 * MIB
"""Of one party of the platform, or of one operator: three of the largest bodies."""
DEVICE_SHARE: Final = 1 * MIB
"""Of one device: a hundred times what it has to say at once."""


class Bodies:
    """The bodies that are here, by who shares a limit."""

    def __init__(self, room: Mapping[str, int] = ROOM, share: int = SHARE, device_share: int = DEVICE_SHARE) -> None:
        self._room = room
        self._share, self._device_share = share, device_share
        self._held: Counter[str] = Counter()

    def read(self, receive: Receive, peer: Peer | None) -> Body:
        """Begin to read one more, of a peer if it has a certificate."""
        return Body(self, receive, self._limits(peer))

    def _limits(self, peer: Peer | None) -> dict[str, int]:
        limits = {EVERYBODY: self._room[EVERYBODY]}
        if peer is None:
            return limits
        if peer.role is Role.CPE:
            return {**limits, DEVICES: self._room[DEVICES], peer.party: self._device_share}
        return {**limits, peer.party: self._share}

    def add(self, limits: Mapping[str, int], size: int) -> None:
        """Make room. Raises `HttpProblem` 503, which closes the connection: the rest would still come over it."""
        for whose, limit in limits.items():
            if self._held[whose] + size > limit:
                detail = (
                    f"{self._held[whose]} bytes of other requests of {whose} are here already; the limit is {limit}"
                )
                raise HttpProblem(OVERLOADED, detail, ("connection", "close"))
        for whose in limits:
            self._held[whose] += size

    def remove(self, owners: Iterable[str], size: int) -> None:
        """Give room back."""
        for whose in owners:
            self._held[whose] -= size
            if not self._held[whose]:
                del self._held[whose]


class Body:
    """An ASGI `receive` that counts what comes of one request's body."""

    def __init__(self, bodies: Bodies, receive: Receive, limits: Mapping[str, int]) -> None:
        self._bodies = bodies
        self._receive = receive
        self._limits = limits
        self._size = 0

    async def __call__(self) -> Message:
        """Return the server's next message. Raises `HttpProblem` 503 if there is no room for it."""
        message = await self._receive()
        arrived = len(message.get("body", b""))
        if arrived:
            self._bodies.add(self._limits, arrived)
            self._size += arrived
        return message

    def forget(self) -> None:
        """The request was answered, and its body is gone."""
        if self._size:
            self._bodies.remove(self._limits, self._size)
            self._size = 0
