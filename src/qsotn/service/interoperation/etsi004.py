"""ETSI GS QKD 004 V2.1.1: OPEN_CONNECT, GET_KEY and CLOSE for the applications of one key manager.

    application A ── key manager of A, owner ◀── connect, locate, leave ── key manager of B ── application B
                          └────────────── ready keys, as for ETSI GS QKD 014 ──────────────┘

Whoever comes first begins the stream, and its key manager owns it (`etsi004_streams`); the other connects under the
same Key_stream_ID. If both begin at once, the key manager whose name sorts first owns it. GET_KEY waits for keys, for
the peer's key manager and for the rate of `Max_bps`, up to `Timeout`; a chunk is given once to each end.

Applications are SAEs, known by their certificates; what they call themselves in a request must agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import uuid4

import msgspec

from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import LineError, MalformedMessage, Refusal, WrongParty
from qsotn.service.delivery.offered import KeyDelivery, Offer
from qsotn.service.delivery.saes import Saes
from qsotn.service.interoperation import etsi004_messages as form
from qsotn.service.interoperation.etsi004_messages import QoS, Status
from qsotn.service.interoperation.etsi004_qos import LONGEST_TIMEOUT_MS, Capability, is_met, offered
from qsotn.service.interoperation.etsi004_streams import Drawn, PeerEnd, Stream, Unavailable, due
from qsotn.service.worker import Overloaded

MOST_STREAMS: Final = 256
"""Of one application."""
RETRY_S: Final = 0.05
"""How long is waited before keys are asked for again where there were too few."""
_NOWHERE: Final = form.Connected(found=False)


class Owner(Protocol):
    """A key manager that may own a stream, as the peer's key manager asks it. Every method raises `LineError`."""

    async def connect(self, asked: form.Connect) -> form.Connected:
        """Connect an application, if the stream is there and it is the peer."""

    async def locate(self, asked: form.Locate) -> form.Located:
        """Say where a chunk is."""

    async def leave(self, asked: form.Leave) -> None:
        """Note that the peer is gone."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What streams work with. `rate` is what a pair of key managers gains, in bits per second; `now` is monotonic."""

    delivery: KeyDelivery
    saes: Saes
    owner: Callable[[PartyId], Owner]
    rate: Callable[[PartyId, PartyId], int]
    now: Callable[[], float]


