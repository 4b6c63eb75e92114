"""One HTTP/1.1 connection: what is taken, in which order it is answered, and how every bad state of it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs
from tests.service.delivery.etsi014_world import (
    MASTER,
    SLAVE,
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
from qsotn.service.delivery import http_protocol, http_server
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


def test_there_is_a_most_of_connections_handshakes_among_them(certificates: Certificates) -> None:
    async def story() -> None:
        limits = Limits(connections=3)
        async with served(MemoryDelivery(), certificates.server_context, limits=limits) as port:
            silent = await asyncio.open_connection("127.0.0.1", port)  # a handshake that does not begin
            async with wire(port, certificates.client(MASTER)) as one, wire(port, certificates.client(MASTER)) as two:
                with pytest.raises(OSError):
                    async with wire(port, certificates.client(MASTER)) as third:
                        await third.ask("GET", STATUS)
                assert (await one.ask("GET", STATUS)).status == (await two.ask("GET", STATUS)).status == 200
                silent[1].close()
                await silent[1].wait_closed()
                await asyncio.sleep(0.05)
                async with wire(port, certificates.client(MASTER)) as again:
                    assert (await again.ask("GET", STATUS)).status == 200

    with capture_logs() as lines:
        asyncio.run(story())
    assert [line["event"] for line in lines].count("too many connections") == 1


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
