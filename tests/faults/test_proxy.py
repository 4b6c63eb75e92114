"""The fault proxy by itself: each fault seen from the client's side and from the target's, and counted."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
from tests.faults.loop_thread import LoopThread
from tests.faults.proxy import FaultProxy
from tests.faults.target import Target, connected, until
from tests.faults.weather import (
    Calm,
    Delay,
    Drop,
    Fault,
    HalfOpen,
    LoseAnswer,
    Refuse,
    Stall,
    Towards,
    Trickle,
    Truncate,
)

Story = Callable[[Target, FaultProxy], Awaitable[None]]


def tell(story: Story, weather: Fault | None = None) -> None:
    """Tell a story with a target and a proxy before it. Of the proxy nothing may be left at the end."""

    async def whole() -> None:
        async with Target() as target:
            async with FaultProxy(target.address, weather) as proxy:
                await story(target, proxy)
            await until(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(whole())
    gc.collect()  # a socket that was left open would be told of here, and every warning is an error


# --- what passes ------------------------------------------------------------------------------------------------------


def test_in_calm_weather_everything_passes_and_so_does_the_end() -> None:
    large = random.Random(1).randbytes(400_000).hex().encode() + b"\n"

    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            assert await client.ask(b"one\n") == b"answer to one\n"
            assert await client.ask(large) == b"answer to " + large
            client.writer.write_eof()
            assert await client.reader.read() == b""
        await until(lambda: target.ended == ["closed"])
        assert proxy.forwarded == {Towards.TARGET: 4 + len(large), Towards.CLIENT: 14 + 10 + len(large)}
        assert not proxy.happened

    tell(story)


def test_a_reset_of_the_client_reaches_the_target() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            assert await client.ask(b"one\n") == b"answer to one\n"
            client.reset()
        await until(lambda: target.ended == ["reset"])

    tell(story)


def test_a_target_that_takes_no_connection_is_a_reset_for_the_client() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        await target.__aexit__()
        async with connected(proxy) as client:
            with pytest.raises(ConnectionResetError):
                await client.ask(b"one\n")
        assert proxy.unreachable == 1

    tell(story)


# --- slow -------------------------------------------------------------------------------------------------------------


def test_a_delay_is_paid_in_both_directions_and_loses_nothing() -> None:
    async def story(_: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            began = time.monotonic()
            assert await client.ask(b"one\n") == b"answer to one\n"
            assert 0.06 <= time.monotonic() - began < 0.5
        assert proxy.happened[Delay] == 2

    tell(story, Delay(0.03, jitter=0.02))


def test_a_trickle_gives_the_first_bytes_long_before_the_last() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            began = time.monotonic()
            await client.send(b"one\n")
            assert await client.reader.readexactly(2) == b"an"
            first = time.monotonic() - began
            assert await client.reader.readexactly(12) == b"swer to one\n"
            assert time.monotonic() - began >= first + 0.05
        assert target.committed == [b"one\n"]
        assert proxy.happened[Trickle] >= 2

    tell(story, Trickle(size=2, pause=0.01))


# --- cut --------------------------------------------------------------------------------------------------------------


def test_a_dropped_connection_never_reaches_the_target() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            with pytest.raises(ConnectionResetError):
                await client.ask(b"one\n")
        assert target.connections == 0
        assert proxy.happened == {Drop: 1}

    tell(story, Drop())


def test_a_connection_dropped_on_the_way_is_a_reset_on_both_sides() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.ask(b"one\n")
            proxy.set(Drop())
            with pytest.raises(ConnectionResetError):
                await client.ask(b"two\n")
        await until(lambda: target.ended == ["reset"])
        assert target.committed == [b"one\n"]
        assert proxy.happened == {Drop: 1}

    tell(story)


def test_a_port_that_refuses_leaves_open_connections_alone_and_comes_back_as_the_same_port() -> None:
    async def story(_: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.ask(b"one\n")
            proxy.set(Refuse())
            with pytest.raises(ConnectionRefusedError):
                async with connected(proxy):
                    pytest.fail("the port was open")
            assert await client.ask(b"two\n") == b"answer to two\n"
        before = proxy.port
        proxy.set(Calm())
        async with connected(proxy) as client:
            assert await client.ask(b"three\n") == b"answer to three\n"
        assert (proxy.port, proxy.happened) == (before, {Refuse: 1})

    tell(story)


@pytest.mark.parametrize(
    ("towards", "heard", "answer"),
    [(Towards.TARGET, b"a l", b""), (Towards.CLIENT, b"a long request\n", b"ans")],
)
def test_a_truncated_exchange_ends_after_as_many_bytes_on_both_sides(
    towards: Towards, heard: bytes, answer: bytes
) -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            assert await client.ask(b"a long request\n") == answer
        await until(lambda: target.ended == ["closed"])
        assert target.heard == heard
        assert proxy.happened == {Truncate: 1}

    tell(story, Truncate(towards, after=3))


def test_what_is_not_longer_is_not_truncated() -> None:
    async def story(_: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            assert await client.ask(b"one\n") == b"answer to one\n"
            assert await client.ask(b"two\n") == b"answer to two\n"
            assert await client.ask(b"three\n") == b"answer to thre"
        assert proxy.happened == {Truncate: 1}

    tell(story, Truncate(Towards.CLIENT, after=14))


# --- silent -----------------------------------------------------------------------------------------------------------


def test_a_half_open_connection_takes_everything_and_never_answers() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.send(b"one\n" * 100_000)
            assert await client.hears_within() == b""
        assert target.connections == 0
        assert proxy.happened == {HalfOpen: 1}

    tell(story, HalfOpen())


def test_a_connection_that_becomes_half_open_tells_neither_side() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.ask(b"one\n")
            proxy.set(HalfOpen())
            await client.send(b"two\n")
            assert await client.hears_within() == b""
            proxy.set(Calm())
            await client.send(b"three\n")
            assert await client.hears_within() == b""
        assert (target.heard, target.ended) == (b"one\n", [])
        assert proxy.happened == {HalfOpen: 1}

    tell(story)


def test_the_death_of_a_client_behind_a_half_open_connection_is_not_told() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.ask(b"one\n")
            proxy.set(HalfOpen())
            await client.send(b"two\n")
            await until(lambda: proxy.happened[HalfOpen] == 1)
        await asyncio.sleep(0.05)
        assert target.ended == []

    tell(story)


@pytest.mark.parametrize(
    ("towards", "heard", "answer"),
    [(Towards.TARGET, b"a l", b""), (Towards.CLIENT, b"a long request\n", b"ans")],
)
def test_a_stalled_exchange_gives_so_many_bytes_and_keeps_both_sides_open(
    towards: Towards, heard: bytes, answer: bytes
) -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.send(b"a long request\n")
            assert await client.hears_within() == answer
        assert (target.heard, target.ended) == (heard, [])
        assert proxy.happened == {Stall: 1}

    tell(story, Stall(towards, after=3))


# --- the answer is lost -----------------------------------------------------------------------------------------------


def test_an_answer_is_lost_after_the_target_committed_and_answered() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            assert await client.ask(b"one\n") == b"answer to one\n"
            proxy.set(LoseAnswer())
            assert await client.ask(b"two\n") == b""
        await until(lambda: target.ended == ["closed"])
        assert target.committed == target.answered == [b"one\n", b"two\n"]
        assert proxy.happened == {LoseAnswer: 1}

    tell(story)


def test_the_rest_of_an_older_answer_is_not_the_one_that_is_lost() -> None:
    """The weather changes while an answer is on its way: this one still arrives, the next one does not."""
    request = b"x" * 3_000_000 + b"\n"

    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.send(request)
            await client.reader.readexactly(10)
            proxy.set(LoseAnswer())
            assert await client.reader.readexactly(len(request)) == request
            assert await client.ask(b"two\n") == b""
        assert target.committed == [request, b"two\n"]
        assert proxy.happened == {LoseAnswer: 1}

    tell(story)


def test_spared_exchanges_pass() -> None:
    async def story(_: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            assert await client.ask(b"one\n") == b"answer to one\n"
            assert await client.ask(b"two\n") == b"answer to two\n"
            assert await client.ask(b"three\n") == b""
        assert proxy.happened == {LoseAnswer: 1}

    tell(story, LoseAnswer(spare=2))


# --- from synchronous code --------------------------------------------------------------------------------------------


def test_in_a_thread_of_its_own_the_proxy_obeys_anybody_and_leaves_nothing() -> None:
    def ask(proxy: FaultProxy, request: bytes) -> bytes:
        with socket.create_connection(proxy.address, timeout=2) as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(100), b""))

    target = Target()
    serving = LoopThread(target)
    with FaultProxy(target.address) as proxy:
        assert ask(proxy, b"one\n") == b"answer to one\n"
        proxy.set(LoseAnswer())
        assert ask(proxy, b"two\n") == b""
        proxy.set(Refuse())
        with pytest.raises(ConnectionRefusedError):
            ask(proxy, b"three\n")
        proxy.set(HalfOpen())
        hanging = socket.create_connection(proxy.address, timeout=2)
    assert hanging.recv(10) == b""
    hanging.close()
    serving.stop()
    assert target.committed == [b"one\n", b"two\n"]
    assert [one.name for one in threading.enumerate() if one.name.startswith("faults")] == []
    gc.collect()
