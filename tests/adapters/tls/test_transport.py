"""What our own transport does beyond what asyncio's does: alerts, answers of the library, ends that are waited for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest
from OpenSSL import SSL
from tests.adapters.tls.parties import KM, QSSP, Process, Province, classical_groups, connected, serving

from qsotn.adapters.tls import transport


def settings_of(province: Province, process: Process) -> SSL.Context:
    """What a client of the library itself presents."""
    key = province.key()
    return province.settings([province.certificate(process.party, key)], key)


def test_a_client_whose_handshake_fails_is_told_by_an_alert(province: Province) -> None:
    server, settings = province.process(QSSP), classical_groups(settings_of(province, province.process(KM)))

    def talk(port: int) -> list[Any]:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            connection = SSL.Connection(settings, plain)
            connection.set_connect_state()
            plain.setblocking(True)
            with pytest.raises(SSL.Error) as refused:
                connection.do_handshake()
            return list(refused.value.args)

    async def story() -> list[Any]:
        async with serving(server.server()) as served:
            return await asyncio.to_thread(talk, served.port)

    assert "handshake failure" in str(asyncio.run(story()))


class Asked:
    """An engine whose peer asks for new keys (RFC 8446, clause 4.6.3) with every byte, which the library answers."""

    server, ended, answers = True, False, False

    def __init__(self) -> None:
        self.unsent = b""

    def receive(self, data: memoryview) -> None:
        self.unsent += b"y" * len(data) * 1000

    def handshake(self) -> bool:
        return True

    def read(self) -> bytes:
        self.answers = True
        return b""

    def to_send(self) -> bytes:
        sent, self.unsent = self.unsent, b""
        return sent


async def asking(engine: Asked, listens: bool) -> bool:
    """Ask for some megabytes; say whether all was answered, or else the connection ended."""
    near, far = socket.socketpair()
    carried = transport.TlsTransport(engine, asyncio.Protocol, 5)  # type: ignore[arg-type]  # as much as is used of one
    await asyncio.get_running_loop().create_connection(lambda: carried, sock=near)
    reader, writer = await asyncio.open_connection(sock=far)
    writer.write(b"?")
    assert await reader.readexactly(1000) == b"y" * 1000
    for _ in range(20):
        writer.write(b"?" * 200)
        await asyncio.sleep(0.01)
        if listens:
            await reader.readexactly(200_000)
    ended = carried.is_closing()
    carried.abort()
    writer.close()
    return not ended


def test_what_the_library_answers_by_itself_is_sent_though_nobody_writes() -> None:
    assert asyncio.run(asking(Asked(), listens=True))


def test_a_peer_that_asks_and_never_reads_is_cut_off() -> None:
    assert not asyncio.run(asking(Asked(), listens=False))


def narrow(writer: asyncio.StreamWriter) -> None:
    """Let the system keep little of what one end sent and the other has not read."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 16 * 1024)


def test_an_answer_is_read_to_its_end_by_a_slow_client_after_the_goodbye(
    province: Province, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the client goes on reading, the end waits for it; one that reads nothing is cut off."""
    monkeypatch.setattr(transport, "SHUTDOWN_S", 0.5)
    server, client, size = province.process(QSSP), province.process(KM), 1024 * 1024

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        narrow(writer)
        writer.write(bytes(size))
        writer.close()

    async def story(slowly: bool) -> int:
        async with serving(server.server(), pour) as served:
            reader, writer = await connected(client.client(QSSP), served.port)
            narrow(writer)
            got = 0
            if not slowly:
                carried: Any = writer.transport
                carried.pause_reading()
                await asyncio.sleep(2)
                carried.resume_reading()
            try:
                while data := await reader.read(32 * 1024):
                    got += len(data)
                    await asyncio.sleep(0.05 if slowly else 0)
            except OSError:
                pass
            writer.close()
            return got

    assert asyncio.run(story(slowly=True)) == size
    assert asyncio.run(story(slowly=False)) < size


def test_to_end_what_has_ended_is_nothing(province: Province) -> None:
    """asyncio closes a socket twice if it is told to after it sent the rest of a buffer."""
    server, client = province.process(QSSP), province.process(KM)
    failures: list[dict[str, Any]] = []
    carried: list[Any] = []

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        narrow(writer)
        carried.append(writer.transport)
        writer.write(bytes(512 * 1024))
        carried[0]._fail(ssl.SSLError(ssl.SSL_ERROR_SSL, "as if the peer were refused now"))

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: failures.append(told))
        async with serving(server.server(), pour) as served:
            reader, writer = await connected(client.client(QSSP), served.port)
            with contextlib.suppress(ssl.SSLEOFError):  # it ended without a goodbye
                while await reader.read(64 * 1024):
                    pass
            writer.close()
            while not carried[0]._gone:
                await asyncio.sleep(0.01)
            carried[0].abort()
            await asyncio.sleep(0.05)

    asyncio.run(story())
    assert failures == []
