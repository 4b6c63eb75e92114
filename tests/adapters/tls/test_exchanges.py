"""The HTTP client of the parties against a server that says exactly what the table says, over their own TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httptools
import pytest
from tests.adapters.tls.parties import KM, QSSP, Process, Province

from qsotn.adapters.transport import exchange
from qsotn.adapters.transport.exchange import Exchanges, Response
from qsotn.errors import LineError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Script:
    """A server that answers each request with the next bytes; `None` ends the connection, `b""` says nothing."""

    answers: list[bytes | None]
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                self.requests.append(await _request(reader))
                answer = self.answers.pop(0)
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has enough
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head


@pytest.fixture
def ends(province: Province) -> tuple[Process, Process]:
    return province.process(KM), province.process(QSSP)


@asynccontextmanager
async def between(
    ends: tuple[Process, Process], script: Script, most: int = exchange.MOST_CONNECTIONS
) -> AsyncIterator[Exchanges]:
    server, client = ends
    listening = await asyncio.start_server(script, "127.0.0.1", 0, ssl=server.server())
    port = listening.sockets[0].getsockname()[1]
    exchanges = Exchanges(f"https://127.0.0.1:{port}", lambda: client.client(KM), most)
    try:
        yield exchanges
    finally:
        await exchanges.close()
        listening.close()
        await listening.wait_closed()


def play(
    ends: tuple[Process, Process],
    script: Script,
    story: Callable[[Exchanges], Awaitable[list[Response]]],
    most: int = exchange.MOST_CONNECTIONS,
) -> list[Response]:
    async def told() -> list[Response]:
        async with between(ends, script, most) as exchanges:
            return await story(exchanges)

    return asyncio.run(told())


async def ask(exchanges: Exchanges, body: bytes | None = None, patience_s: float = 5.0) -> Response:
    return await exchanges.request("POST" if body else "GET", "/x/v1/things?a=b", body, "text/plain", patience_s)


def test_a_request_is_whole_and_its_answer_too(ends: tuple[Process, Process]) -> None:
    script = Script([b"HTTP/1.1 202 Accepted\r\nRetry-After: 3\r\nContent-Length: 5\r\n\r\nhe", b""])
    script.answers[0] = b"HTTP/1.1 202 Accepted\r\nRetry-After: 3\r\nContent-Length: 5\r\n\r\nhello"

    async def story(exchanges: Exchanges) -> list[Response]:
        return [await ask(exchanges, b"question")]

    (answer,) = play(ends, script, story)
    assert answer == Response(202, {"retry-after": "3", "content-length": "5"}, b"hello")
    head, _, body = script.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x/v1/things?a=b HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Content-Type: text/plain\r\nContent-Length: 8" in head
    assert body == b"question"


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 503, b""),
    ],
)
def test_every_form_of_an_answer_is_read(
    ends: tuple[Process, Process], answer: bytes, status: int, body: bytes
) -> None:
    async def story(exchanges: Exchanges) -> list[Response]:
        return [await ask(exchanges), await ask(exchanges)]

    script = Script([answer, OK])
    first, second = play(ends, script, story)
    assert (first.status, first.body) == (status, body)
    assert (second.status, second.body) == (200, b"ok")
    assert script.connections == 1


def test_requests_at_once_have_connections_of_their_own_and_no_more_than_allowed(ends: tuple[Process, Process]) -> None:
    async def story(exchanges: Exchanges) -> list[Response]:
        return list(await asyncio.gather(*(ask(exchanges) for _ in range(3 * exchange.MOST_CONNECTIONS))))

    script = Script([*([OK] * 3 * exchange.MOST_CONNECTIONS)])
    assert {answer.body for answer in play(ends, script, story)} == {b"ok"}
    assert 1 < script.connections <= exchange.MOST_CONNECTIONS


def test_who_may_have_one_connection_alone_waits_for_its_turn_on_it(ends: tuple[Process, Process]) -> None:
    async def story(exchanges: Exchanges) -> list[Response]:
        return list(await asyncio.gather(*(ask(exchanges) for _ in range(4))))

    script = Script([OK] * 4)
    assert [answer.body for answer in play(ends, script, story, most=1)] == [b"ok"] * 4
    assert script.connections == 1


def test_a_connection_that_the_server_ended_is_replaced(ends: tuple[Process, Process]) -> None:
    async def story(exchanges: Exchanges) -> list[Response]:
        first = await ask(exchanges)
        await asyncio.sleep(0.05)
        return [first, await ask(exchanges)]

    script = Script([OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK])
    assert [answer.status for answer in play(ends, script, story)] == [200, 200]
    assert script.connections == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, ConnectionResetError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", TimeoutError),
        (b"", TimeoutError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", httptools.HttpParserError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", httptools.HttpParserError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (exchange.LARGEST_HEAD + 1) + b"\r\n\r\n", LineError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 2000, LineError),
    ],
)
def test_what_is_no_answer_is_an_error_and_the_next_request_has_another_connection(
    ends: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch, answer: bytes | None, error: type[Exception]
) -> None:
    monkeypatch.setattr(exchange, "LARGEST_ANSWER", 1000)

    async def story(exchanges: Exchanges) -> list[Response]:
        with pytest.raises(error):
            await ask(exchanges, patience_s=0.3)
        return [await ask(exchanges)]

    script = Script([answer, OK])
    assert play(ends, script, story)[0].body == b"ok"
    assert script.connections == 2


def test_a_second_answer_is_not_taken_for_that_of_the_next_request(ends: tuple[Process, Process]) -> None:
    async def story(exchanges: Exchanges) -> list[Response]:
        first = await ask(exchanges)
        await asyncio.sleep(0.05)
        return [first, await ask(exchanges)]

    script = Script([OK, OK])
    script.answers = [OK + OK.replace(b"ok", b"no"), OK]
    bodies: list[bytes] = []
    try:
        bodies = [answer.body for answer in play(ends, script, story)]
    except (LineError, httptools.HttpParserError):
        return  # the two came together, and the first is not trusted either
    assert bodies == [b"ok", b"ok"]


def test_a_request_that_was_given_up_leaves_no_answer_to_the_next(ends: tuple[Process, Process]) -> None:
    async def story(exchanges: Exchanges) -> list[Response]:
        asking = asyncio.create_task(ask(exchanges))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        return [await ask(exchanges)]

    script = Script([b"", OK])
    assert play(ends, script, story)[0].body == b"ok"
    assert script.connections == 2
