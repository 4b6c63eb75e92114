"""Two ends that belong together, over asyncio's streams on real sockets."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import pytest
from tests.adapters.tls.parties import CPE, KM, OURS, POMP, QSSP, Province, ask, connected, serving

from qsotn.adapters.tls.context import peer_of
from qsotn.adapters.tls.engine import TlsEngine
from qsotn.domain import PartyId

pytestmark = pytest.mark.usefixtures("carrier")


@pytest.mark.parametrize("party", [KM, POMP, CPE, PartyId("operator/console"), PartyId("qkd/jinan-weifang")])
def test_both_ends_know_each_other(province: Province, party: PartyId) -> None:
    server, client = province.process(QSSP), province.process(party)

    async def story() -> None:
        async with serving(server.server()) as served:
            reader, writer = await connected(client.client(QSSP), served.port)
            connection = writer.get_extra_info("ssl_object")
            engine = connection if OURS.get() else connection.engine
            assert isinstance(engine, TlsEngine)
            assert peer_of(connection).party == QSSP
            assert peer_of(connection).chain == (engine.certificate(),)
            assert (engine.version(), engine.group()) == ("TLSv1.3", "X25519MLKEM768")
            assert engine.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
            assert engine.application_protocol() == "http/1.1"
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert served.peers == [party]
            writer.close()
            await writer.wait_closed()

    asyncio.run(story())
    assert server.refusals == client.refusals == []


def test_large_bodies_pass_both_ways_unchanged(province: Province) -> None:
    server, client = province.process(QSSP), province.process(KM)
    body = os.urandom(5 * 1024 * 1024)

    async def story() -> None:
        async with serving(server.server()) as served:
            assert await ask(client.client(QSSP), served.port, body) == body
            assert served.received == body

    asyncio.run(story())


def test_a_slow_reader_slows_the_writer_and_loses_nothing(province: Province) -> None:
    server, client = province.process(QSSP), province.process(KM)
    body = os.urandom(3 * 1024 * 1024)

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def story() -> bytes:
        async with serving(server.server(), pour) as served:
            reader, writer = await connected(client.client(QSSP), served.port)
            got = b""
            while data := await reader.read(100_000):
                got += data
                await asyncio.sleep(0.002)
            writer.close()
            return got

    assert asyncio.run(story()) == body


def test_both_goodbyes_are_heard(province: Province) -> None:
    server, client = province.process(QSSP), province.process(KM)
    ended = []

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(await reader.read())

    async def story() -> None:
        async with serving(server.server(), wait) as served:
            _, writer = await connected(client.client(QSSP), served.port)
            writer.write(b"last words")
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), 2)

    asyncio.run(story())
    assert ended == [b"last words"]


@pytest.mark.parametrize("goodbye", ["abort", "close"])
def test_an_end_without_goodbye_is_an_end_all_the_same(province: Province, goodbye: str) -> None:
    """HTTP tells a body that was cut off by its length; our own transport tells everybody, asyncio's nobody."""
    server, client = province.process(QSSP), province.process(KM)
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(5) == b"hello"
        if OURS.get():
            with pytest.raises(ssl.SSLEOFError):
                await reader.read()
        else:
            assert await reader.read() == b""
        ended.set()

    async def story() -> None:
        async with serving(server.server(), wait) as served:
            _, writer = await connected(client.client(QSSP), served.port)
            writer.write(b"hello")
            await asyncio.sleep(0.05)
            carried: Any = writer.transport
            getattr(carried._network if OURS.get() else carried._ssl_protocol._transport, goodbye)()
            await asyncio.wait_for(ended.wait(), 2)

    asyncio.run(story())
    assert server.refusals == []


def buffers() -> tuple[ssl.MemoryBIO, ssl.MemoryBIO]:
    return ssl.MemoryBIO(), ssl.MemoryBIO()


