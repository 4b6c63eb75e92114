"""One HTTP/1.1 connection: what is taken, in which order it is answered, and how every bad state of it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.service.delivery.etsi014_world import (
    MASTER,
    SLAVE,
    STRANGER,
    Certificates,
    MemoryDelivery,
    Wire,
    known,
    listener,
    make_certificates,
    request,
    served,
    wire,
)

from qsotn.adapters.keysource.etsi014_format import path
from qsotn.service.delivery import http_protocol, http_server, throttled
from qsotn.service.delivery.etsi014 import listen
from qsotn.service.delivery.http_protocol import Limits

STATUS, ENC = path(SLAVE, "status"), path(SLAVE, "enc_keys")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def watched_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "WATCH_S", 0.02)
    monkeypatch.setattr(http_protocol, "LINGER_S", 0.05)


@contextlib.asynccontextmanager
async def connected(
    certificates: Certificates, delivery: MemoryDelivery | None = None, limits: Limits | None = None
) -> AsyncIterator[Wire]:
    async with (
        served(delivery or MemoryDelivery(), certificates.server_context, limits=limits) as port,
        wire(port, certificates.client(MASTER)) as opened,
    ):
        yield opened


def test_one_connection_carries_many_requests(certificates: Certificates) -> None:
    async def story() -> None:
        async with connected(certificates) as client:
            for _ in range(50):
                reply = await client.ask("GET", STATUS)
                assert reply.status == 200
                assert "connection" not in reply.headers
                assert reply.headers["date"].endswith(" GMT")

    asyncio.run(story())


def test_pipelined_requests_are_answered_in_their_order(certificates: Certificates) -> None:
    async def story() -> None:
        async with connected(certificates, limits=Limits(pipelined=4)) as client:
            numbers = [1, 7, 3, 0, 2, 5] * 10
            client.send(b"".join(request("GET", f"{ENC}?number={number}") for number in numbers))
            for number in numbers:
                reply = await client.reply()
                assert (reply.status, len(json.loads(reply.body).get("keys", []))) == (200 if number else 400, number)

    asyncio.run(story())


def test_a_client_that_pipelines_without_reading_is_read_from_no_more(certificates: Certificates) -> None:
    async def story() -> None:
        delivery = MemoryDelivery(gate=asyncio.Event())
        async with connected(certificates, delivery, Limits(pipelined=4)) as client:
            one = request("POST", ENC, b"{}", f"X-Filler: {'x' * 8000}")
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 10_000:  # sockets have buffers of megabytes
                    client.send(one)
                    sent += 1
                    await asyncio.wait_for(client.writer.drain(), 0.2)
            assert 0 < sent < 10_000
            assert delivery.calls.count("reserve") == 1, "one at a time"
            assert delivery.gate is not None
            delivery.gate.set()
            for _ in range(sent):
                assert (await client.reply()).status == 200

    asyncio.run(story())


def test_a_request_may_come_byte_by_byte(certificates: Certificates) -> None:
    async def story() -> None:
        async with connected(certificates) as client:
            for octet in request("POST", ENC, b'{"number": 2}'):
                client.send(bytes([octet]))
                await asyncio.sleep(0)
            assert len(json.loads((await client.reply()).body)["keys"]) == 2

    asyncio.run(story())


def test_a_body_may_come_in_chunks(certificates: Certificates) -> None:
    async def story() -> None:
        async with connected(certificates) as client:
            client.send(request("POST", ENC, b"", "Transfer-Encoding: chunked", "Content-Type: application/json"))
            for chunk in (b'{"num', b'ber": ', b"2}", b""):
                client.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            assert len(json.loads((await client.reply()).body)["keys"]) == 2
            assert (await client.ask("GET", STATUS)).status == 200

    asyncio.run(story())


def test_a_body_is_asked_for_when_the_client_waits_for_it(certificates: Certificates) -> None:
    async def story() -> None:
        async with connected(certificates) as client:
            head = request("POST", ENC, b'{"number": 2}', "Expect: 100-continue", "Content-Type: application/json")
            client.send(head[:-13])
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(head[-13:])
            assert (await client.reply()).status == 200

    asyncio.run(story())


def test_a_client_that_asks_for_the_end_gets_it(certificates: Certificates) -> None:
    async def story() -> None:
        async with connected(certificates) as client:
            reply = await client.ask("GET", STATUS, b"", "Connection: close")
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await client.ended()

    asyncio.run(story())


FIELDS = "Content-Type: application/json"
BROKEN: list[tuple[bytes, int]] = [
    (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"hello\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (request("GET", f"/{'a' * 20_000}"), 431),
    (request("GET", STATUS, b"", f"X: {'a' * 20_000}"), 431),
    (request("GET", STATUS, b"", *["X: a"] * 4_000), 431),
    (request("POST", ENC, b"{" * 70_000), 413),
    (request("POST", ENC, b"", "Content-Length: 99999999999999999", FIELDS), 413),
    (request("POST", ENC, b"", "Content-Length: -1", FIELDS), 400),
    (request("POST", ENC, b"", "Content-Length: 2", "Content-Length: 3", FIELDS) + b"{}", 400),
    (request("POST", ENC, b"", "Content-Length: 2", "Transfer-Encoding: chunked", FIELDS) + b"0\r\n\r\n", 400),
    (request("POST", ENC, b"", "Transfer-Encoding: chunked", FIELDS) + b"xyz\r\n", 400),
    (request("POST", ENC, b"", "Transfer-Encoding: chunked", FIELDS) + (b"3e8\r\n" + b" " * 1000 + b"\r\n") * 70, 413),
    (request("POST", ENC, b"", "Transfer-Encoding: chunked", FIELDS) + (b"1;" + b"a" * 1000 + b"\r\n \r\n") * 900, 413),
    (request("POST", ENC, b"", "Transfer-Encoding: chunked", FIELDS) + b"2\r\n{}\r\n0\r\nX: a\r\n\r\n", 400),
]


@pytest.mark.parametrize(("sent", "status"), BROKEN)
def test_what_breaks_http_is_told_so_and_nothing_behind_it_is_read(
    certificates: Certificates, sent: bytes, status: int
) -> None:
    async def story() -> None:
        delivery = MemoryDelivery()
        async with connected(certificates, delivery) as client:
            client.send(sent + request("POST", ENC, b"{}"))
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (status, "close"), reply
            assert json.loads(reply.body)["message"]
            assert await client.ended()
            assert delivery.calls == []

    asyncio.run(story())


def test_what_was_asked_before_the_break_is_answered_first(certificates: Certificates) -> None:
    async def story() -> None:
        async with connected(certificates) as client:
            client.send(request("GET", ENC) + request("GET", ENC) + b"hello\r\n\r\n")
            assert [(await client.reply()).status for _ in range(3)] == [200, 200, 400]
            assert await client.ended()

    asyncio.run(story())


def test_an_upgrade_is_declined(certificates: Certificates) -> None:
    async def story() -> None:
        async with connected(certificates) as client:
            reply = await client.ask("GET", STATUS, b"", "Connection: Upgrade", "Upgrade: websocket")
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await client.ended()

    asyncio.run(story())


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "drip", [b"x", request("POST", ENC, b" " * 500)[:-400]], ids=["within the head", "within the body"]
)
def test_a_request_that_does_not_come_to_its_end_is_given_up(certificates: Certificates, drip: bytes) -> None:
    async def story() -> None:
        async with connected(certificates, limits=Limits(request_s=0.1)) as client:
            client.send(request("GET", STATUS)[:10] if drip == b"x" else drip)
            begun = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() - begun < 0.2:
                client.send(b" ")  # progress of a kind does not count
                await asyncio.sleep(0.02)
            reply = await client.reply()
            assert (reply.status, reply.headers["connection"]) == (408, "close")
            assert await client.ended()

    asyncio.run(story())


def test_a_head_without_end_is_given_up_however_it_comes(certificates: Certificates) -> None:
    async def story() -> None:
        async with connected(certificates) as client:
            client.send(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(30):
                client.send(b"a" * 1000)
                await asyncio.sleep(0)
            assert (await client.reply()).status == 431

    asyncio.run(story())


@pytest.mark.parametrize("noise", [b"", b"\r\n"])
def test_an_idle_connection_ends(certificates: Certificates, noise: bytes) -> None:
    async def story() -> None:
        async with connected(certificates, limits=Limits(idle_s=0.15)) as client:
            assert (await client.ask("GET", STATUS)).status == 200
            for _ in range(3):
                client.send(noise)  # line breaks between requests are no request
                await asyncio.sleep(0.02)
            assert await client.ended()

    asyncio.run(story())


def test_a_client_that_reads_nothing_is_dropped(certificates: Certificates) -> None:
    async def story() -> None:
        delivery, opened = MemoryDelivery(stored=10_000_000), listener()
        port, limits = opened.getsockname()[1], Limits(stalled_s=0.1)
        async with (
            listen(delivery, opened, certificates.server_context, known, limits=limits) as server,
            wire(port, certificates.client(MASTER)) as client,
        ):
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio has no public way
            for _ in range(400):
                client.send(request("GET", f"{ENC}?number=128&size=4096"))
            await asyncio.sleep(0.02)
            assert server.connections == 1
            until = asyncio.get_running_loop().time() + 5
            while server.connections and asyncio.get_running_loop().time() < until:
                await asyncio.sleep(0.02)
            assert server.connections == 0
            assert 0 < delivery.calls.count("reserve") < 400

    asyncio.run(story())


# --- the server -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def silent(port: int, number: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connections of somebody who connects and says nothing, in their order."""
    opened = []
    for _ in range(number):
        opened.append(await asyncio.open_connection("127.0.0.1", port))
        await asyncio.sleep(0.005)
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def over(reader: asyncio.StreamReader, within_s: float = 2) -> bool:
    """Whether a connection ends in that time."""
    with contextlib.suppress(TimeoutError, OSError):
        return await asyncio.wait_for(reader.read(1), within_s) == b""
    return reader.exception() is not None


