"""A stream of ETSI GS QKD 004 as the key manager that owns it keeps it: which key is the chunk at which index.

The key manager of the application that began a stream owns it. It alone draws keys, one for each chunk: its own
application's end has them at once, and for the peer they wait at the peer's key manager as keys of ETSI GS QKD 014 do.
All that the peer's end must be told is the ID, so no key travels between key managers for a stream, and both ends
cannot but have the same chunk under one index.

Streams live in memory. A key manager that was restarted knows none, each has a *life* that is never the same again, and
a peer that comes with another life than the one that is here is told that its stream is gone. What was drawn and not
fetched expires with the ready keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from qsotn.domain import KeyId, Secret
from qsotn.errors import Refusal
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.delivery.offered import KeyDelivery
from qsotn.service.interoperation.etsi004_messages import LARGEST_INDEX, QoS, Status

MOST_AHEAD: Final = 64
"""How far beyond the newest chunk an index may be, and how many chunks one request may have drawn."""
MOST_KEPT: Final = 1024
"""Chunks of a stream that one of its ends has not fetched yet."""


class Unavailable(Refusal):
    """A function of the standard that ends with one of its status codes."""

    def __init__(self, status: Status, detail: str, *, may_change: bool = False, needed: int = 0) -> None:
        """`may_change` says that it is worth asking again, `needed` how many bytes the metadata has."""
        super().__init__(status.name, detail)
        self.status, self.may_change, self.needed = status, may_change, needed


class GivenOnce:
    """Which indexes one end was given: all below a mark that moves, and some above it."""

    def __init__(self) -> None:
        self.next = 0
        """The lowest index that was neither given nor passed over."""
        self._above: set[int] = set()

    def __contains__(self, index: int) -> bool:
        return index < self.next or index in self._above

    def add(self, index: int) -> None:
        """Note that an index was given."""
        self._above.add(index)
        while self.next in self._above:
            self._above.remove(self.next)
            self.next += 1

    def pass_over(self, mark: int) -> None:
        """Give nothing below a mark any more: it expired."""
        self.next = max(self.next, mark)
        self._above = {index for index in self._above if index >= self.next}
        while self.next in self._above:
            self._above.remove(self.next)
            self.next += 1


@dataclass(slots=True)
class Drawn:
    """The key of one chunk: its ID, until when it may be used, and our own end's copy until that was given."""

    key_id: KeyId
    until: float
    own: Secret | None
    located: bool = False


@dataclass(slots=True)
class Stream:
    """One stream that this key manager owns. Times in seconds of a monotonic clock."""

    stream: str
    life: str
    source: str
    destination: str
    qos: QoS
    begun: float
    opening: bool = True
    connected: bool = False
    drawn: dict[int, Drawn] = field(default_factory=dict)
    next: int = 0
    given: GivenOnce = field(default_factory=GivenOnce)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def draw(self, delivery: KeyDelivery, index: int, now: Callable[[], float]) -> Drawn:
        """Return the key of a chunk, and draw it and those before it if need be.

        Raises `Unavailable` for one that expired or lies too far ahead, and what `KeyDelivery.reserve` raises.
        """
        async with self.lock:
            self.sweep(now())
            if index >= self.next:
                await self._draw_up_to(delivery, index, now)
            if index not in self.drawn:
                raise Unavailable(Status.INSUFFICIENT_KEY, f"chunk {index} is no longer kept")
            return self.drawn[index]

    async def _draw_up_to(self, delivery: KeyDelivery, index: int, now: Callable[[], float]) -> None:
        self._forget_done()
        count = index + 1 - self.next
        if count > MOST_AHEAD or len(self.drawn) + count > MOST_KEPT or index > LARGEST_INDEX:
            raise Unavailable(Status.INSUFFICIENT_KEY, f"chunk {index} lies too far ahead of chunk {self.next}")
        keys = await delivery.reserve(self.source, [self.destination], count, self.qos.chunk_size * 8)
        self._take(keys, now() + self.qos.ttl)

    def _take(self, keys: Sequence[ReadyKey], until: float) -> None:
        for key in keys:
            self.drawn[self.next] = Drawn(key.key_id, until, key.key)
            self.next += 1

    @property
    def first(self) -> int:
        """The lowest index whose chunk may still be kept."""
        return min(self.drawn, default=self.next)

    def take_own(self, index: int) -> Secret:
        """Give our own end its copy, once."""
        chunk = self.drawn[index]
        if chunk.own is None:
            raise Unavailable(Status.INSUFFICIENT_KEY, f"chunk {index} was given before")
        own, chunk.own = chunk.own, None
        self.given.add(index)
        return own

    def locate(self, index: int) -> Drawn:
        """Tell the peer's end where its copy is; it may ask again, for its key manager gives the key only once."""
        chunk = self.drawn[index]
        chunk.located = True
        return chunk

    def _forget_done(self) -> None:
        """Forget chunks that both ends have; the newest of them stay, for the peer's question may be repeated."""
        before = self.next - MOST_AHEAD
        for index in [one for one, chunk in self.drawn.items() if one < before and chunk.located and chunk.own is None]:
            del self.drawn[index]

    def sweep(self, now: float) -> None:
        """Erase chunks whose time is over, at our end; the peer's key manager does so by itself."""
        expired = [index for index, chunk in self.drawn.items() if chunk.until <= now]
        for index in expired:
            self._erase(self.drawn.pop(index))
        if expired:
            self.given.pass_over(max(expired) + 1)

    def close(self) -> None:
        """Erase everything."""
        for chunk in self.drawn.values():
            self._erase(chunk)
        self.drawn.clear()

    @staticmethod
    def _erase(chunk: Drawn) -> None:
        if chunk.own is not None:
            chunk.own.erase()
            chunk.own = None


@dataclass(slots=True)
class PeerEnd:
    """The peer's end of a stream, at the peer's key manager, which may be the owner itself."""

    stream: str
    life: str
    source: str
    application: str
    qos: QoS
    begun: float
    given: GivenOnce = field(default_factory=GivenOnce)
    fetched: dict[int, tuple[KeyId, Secret, float]] = field(default_factory=dict)
    """Chunks that came from the key store and were not given yet, because their metadata did not fit."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def sweep(self, now: float) -> None:
        """Erase what was fetched and whose time is over."""
        for index in [index for index, (_, __, until) in self.fetched.items() if until <= now]:
            self.fetched.pop(index)[1].erase()

    def close(self) -> None:
        """Erase everything."""
        for _, key, __ in self.fetched.values():
            key.erase()
        self.fetched.clear()


def due(qos: QoS, begun: float, index: int) -> float:
    """Return when a chunk may be given at the earliest: `Max_bps` bounds every beginning of a stream."""
    return begun + index * qos.chunk_size * 8 / qos.max_bps