class Pair:
    """Both ends over memory, moved by hand."""

    def __init__(self, province: Province, expected: PartyId = QSSP) -> None:
        self.there, self.back = buffers()
        self.at_client, self.at_server = province.process(KM), province.process(QSSP)
        self.client = self.at_client.client(expected).wrap_bio(self.back, self.there)
        self.server = self.at_server.server().wrap_bio(self.there, self.back, server_side=True)

    def shake_hands(self) -> None:
        for end in (self.client, self.server, self.client, self.server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue

    def into_buffer(self, room: int) -> bytes:
        buffer = bytearray(room)
        count: int = self.server.read(room, memoryview(buffer))
        return bytes(buffer[:count])


def test_bytes_that_were_taken_but_not_decrypted_are_pending(province: Province) -> None:
    """uvloop reads only while something is pending."""
    pair = Pair(province)
    pair.shake_hands()
    pair.client.write(b"x" * 40_000)
    assert pair.server.read(1) == b"x"
    assert pair.there.pending == 0
    assert pair.server.pending() > 0
    got = 1
    while pair.server.pending():
        try:
            got += len(pair.server.read(100_000))
        except ssl.SSLWantReadError:
            break
    assert got == 40_000
    assert pair.server.pending() == 0


@pytest.mark.parametrize("data", [b"", b"abc", bytearray(b"abc"), memoryview(b"abcd")[:3], bytes(100_000)])
def test_bytes_of_every_kind_and_length_are_written(province: Province, data: Any) -> None:
    """HTTP clients write lists of pieces, some of them empty."""
    pair = Pair(province)
    pair.shake_hands()
    assert pair.client.write(data) == len(data)
    got = b""
    while len(got) < len(data):
        got += pair.server.read(100_000)
    assert got == data


def test_reading_into_a_buffer_is_reading(province: Province) -> None:
    pair = Pair(province)
    pair.shake_hands()
    pair.client.write(b"abcdef")
    assert pair.into_buffer(4) == b"abcd"
    assert pair.into_buffer(4) == b"ef"
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    assert pair.into_buffer(4) == b""
    assert pair.server.read(4) == b""
    pair.server.unwrap()
    pair.client.unwrap()


def test_nothing_is_read_or_written_before_the_peer_was_judged(province: Province) -> None:
    """OpenSSL would finish the handshake inside a read."""
    pair = Pair(province)
    for end in (pair.client, pair.server):
        with pytest.raises(ssl.SSLError, match="has not been verified"):
            end.read(1)
        with pytest.raises(ssl.SSLError, match="has not been verified"):
            end.write(b"x")
    pair.shake_hands()
    assert pair.client.write(b"x") == 1


def test_a_client_shows_nothing_to_a_server_it_refuses_and_says_so_once(province: Province) -> None:
    pair = Pair(province, PartyId("qssp/qingdao"))
    for end in (pair.client, pair.server):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    assert pair.there.pending == 0
    with pytest.raises(ssl.SSLCertVerificationError, match="expected qssp/qingdao"):
        pair.client.do_handshake()
    assert pair.there.pending == 0
    for again in (pair.client.do_handshake, lambda: pair.client.write(b"x"), lambda: pair.client.read(1)):
        with pytest.raises(ssl.SSLError, match=r"refused|has not been verified"):
            again()
    assert pair.there.pending == 0
    assert len(pair.at_client.refusals) == 1


def test_an_end_that_was_said_goodbye_to_ends_at_once(province: Province) -> None:
    pair = Pair(province)
    pair.shake_hands()
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.server.unwrap()
    pair.client.unwrap()


def test_a_broken_record_ends_the_connection(province: Province) -> None:
    pair = Pair(province)
    pair.shake_hands()
    pair.client.write(b"hello")
    record = bytearray(pair.there.read())
    record[-1] ^= 1
    pair.there.write(record)
    with pytest.raises(ssl.SSLError, match="TLS failed"):
        pair.server.read(100)


def test_the_end_of_the_network_within_a_handshake_or_a_record_is_told(province: Province) -> None:
    pair = Pair(province)
    pair.shake_hands()
    pair.client.write(b"hello")
    record = pair.there.read()
    pair.there.write(record[:-3])
    pair.there.write_eof()
    with pytest.raises(ssl.SSLEOFError):
        pair.server.read(100)


def test_a_context_serves_one_side_of_asyncio_and_resumes_nothing(province: Province) -> None:
    process = province.process(QSSP)
    for context in (process.server(), process.client(KM)):
        with pytest.raises(NotImplementedError, match="blocking sockets"):
            context.wrap_socket(None)
    with pytest.raises(ValueError, match="one side"):
        process.server().wrap_bio(*buffers())
    with pytest.raises(ValueError, match="one side"):
        process.client(KM).wrap_bio(*buffers(), server_side=True)
