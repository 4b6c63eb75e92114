"""uvicorn and aiohttp over it: who asks, bodies, keep-alive, renewal, revocation, and connections that stand still."""

from __future__ import annotations

import asyncio
import asyncio.constants
import io
import os
import ssl
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import uvicorn
from tests.adapters.tls.parties import KM, NOW, QSSP, Process, Province, number_of

from qsotn.adapters.tls import uvicorn_protocol
from qsotn.adapters.tls.uvicorn_protocol import over_tls, request_peer
from qsotn.domain import PartyId
from qsotn.errors import BadProof


class Application:
    """Answers with the body it got, and notes from whom and on which connection it came."""

    def __init__(self) -> None:
        self.asked: list[tuple[PartyId, int]] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.asked.append((request_peer(scope).party, scope["client"][1]))
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    @property
    def connections(self) -> int:
        return len({port for _, port in self.asked})


@asynccontextmanager
async def serving(process: Process, application: Any, keep_alive_s: int = 5) -> AsyncIterator[str]:
    config = uvicorn.Config(
        application,
        port=0,
        lifespan="off",
        ws="none",
        http=over_tls(process.server()),  # type: ignore[arg-type]  # it is called, whatever it is
        log_config=None,
        timeout_keep_alive=keep_alive_s,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"https://localhost:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = server.force_exit = True
        await running


async def ask(session: aiohttp.ClientSession, url: str, context: ssl.SSLContext, body: bytes = b"hello") -> bytes:
    async with session.post(url, data=io.BytesIO(body), ssl=context) as answer:
        assert answer.status == 200
        return await answer.read()


def test_the_application_learns_who_asks_once_for_each_connection(province: Province) -> None:
    server, client = province.process(QSSP), province.process(KM)
    application = Application()

    async def story() -> None:
        async with serving(server, application) as url, aiohttp.ClientSession() as session:
            context = client.client(QSSP)
            for _ in range(200):
                assert await ask(session, url, context) == b"hello"

    asyncio.run(story())
    assert {party for party, _ in application.asked} == {KM}
    assert (len(application.asked), application.connections) == (200, 1)
    assert server.refusals == client.refusals == []


def test_large_bodies_pass_both_ways_beside_each_other(province: Province) -> None:
    server, client = province.process(QSSP), province.process(KM)
    bodies = [os.urandom(5 * 1024 * 1024) for _ in range(2)]

    async def story() -> None:
        async with serving(server, Application()) as url, aiohttp.ClientSession() as session:
            context = client.client(QSSP)
            assert await asyncio.gather(*(ask(session, url, context, body) for body in bodies)) == bodies

    asyncio.run(story())


def test_one_session_keeps_the_parties_it_calls_apart(province: Province) -> None:
    """The same address, called as another party: the open connection is not taken for it."""
    server, client = province.process(QSSP), province.process(KM)

    async def story() -> None:
        async with serving(server, Application()) as url, aiohttp.ClientSession() as session:
            assert await ask(session, url, client.client(QSSP)) == b"hello"
            with pytest.raises(aiohttp.ClientConnectorCertificateError, match="the server is qssp/jinan"):
                await ask(session, url, client.client(PartyId("qssp/qingdao")))

    asyncio.run(story())
    assert client.refusals == [("the server is qssp/jinan: expected qssp/qingdao", QSSP)]


def test_a_renewal_is_taken_up_by_new_connections_and_drops_no_request(province: Province) -> None:
    server, client = province.process(QSSP), province.process(KM)
    application = Application()

    async def story() -> None:
        async with serving(server, application) as url, aiohttp.ClientSession() as session:
            context = client.client(QSSP)
            long = asyncio.create_task(ask(session, url, context, os.urandom(5 * 1024 * 1024)))
            for _ in range(5):
                for process in (server, client):
                    province.renew(process)
                    assert process.credentials.reload_if_changed()
                assert await ask(session, url, context) == b"hello"
                async with aiohttp.ClientSession() as fresh:
                    assert await ask(fresh, url, context) == b"hello"
            await long

    asyncio.run(story())
    assert len(application.asked) == 11
    assert server.refusals == client.refusals == []
    assert server.failures == client.failures == []


@pytest.mark.parametrize("client_minds", [False, True])
def test_a_revocation_ends_a_connection_that_is_kept_alive(province: Province, client_minds: bool) -> None:
    server, client = province.process(QSSP, lists=True), province.process(KM, lists=True)
    minding, revoked = (client, server) if client_minds else (server, client)
    application = Application()

    async def story() -> None:
        async with serving(server, application) as url, aiohttp.ClientSession() as session:
            context = client.client(QSSP)
            assert await ask(session, url, context) == b"hello"
            number = number_of(revoked.credentials.pair.itself.chain[0])
            province.write_list(minding.folder, {number: NOW}, 2)
            assert minding.trust.reload_if_changed()
            with pytest.raises(aiohttp.ClientError):
                await ask(session, url, context)

    asyncio.run(story())
    assert len(application.asked) == 1
    assert {claimed for _, claimed in minding.refusals} == {revoked.party}
    assert all("is revoked" in reason for reason, _ in minding.refusals)


def test_a_connection_without_a_request_is_closed(province: Province) -> None:
    server, client = province.process(QSSP), province.process(KM)

    async def story() -> None:
        async with serving(server, Application(), keep_alive_s=1) as url:
            port = int(url.split(":")[2].strip("/"))
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client.client(QSSP))
            assert await asyncio.wait_for(reader.read(), 3) == b""
            writer.close()

    asyncio.run(story())


def test_a_handshake_that_stands_still_is_ended(province: Province, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "SLOWEST_HANDSHAKE_S", 0.2)
    server = province.process(QSSP)

    async def story() -> None:
        async with serving(server, Application()) as url:
            port = int(url.split(":")[2].strip("/"))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(), 2) == b""
            writer.close()

    asyncio.run(story())


@pytest.mark.parametrize("scope", [{}, {"extensions": {}}, {"extensions": {"tls": {}}}])
def test_a_request_of_unknown_origin_has_no_peer(scope: dict[str, Any]) -> None:
    with pytest.raises(BadProof, match="verified peer"):
        request_peer(scope)
