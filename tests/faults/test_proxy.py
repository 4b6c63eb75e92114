"""The fault proxy by itself: each fault seen from the client's side and from the target's, and counted."""

from __future__ import annotations

import gc
import random
import socket
import threading
import time
from contextlib import suppress

import pytest
from tests.faults.loop_thread import PATIENCE_S, LoopThread
from tests.faults.proxy import FaultProxy
from tests.faults.target import Target, connected, tell, until
from tests.faults.weather import (
    Calm,
    Delay,
    Drop,
    HalfOpen,
    LoseAnswer,
    Refuse,
    Towards,
    Trickle,
    Truncate,
)

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
            assert time.monotonic() - began >= 0.06
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


def test_new_weather_does_not_wait_for_the_next_request() -> None:
    request = b"x" * 3_000_000 + b"\n"

    async def story(_: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.send(request)
            await client.reader.readexactly(10)
            proxy.set(Drop())
            with pytest.raises(ConnectionResetError):
                await client.reader.readexactly(len(request))

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


def test_a_request_in_pieces_is_one_exchange() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.send(b"a lo")
            await until(lambda: target.heard == b"a lo")
            assert await client.ask(b"ng request\n") == b""
        await until(lambda: target.ended == ["closed"])
        assert target.heard == b"a long"

    tell(story, Truncate(Towards.TARGET, after=6))


def test_what_is_not_longer_is_not_truncated() -> None:
    async def story(_: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            assert await client.ask(b"one\n") == b"answer to one\n"
            assert await client.ask(b"two\n") == b"answer to two\n"
            assert await client.ask(b"three\n") == b"answer to thre"
        assert proxy.happened == {Truncate: 1}

    tell(story, Truncate(Towards.CLIENT, after=14))


# --- from synchronous code --------------------------------------------------------------------------------------------


def test_in_a_thread_of_its_own_the_proxy_obeys_anybody_and_leaves_nothing() -> None:
    target = Target()
    with LoopThread(target), FaultProxy(target.address) as proxy:
        assert say(proxy, b"one\n") == b"answer to one\n"
        proxy.set(LoseAnswer())
        assert say(proxy, b"two\n") == b""
        proxy.set(Refuse())
        with pytest.raises(ConnectionRefusedError):
            say(proxy, b"three\n")
        proxy.set(HalfOpen())
        hanging = socket.create_connection(proxy.address, timeout=PATIENCE_S)
    with hanging, suppress(ConnectionResetError):
        assert hanging.recv(10) == b""
    assert target.committed == [b"one\n", b"two\n"]
    assert [one.name for one in threading.enumerate() if one.name == "faults"] == []
    gc.collect()


def say(proxy: FaultProxy, request: bytes) -> bytes:
    """Say something, and return everything that comes until the connection ends."""
    with socket.create_connection(proxy.address, timeout=PATIENCE_S) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(100), b""))


def test_a_proxy_that_cannot_open_says_so_to_who_opens_it() -> None:
    with FaultProxy(("127.0.0.1", 1)) as first:
        second = FaultProxy(("127.0.0.1", 1))
        second.port = first.port
        with pytest.raises(OSError, match="in use"), second:
            pytest.fail("two proxies at one port")
