"""The fault proxy where it says nothing: connections that are half open, and answers that are lost after the commit."""

from __future__ import annotations

import asyncio

import pytest
from tests.faults.proxy import FaultProxy
from tests.faults.target import Target, connected, tell, until
from tests.faults.weather import Calm, HalfOpen, LoseAnswer, Stall, Towards

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


@pytest.mark.parametrize("reset", [False, True])
def test_the_death_of_a_client_behind_a_half_open_connection_is_not_told(reset: bool) -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            await client.ask(b"one\n")
            proxy.set(HalfOpen())
            await client.send(b"two\n")
            await until(lambda: proxy.happened[HalfOpen] == 1)
            if reset:
                client.reset()
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


def test_an_answer_in_pieces_is_swallowed_whole() -> None:
    async def story(target: Target, proxy: FaultProxy) -> None:
        target.pause = 0.02
        async with connected(proxy) as client:
            assert await client.ask(b"one\n") == b""
        assert target.answered == [b"one\n"]

    tell(story, LoseAnswer())


def test_spared_exchanges_pass() -> None:
    async def story(_: Target, proxy: FaultProxy) -> None:
        async with connected(proxy) as client:
            assert await client.ask(b"one\n") == b"answer to one\n"
            assert await client.ask(b"two\n") == b"answer to two\n"
            assert await client.ask(b"three\n") == b""
        assert proxy.happened == {LoseAnswer: 1}

    tell(story, LoseAnswer(spare=2))