class KeyStreams:
    """All streams of one key manager's applications."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._owned: dict[str, Stream] = {}
        self._ends: dict[tuple[str, str], PeerEnd] = {}

    # --- for applications -------------------------------------------------------------------------------------------

    async def open(self, application: str, asked: form.OpenConnect) -> form.Opened:
        """OPEN_CONNECT. Raises `MalformedMessage`, `WrongParty`, `Refusal` UNKNOWN_SAE."""
        peer = self._peer_of(application, asked)
        self.sweep()
        try:
            async with asyncio.timeout(_patience_s(asked.qos)):
                return await self._opened(application, peer, asked)
        except TimeoutError:
            return form.Opened(Status.TIMEOUT, asked.qos, asked.stream)
        except LineError:
            return form.Opened(Status.NO_QKD_CONNECTION, asked.qos, asked.stream)
        except Unavailable as error:
            return form.Opened(error.status, asked.qos, asked.stream)

    async def get_key(self, application: str, asked: form.GetKey) -> form.Chunk:
        """GET_KEY. Raises `StoreError`."""
        self.sweep()
        qos = self._qos_of(application, asked.stream)
        last = Unavailable(Status.TIMEOUT, "no answer in time")
        try:
            async with asyncio.timeout(_patience_s(qos)):
                while True:
                    try:
                        return await self._chunk(application, asked)
                    except Unavailable as error:
                        last = error
                    if last.status is not Status.INSUFFICIENT_KEY or not last.may_change or not qos.timeout:
                        return form.Chunk(last.status, asked.index, metadata_size=last.needed)
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            return form.Chunk(last.status, asked.index)

    async def close(self, application: str, asked: form.Close) -> form.Closed:
        """CLOSE: erase what this end still has of a stream, and let the peer know when it asks."""
        stream = self._owned.get(asked.stream)
        end = self._ends.pop((application, asked.stream), None)
        if end is not None:
            end.close()
            await self._leave(application, end)
            return form.Closed(Status.SUCCESSFUL)
        if stream is None or stream.source != application:
            return form.Closed(Status.NO_QKD_CONNECTION)
        self._drop(stream)
        return form.Closed(Status.SUCCESSFUL)

    def sweep(self) -> None:
        """Erase what is past its TTL."""
        now = self._around.now()
        for stream in self._owned.values():
            stream.sweep(now)
        for end in self._ends.values():
            end.sweep(now)

    def reports(self) -> list[form.StreamReport]:
        """Return the streams that are owned here, by name, for an operator."""
        homes = self._around.saes.home
        return [
            form.StreamReport(
                name, one.source, one.destination, homes(one.destination), one.qos, connected=one.connected
            )
            for name, one in sorted(self._owned.items())
        ]

    # --- for the key managers of peers ------------------------------------------------------------------------------

    async def connect(self, asked: form.Connect, asking: PartyId | None = None) -> form.Connected:
        """Connect the peer of a stream that is owned here; `asking` is its key manager, if it is another.

        Where both began the stream at the same moment, only one of them may be found.
        """
        stream = self._owned.get(asked.stream)
        if stream is None or stream.destination != asked.application:
            return _NOWHERE
        if stream.opening and asking is not None and self._around.saes.own > asking:
            return _NOWHERE
        stream.connected = True
        age = self._around.now() - stream.begun
        return form.Connected(True, stream.life, stream.source, stream.qos, age)

    async def locate(self, asked: form.Locate) -> form.Located:
        """Say under which ID a chunk waits for the peer."""
        stream = self._owned.get(asked.stream)
        if stream is None or (stream.life, stream.destination) != (asked.life, asked.application):
            return form.Located(Status.NO_QKD_CONNECTION)
        try:
            await self._drawn(stream, asked.index)
            chunk = stream.locate(asked.index)
        except Unavailable as error:
            return form.Located(error.status, first=stream.first)
        left = chunk.until - self._around.now()
        return form.Located(Status.SUCCESSFUL, chunk.key_id, left, stream.first)

    async def leave(self, asked: form.Leave) -> None:
        """Note that the peer of a stream is gone; it may connect again."""
        stream = self._owned.get(asked.stream)
        if stream is not None and (stream.life, stream.destination) == (asked.life, asked.application):
            stream.connected = False

    # --- opening ----------------------------------------------------------------------------------------------------

    def _peer_of(self, application: str, asked: form.OpenConnect) -> str:
        self._around.saes.check_own(application)
        if application not in (asked.source, asked.destination):
            raise WrongParty(f"{application} is neither Source nor Destination of the stream")
        if asked.source == asked.destination:
            raise MalformedMessage("Source and Destination are one application")
        peer = asked.destination if application == asked.source else asked.source
        self._around.saes.home(peer)
        return peer

    async def _opened(self, application: str, peer: str, asked: form.OpenConnect) -> form.Opened:
        if asked.stream is None:
            return await self._begun(application, peer, asked, str(uuid4()))
        known = self._owned.get(asked.stream)
        if (application, asked.stream) in self._ends or (known is not None and known.destination != application):
            raise Unavailable(Status.STREAM_IN_USE, f"stream {asked.stream} is in use")
        if known is not None and known.source != peer:
            raise Unavailable(Status.STREAM_IN_USE, f"stream {asked.stream} is in use")
        end = await self._connected(application, peer, asked.stream)
        if end is not None:
            return form.Opened(Status.SUCCESSFUL, end.qos, end.stream)
        return await self._begun(application, peer, asked, asked.stream)

    async def _begun(self, application: str, peer: str, asked: form.OpenConnect, name: str) -> form.Opened:
        """Begin a stream here, unless its QoS cannot be met, or the peer began it at the same moment."""
        offer = await self._offer(application, peer, asked.qos)
        if not is_met(asked.qos, offer):
            return form.Opened(Status.QOS_NOT_MET, offer)
        if name in self._owned:
            raise Unavailable(Status.STREAM_IN_USE, f"stream {name} is in use")
        stream = Stream(name, str(uuid4()), application, peer, offer, self._around.now())
        self._owned[name] = stream
        try:
            end = None if asked.stream is None else await self._connected(application, peer, name)
        except BaseException:
            self._drop(stream)
            raise
        stream.opening = False
        if end is not None:
            self._drop(stream)
            return form.Opened(Status.SUCCESSFUL, end.qos, name)
        return form.Opened(Status.SUCCESSFUL if stream.connected else Status.PEER_NOT_CONNECTED, offer, name)

    async def _offer(self, application: str, peer: str, asked: QoS) -> QoS:
        if sum(stream.source == application for stream in self._owned.values()) >= MOST_STREAMS:
            raise Overloaded(f"{application} has {MOST_STREAMS} streams already")
        found = await self._around.delivery.offer(application, peer)
        return offered(asked, self._capability(found))

    def _capability(self, offer: Offer) -> Capability:
        promised = sum(
            stream.qos.min_bps
            for stream in self._owned.values()
            if self._around.saes.home(stream.destination) == offer.target
        )
        free = max(0, self._around.rate(offer.source, offer.target) - promised)
        return Capability(-(-offer.smallest_key // 8), offer.largest_key // 8, free)

    async def _connected(self, application: str, peer: str, name: str) -> PeerEnd | None:
        """Connect to a stream that the peer began; None if there is none. Raises `LineError`."""
        found = await self._owner(peer).connect(form.Connect(name, application))
        if not found.found or found.qos is None or found.source != peer:
            return None
        if sum(one == application for one, _ in self._ends) >= MOST_STREAMS:
            raise Overloaded(f"{application} is connected to {MOST_STREAMS} streams already")
        begun = self._around.now() - found.age_s
        end = PeerEnd(name, found.life, peer, application, found.qos, begun)
        self._ends[application, name] = end
        return end

    def _owner(self, application: str) -> Owner:
        home = self._around.saes.home(application)
        return self if home == self._around.saes.own else self._around.owner(home)

    def _drop(self, stream: Stream) -> None:
        stream.close()
        if self._owned.get(stream.stream) is stream:
            del self._owned[stream.stream]

    async def _leave(self, application: str, end: PeerEnd) -> None:
        try:
            await self._owner(end.source).leave(form.Leave(end.stream, end.life, application))
        except LineError:
            return  # the owner learns of it from nobody asking any more; its keys expire

    # --- keys -------------------------------------------------------------------------------------------------------

    def _qos_of(self, application: str, name: str) -> QoS:
        end, stream = self._ends.get((application, name)), self._owned.get(name)
        if end is not None:
            return end.qos
        return stream.qos if stream is not None and stream.source == application else QoS(0)

    async def _chunk(self, application: str, asked: form.GetKey) -> form.Chunk:
        end, stream = self._ends.get((application, asked.stream)), self._owned.get(asked.stream)
        if end is not None:
            return await self._peers_chunk(end, asked)
        if stream is None or stream.source != application:
            raise Unavailable(Status.NO_QKD_CONNECTION, "there is no such stream")
        if not stream.connected:
            raise Unavailable(Status.NO_PEER, f"{stream.destination} is not connected")
        return await self._own_chunk(stream, asked)

    async def _own_chunk(self, stream: Stream, asked: form.GetKey) -> form.Chunk:
        index = stream.given.next if asked.index is None else asked.index
        if index in stream.given:
            raise Unavailable(Status.INSUFFICIENT_KEY, f"chunk {index} was given before")
        await self._wait_until(due(stream.qos, stream.begun, index))
        chunk = await self._drawn(stream, index)
        described = _described(index, chunk.key_id, asked)
        return _answer(index, stream.take_own(index), described)

    async def _peers_chunk(self, end: PeerEnd, asked: form.GetKey) -> form.Chunk:
        async with end.lock:
            index = end.given.next if asked.index is None else asked.index
            if index in end.given:
                raise Unavailable(Status.INSUFFICIENT_KEY, f"chunk {index} was given before")
            await self._wait_until(due(end.qos, end.begun, index))
            if index not in end.fetched:
                end.fetched[index] = await self._fetched(end, index)
            key_id, key, _ = end.fetched[index]
            described = _described(index, key_id, asked)
            del end.fetched[index]
            end.given.add(index)
            return _answer(index, key, described)

    async def _fetched(self, end: PeerEnd, index: int) -> tuple[KeyId, Secret, float]:
        found = await self._located(end, index)
        key_id = KeyId(found.key_id)
        try:
            (ready,) = await self._around.delivery.collect(end.application, end.source, [key_id])
        except Refusal as error:
            end.given.add(index)  # it expired, or was collected before: it will never be there
            raise Unavailable(Status.INSUFFICIENT_KEY, error.detail) from error
        return key_id, ready.key, self._around.now() + found.left_s

    async def _located(self, end: PeerEnd, index: int) -> form.Located:
        try:
            found = await self._owner(end.source).locate(form.Locate(end.stream, end.life, end.application, index))
        except LineError as error:
            raise Unavailable(Status.NO_QKD_CONNECTION, str(error)) from error
        if found.status is not Status.SUCCESSFUL:
            end.given.pass_over(found.first)
            raise Unavailable(found.status, f"{end.source}'s key manager has no chunk {index}", may_change=True)
        return found

    async def _drawn(self, stream: Stream, index: int) -> Drawn:
        try:
            return await stream.draw(self._around.delivery, index, self._around.now)
        except Unavailable:
            raise
        except Overloaded as error:
            raise Unavailable(Status.INSUFFICIENT_KEY, str(error), may_change=True) from error
        except Refusal as error:
            if error.code == "KEY_SHORTAGE":
                raise Unavailable(Status.INSUFFICIENT_KEY, error.detail, may_change=True) from error
            raise Unavailable(Status.NO_QKD_CONNECTION, error.detail) from error

    async def _wait_until(self, moment: float) -> None:
        while (left := moment - self._around.now()) > 0:
            await asyncio.sleep(min(left, RETRY_S))


def _patience_s(qos: QoS) -> float:
    return (qos.timeout or LONGEST_TIMEOUT_MS) / 1000


def _described(index: int, key_id: KeyId, asked: form.GetKey) -> str:
    """Return the metadata of a chunk. Raises `Unavailable` if there is room for some, and not for all of it."""
    text = msgspec.json.encode({"index": index, "key_ID": key_id}).decode()
    if 0 < asked.metadata_size < len(text):
        raise Unavailable(Status.METADATA_TOO_SMALL, f"the metadata has {len(text)} bytes", needed=len(text))
    return text if asked.metadata_size else ""


def _answer(index: int, key: Secret, described: str) -> form.Chunk:
    return form.Chunk(Status.SUCCESSFUL, index, key.reveal(), described or None, len(described))