@contextlib.asynccontextmanager
async def asking(port: int, certificates: Certificates, sae: str, number: int) -> AsyncIterator[list[Wire]]:
    """Connections of an SAE, each of which was answered once."""
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for _ in range(number):
            opened.append(await stack.enter_async_context(wire(port, certificates.client(sae))))
            assert (await opened[-1].ask("GET", path(MASTER, "status"))).status in (200, 400, 401)
        yield opened


def events(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(line["event"]) for line in lines]


@pytest.mark.parametrize("limits", [Limits(handshakes_a_source=3), Limits(handshakes=3)], ids=["source", "all"])
def test_who_only_connects_keeps_no_sae_out_and_its_oldest_goes_first(
    certificates: Certificates, limits: Limits
) -> None:
    async def story() -> None:
        async with (
            served(MemoryDelivery(), certificates.server_context, limits=limits) as port,
            silent(port, 20) as idlers,
        ):
            assert all([await over(reader) for reader in idlers[:17]])
            assert not any([await over(reader, 0.02) for reader in idlers[17:]])
            async with wire(port, certificates.client(MASTER)) as client:
                assert (await client.ask("GET", STATUS)).status == 200
            assert await over(idlers[17])
            assert events(lines) == ["too many TLS handshakes"], "one for all, which are not told to have failed, too"

    with capture_logs() as lines:
        asyncio.run(story())
    assert (lines[0]["limit"], lines[0]["unsaid"]) == (3, 0)


