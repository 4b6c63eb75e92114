"""One connection through the fault proxy: two sockets, a pump for each direction, and what happens to each chunk."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.weather import (
    Always,
    Delay,
    Drop,
    Fault,
    HalfOpen,
    LoseAnswer,
    Moment,
    Stall,
    Towards,
    Trickle,
    Truncate,
    Weather,
)

CHUNK = 64 * 1024
QUIET_S = 0.05
"""An answer is over when the target has been silent for so long."""
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, on, zero seconds: close sends RST instead of FIN."""


@dataclass
class Conditions:
    """What all connections of one proxy share: whereto, through what, and what has happened so far."""

    target: tuple[str, int]
    seed: int = 0
    weather: Weather = field(default_factory=Always)
    began: float = 0.0
    happened: Counter[type[Fault]] = field(default_factory=Counter)
    forwarded: Counter[Towards] = field(default_factory=Counter)
    unreachable: int = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the proxy was opened."""
        return asyncio.get_running_loop().time() - self.began


class _Cut(Exception):
    """This connection ends here, by a reset or by FIN."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class _Side:
    """One of a connection's two sockets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def end(self) -> None:
        """Pass on that the other side has nothing more to say."""
        with suppress(OSError):
            self._writer.write_eof()

    async def close(self, *, reset: bool) -> None:
        transport = self._writer.transport
        try:
            if reset and not transport.is_closing():
                self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                transport.abort()
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()
        finally:
            transport.abort()  # what a peer that does not read would hold up for ever


@dataclass
class _Exchange:
    """One exchange: what it meets, and how many bytes of it have come so far, by direction."""

    number: int
    weather: Weather
    fault: Fault
    came: Counter[Towards] = field(default_factory=Counter)


class Connection:
    """One client's connection, from its acceptance to its end."""

    def __init__(self, conditions: Conditions, number: int) -> None:
        self._conditions = conditions
        self._number = number
        self._chance = random.Random(f"{conditions.seed}/{number}")
        self._exchange: _Exchange | None = None
        self._dead: type[Fault] | None = None
        """Once set, nothing passes any more in either direction, and nobody is told."""
        self._swallowed = False

    async def serve(self, sock: socket.socket) -> None:
        """Carry one connection, as far as the weather lets it."""
        client = _Side(*await asyncio.open_connection(sock=sock))
        reset = True
        try:
            reset = await self._meet(client)
        finally:
            await client.close(reset=reset)

    async def _meet(self, client: _Side) -> bool:
        """Return whether the client shall see a reset at the end."""
        conditions = self._conditions
        fault = conditions.weather.meets(Moment(self._number, None, conditions.elapsed))
        if isinstance(fault, Drop):
            conditions.happened[Drop] += 1
            return True
        if isinstance(fault, HalfOpen):
            return await self._hang(client)
        try:
            target = _Side(*await asyncio.open_connection(*conditions.target))
        except OSError:
            conditions.unreachable += 1
            return True
        return await self._join(client, target)

    async def _hang(self, client: _Side) -> bool:
        self._dead = HalfOpen
        with suppress(ConnectionError):
            while await client.reader.read(CHUNK):
                self._swallow()
        return False

    async def _join(self, client: _Side, target: _Side) -> bool:
        reset = True
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(Towards.TARGET, client, target))
                both.create_task(self._pump(Towards.CLIENT, target, client))
            reset = False
        except* _Cut as cut:
            reset = any(isinstance(one, _Cut) and one.reset for one in cut.exceptions)
        except* ConnectionError:
            reset = True  # one side is gone: the other hears of it as it would without us
        finally:
            await target.close(reset=reset)
        return reset

    async def _pump(self, towards: Towards, source: _Side, sink: _Side) -> None:
        try:
            while chunk := await source.reader.read(CHUNK):
                await self._carry(towards, chunk, source, sink)
        except ConnectionError:
            if self._dead is None:
                raise
        if self._dead is None:
            sink.end()

    # --- what happens to one chunk ----------------------------------------------------------------------------------

    async def _carry(self, towards: Towards, chunk: bytes, source: _Side, sink: _Side) -> None:
        if self._dead is not None:
            self._swallow()
            return
        exchange = self._current(towards)
        came = exchange.came[towards]
        exchange.came[towards] += len(chunk)
        match exchange.fault:
            case Delay() | Trickle():
                await self._slowly(exchange.fault, towards, chunk, sink)
            case Drop():
                self._cut(Drop, reset=True)
            case HalfOpen():
                self._die(HalfOpen)
            case Stall() | Truncate():
                await self._partly(exchange.fault, came, towards, chunk, sink)
            case LoseAnswer(spare) if self._is_answer(exchange, towards, spare):
                await self._lose(source)
            case _:
                await self._forward(towards, chunk, sink)

    def _current(self, towards: Towards) -> _Exchange:
        """Return the exchange these bytes belong to: a new one if they are a new request, or the weather is new."""
        old, weather = self._exchange, self._conditions.weather
        requests = old is not None and towards is Towards.TARGET and old.came[Towards.CLIENT] > 0
        if old is not None and not requests and old.weather is weather:
            return old
        number = 0 if old is None else old.number + requests
        fault = weather.meets(Moment(self._number, number, self._conditions.elapsed))
        self._exchange = _Exchange(number, weather, fault)
        return self._exchange

    async def _forward(self, towards: Towards, data: bytes, sink: _Side) -> None:
        await sink.write(data)
        self._conditions.forwarded[towards] += len(data)

    async def _slowly(self, fault: Delay | Trickle, towards: Towards, chunk: bytes, sink: _Side) -> None:
        self._conditions.happened[type(fault)] += 1
        if isinstance(fault, Delay):
            await asyncio.sleep(fault.seconds + self._chance.uniform(0, fault.jitter))
            await self._forward(towards, chunk, sink)
            return
        for start in range(0, len(chunk), fault.size):
            await self._forward(towards, chunk[start : start + fault.size], sink)
            await asyncio.sleep(fault.pause)

    async def _partly(self, fault: Stall | Truncate, came: int, towards: Towards, chunk: bytes, sink: _Side) -> None:
        left = max(fault.after - came, 0) if fault.towards is towards else len(chunk)
        await self._forward(towards, chunk[:left], sink)
        if left >= len(chunk):
            return
        if isinstance(fault, Truncate):
            self._cut(Truncate, reset=False)
        self._die(Stall)

    def _is_answer(self, exchange: _Exchange, towards: Towards, spare: int) -> bool:
        # Before the client's first word under this weather, what comes is the rest of an older answer.
        return towards is Towards.CLIENT and exchange.number >= spare and exchange.came[Towards.TARGET] > 0

    async def _lose(self, target: _Side) -> None:
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(QUIET_S):
                    if not await target.reader.read(CHUNK):
                        break
        self._cut(LoseAnswer, reset=False)

    def _cut(self, fault: type[Fault], *, reset: bool) -> None:
        self._conditions.happened[fault] += 1
        raise _Cut(reset=reset)

    def _die(self, fault: type[Fault]) -> None:
        self._dead = fault
        self._swallow()

    def _swallow(self) -> None:
        """Count a dead connection, once, with the first bytes it swallows."""
        if self._dead is not None and not self._swallowed:
            self._swallowed = True
            self._conditions.happened[self._dead] += 1
