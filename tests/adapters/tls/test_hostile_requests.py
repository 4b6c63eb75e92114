"""Peers with a certificate that are slow, endless or odd: nothing grows, and nobody stays for ever."""

from __future__ import annotations

import asyncio

import pytest
from tests.adapters.tls.parties import KM, QSSP, Province
from tests.adapters.tls.test_http import Application, serving

from qsotn.adapters.tls import uvicorn_protocol
from qsotn.adapters.tls.uvicorn_protocol import LARGEST_HEAD

GET = b"GET / HTTP/1.1\r\nHost: km\r\n"
CHUNKED = GET + b"Transfer-Encoding: chunked\r\n\r\n"


async def answer_to(province: Province, parts: list[bytes], *, keep_alive_s: int = 5) -> bytes:
    """Send parts one by one over one connection, and return all that comes until the server closes it."""
    async with serving(province.process(KM), Application(), keep_alive_s) as url:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        context = province.process(QSSP).client(KM)
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()


@pytest.mark.parametrize(
    "parts",
    [
        [GET, *[b"X-A: " + b"a" * 4096 + b"\r\n"] * (LARGEST_HEAD // 4096 + 4)],
        [GET, *[b"X-A: " + b"a" * 4096] * (LARGEST_HEAD // 4096 + 4)],
        [CHUNKED, b"0\r\n", *[b"X-T: " + b"a" * 4096 + b"\r\n"] * 4],
        [CHUNKED, b"0\r\n", b"X-T: ", *[b"a" * 4096] * (LARGEST_HEAD // 4096 + 4)],
        [CHUNKED, *[b"1;" + b"e" * 4096 + b"\r\na\r\n"] * (LARGEST_HEAD // 4096 + 4)],
    ],
    ids=["headers", "one header", "trailers", "one trailer", "chunk extensions"],
)
def test_what_is_no_body_may_not_grow(province: Province, parts: list[bytes]) -> None:
    answered = asyncio.run(answer_to(province, parts))
    assert not answered.startswith(b"HTTP/1.1 200")


def test_a_head_that_trickles_in_is_given_up(province: Province, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "SLOWEST_HEAD_S", 0.2)
    assert asyncio.run(answer_to(province, [GET, b"X-A: a\r\n"])) == b""


def test_a_stray_line_break_between_requests_keeps_no_connection(province: Province) -> None:
    answered = asyncio.run(answer_to(province, [GET + b"\r\n", b"\r\n"], keep_alive_s=1))
    assert answered.count(b"HTTP/1.1 200") == 1


def test_many_small_requests_in_one_piece_are_all_answered(province: Province) -> None:
    answered = asyncio.run(answer_to(province, [(GET + b"\r\n") * 4000], keep_alive_s=1))
    assert answered.count(b"HTTP/1.1 200") == 4000