def test_a_source_pays_for_its_own_handshakes_before_others_do() -> None:
    limits, ends = Limits(handshakes=4, handshakes_a_source=2), []

    async def story() -> None:
        newcomers = http_server._Newcomers(limits, throttled.Throttled())
        with contextlib.ExitStack() as stack:
            for host in (
                "192.0.2.1",
                "2001:db8::1",
                "2001:db8::2",
                "2001:db8::ffff",
                "::ffff:192.0.2.1",
                "::ffff:192.0.2.9",
            ):
                near, far = (stack.enter_context(one) for one in socket.socketpair())
                far.setblocking(False)
                newcomers.add(http_server._Newcomer(near, http_server._source(host)))
                ends.append(far)
            assert len(newcomers) == 4
            assert [_at_end(far) for far in ends] == [True, True, False, False, False, False]

    with capture_logs() as lines:
        asyncio.run(story())
    assert [line["whose"] for line in lines] == ["one source", "all sources"]


def _at_end(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_handshake_that_is_over_takes_no_room_among_handshakes(certificates: Certificates) -> None:
    async def story() -> None:
        limits = Limits(handshakes=1, handshakes_a_source=1)
        async with (
            served(MemoryDelivery(), certificates.server_context, limits=limits) as port,
            asking(port, certificates, MASTER, 5) as clients,
        ):
            for client in clients:
                assert (await client.ask("GET", STATUS)).status == 200

    asyncio.run(story())


def test_an_sae_that_holds_all_it_can_get_keeps_no_other_out(certificates: Certificates) -> None:
    async def story() -> None:
        limits = Limits(connections_each=3)
        async with (
            served(MemoryDelivery(), certificates.server_context, limits=limits) as port,
            asking(port, certificates, SLAVE, 1) as others,
            asking(port, certificates, MASTER, 3) as clients,
        ):
            assert (await clients[0].ask("GET", STATUS)).status == 200  # so the second is idle for longest
            async with asking(port, certificates, MASTER, 1) as newest:
                assert await clients[1].ended()
                for client in (clients[0], clients[2], newest[0], others[0]):
                    assert (await client.ask("GET", STATUS)).status in (200, 401)

    asyncio.run(story())


def test_all_certificates_of_nobody_are_one_client(certificates: Certificates) -> None:
    async def story() -> None:
        async with (
            served(MemoryDelivery(), certificates.server_context, limits=Limits(connections_each=1)) as port,
            wire(port, certificates.client(STRANGER)) as first,
            wire(port, certificates.client(STRANGER)),
        ):
            assert await first.ended()

    with capture_logs():
        asyncio.run(story())


def test_when_all_are_taken_the_longest_idle_of_all_gives_way(certificates: Certificates) -> None:
    async def story() -> None:
        async with (
            served(MemoryDelivery(), certificates.server_context, limits=Limits(connections=2)) as port,
            asking(port, certificates, MASTER, 2) as clients,
            asking(port, certificates, SLAVE, 1) as others,
        ):
            assert await clients[0].ended()
            assert (await clients[1].ask("GET", STATUS)).status == 200
            assert (await others[0].ask("GET", path(SLAVE, "status"))).status == 200

    asyncio.run(story())


@pytest.mark.parametrize("limits", [Limits(connections_each=2), Limits(connections=2)], ids=["of one", "of all"])
def test_no_request_under_way_gives_way_the_newcomer_is_answered_503(
    certificates: Certificates, limits: Limits
) -> None:
    async def story() -> None:
        delivery = MemoryDelivery(gate=asyncio.Event())
        async with (
            served(delivery, certificates.server_context, limits=limits) as port,
            asking(port, certificates, MASTER, 2) as busy,
        ):
            busy[0].send(request("POST", ENC, b"{}"))
            busy[1].send(request("POST", ENC, b"{}")[:-1])  # the end of its body is still to come
            while "reserve" not in delivery.calls:
                await asyncio.sleep(0.01)
            async with wire(port, certificates.client(MASTER)) as late:
                reply = await late.ask("POST", ENC, b"{}")
                assert (reply.status, reply.headers["connection"], reply.headers["retry-after"]) == (503, "close", "1")
                assert "too many connections" in json.loads(reply.body)["message"]
                assert await late.ended()
            assert delivery.calls.count("reserve") == 1
            busy[1].send(b"}")
            assert delivery.gate is not None
            delivery.gate.set()
            assert [(await one.reply()).status for one in busy] == [200, 200]

    with capture_logs() as lines:
        asyncio.run(story())
    (line,) = lines
    assert (line["event"], line["turned_away"], line["holder"]) == ("too many connections", 1, MASTER)


def test_those_that_find_no_room_do_not_pile_up(certificates: Certificates) -> None:
    async def story() -> None:
        delivery, opened = MemoryDelivery(gate=asyncio.Event()), listener()
        port, limits = opened.getsockname()[1], Limits(connections_each=1, handshakes_a_source=2)
        async with (
            listen(delivery, opened, certificates.server_context, known, limits=limits) as server,
            wire(port, certificates.client(MASTER)) as busy,
            contextlib.AsyncExitStack() as stack,
        ):
            busy.send(request("POST", ENC, b"{}"))
            while "reserve" not in delivery.calls:
                await asyncio.sleep(0.01)
            late = [await stack.enter_async_context(wire(port, certificates.client(MASTER))) for _ in range(4)]
            assert [await over(one.reader, 0.2) for one in late] == [True, True, False, False]
            assert server.connections == 3
            assert [(await one.ask("GET", STATUS)).status for one in late[2:]] == [503, 503]
            assert delivery.gate is not None
            delivery.gate.set()
            assert (await busy.reply()).status == 200

    with capture_logs():
        asyncio.run(story())


def test_a_hundred_failed_handshakes_are_one_line_a_second_with_their_number(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await over(reader)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def story() -> None:
        async with served(MemoryDelivery(), certificates.server_context) as port:
            monkeypatch.setattr(throttled, "LOG_EVERY_S", 60.0)
            for _ in range(100):
                await fails(port)
            monkeypatch.setattr(throttled, "LOG_EVERY_S", 0.0)
            await fails(port)

    with capture_logs() as lines:
        asyncio.run(story())
    assert [(line["event"], line["unsaid"]) for line in lines] == [
        ("a TLS handshake failed", 0),
        ("a TLS handshake failed", 99),
    ]


def test_a_handshake_that_does_not_come_to_its_end_is_given_up(certificates: Certificates) -> None:
    async def story() -> None:
        limits = Limits(handshake_s=0.1)
        async with served(MemoryDelivery(), certificates.server_context, limits=limits) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(), 2) == b""
            writer.close()
            await writer.wait_closed()

    with capture_logs() as lines:
        asyncio.run(story())
    assert [line["event"] for line in lines] == ["a TLS handshake failed"]


def test_at_the_end_what_is_under_way_is_answered_and_idle_connections_close(certificates: Certificates) -> None:
    async def story() -> None:
        delivery = MemoryDelivery(gate=asyncio.Event())
        context, client = certificates.server_context, certificates.client(MASTER)
        server = served(delivery, context)
        port = await server.__aenter__()
        async with wire(port, client) as busy, wire(port, client) as idle:
            assert (await idle.ask("GET", STATUS)).status == 200
            busy.send(request("POST", ENC, b"{}"))
            while "reserve" not in delivery.calls:
                await asyncio.sleep(0.01)
            stopping = asyncio.ensure_future(server.__aexit__(None, None, None))
            assert await idle.ended()
            assert delivery.gate is not None
            delivery.gate.set()
            reply = await busy.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            busy.writer.close()
            idle.writer.close()
            await asyncio.wait_for(stopping, 5)
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(story())


def test_at_the_end_nobody_is_waited_for_longer_than_agreed(certificates: Certificates) -> None:
    async def story() -> None:
        delivery = MemoryDelivery(gate=asyncio.Event())
        server = served(delivery, certificates.server_context, limits=Limits(stop_s=0.1))
        port = await server.__aenter__()
        async with wire(port, certificates.client(MASTER)) as busy:
            busy.send(request("POST", ENC, b"{}"))
            while "reserve" not in delivery.calls:
                await asyncio.sleep(0.01)
            await asyncio.wait_for(server.__aexit__(None, None, None), 2)

    asyncio.run(story())


def test_a_client_that_leaves_does_not_break_off_what_it_asked(certificates: Certificates) -> None:
    async def story() -> None:
        delivery = MemoryDelivery(gate=asyncio.Event())
        async with served(delivery, certificates.server_context) as port:
            async with wire(port, certificates.client(MASTER)) as leaving:
                leaving.send(request("POST", ENC, b"{}"))
                while "reserve" not in delivery.calls:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert delivery.gate is not None
            delivery.gate.set()
            await asyncio.sleep(0.05)
            assert len(delivery.waiting) == 1

    asyncio.run(story())


def test_a_client_without_a_certificate_gets_no_connection(certificates: Certificates) -> None:
    async def story() -> None:
        async with served(MemoryDelivery(), certificates.server_context) as port:
            with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
                async with wire(port, certificates.client(None)) as nobody:
                    await nobody.ask("GET", STATUS)

    with capture_logs() as lines:
        asyncio.run(story())
    assert "did not return a certificate" in lines[0]["reason"]
