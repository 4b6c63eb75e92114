"""What happens to connections that are open when certificates are renewed, expire, or are revoked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from cryptography import x509
from OpenSSL import SSL
from tests.adapters.tls.parties import (
    DAY,
    KM,
    NOW,
    QSSP,
    SECOND,
    Process,
    Province,
    ask,
    connected,
    number_of,
    serving,
    write_key,
)

from qsotn.adapters.tls.context import peer_of

pytestmark = pytest.mark.usefixtures("carrier")


def test_a_renewal_during_traffic_drops_nothing(province: Province) -> None:
    """Old connections go on with the old certificates, new ones show the new."""
    server, client = province.process(QSSP), province.process(KM)
    context = client.client(QSSP)

    async def story() -> None:
        async with serving(server.server()) as served:
            reader, writer = await connected(context, served.port)
            chains = {peer_of(writer.get_extra_info("ssl_object")).chain}
            for _ in range(3):
                for process in (server, client):
                    province.renew(process)
                    assert process.credentials.reload_if_changed()
                writer.write(b"still here")
                assert await reader.readexactly(10) == b"still here"
                assert await ask(context, served.port) == b"hello"
                _, other = await connected(context, served.port)
                chains.add(peer_of(other.get_extra_info("ssl_object")).chain)
                other.close()
            writer.close()
            assert len(chains) == 4

    asyncio.run(story())
    assert server.refusals == client.refusals == []


def revoke(province: Province, at: Process, whom: Process) -> None:
    province.write_list(at.folder, {number_of(whom.credentials.pair.itself.chain[0]): NOW}, 2)
    assert at.trust.reload_if_changed()


def let_expire(_: Province, at: Process, whom: Process) -> None:
    at.clock.moment = whom.credentials.pair.itself.not_after + SECOND


def let_the_list_end(_: Province, at: Process, whom: Process) -> None:
    at.clock.moment = NOW + 7 * DAY + SECOND


ENDS = {"revoked": (revoke, "is revoked"), "expired": (let_expire, "expired"), "list": (let_the_list_end, "list that")}


@pytest.mark.parametrize(("end", "words"), ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("client_minds", [False, True])
def test_an_open_connection_ends_with_the_trust_in_its_peer(
    province: Province, end: Callable[[Province, Process, Process], None], words: str, client_minds: bool
) -> None:
    server = province.process(QSSP, lists=True, days=5 if words == "expired" else 30)
    client = province.process(KM, lists=True, days=5 if words == "expired" else 30)
    minding, whom = (client, server) if client_minds else (server, client)

    async def story() -> bytes:
        async with serving(server.server()) as served:
            reader, writer = await connected(client.client(QSSP), served.port)
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            end(province, minding, whom)
            writer.write(b"after")
            assert await rest_of(reader) == b""
            writer.close()
            return bytes(served.received)

    assert asyncio.run(story()) == b"before"
    ((reason, claimed),) = minding.refusals
    assert words in reason
    assert claimed == whom.party
    assert (server if client_minds else client).refusals == []


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """However the connection ended, nothing more came."""
    try:
        return await asyncio.wait_for(reader.read(), 2)
    except OSError:
        return b""


def test_no_session_is_resumed(province: Province) -> None:
    """A client that kept what a server gave it begins anew all the same, with certificates."""
    server, key = province.process(QSSP), province.key()
    settings = willing_to_resume(province.certificate(KM, key))
    write_key(province.folder / "resuming.pem", key)
    settings.use_privatekey_file(str(province.folder / "resuming.pem"))

    def talk(port: int, session: SSL.Session | None) -> tuple[SSL.Session | None, int]:
        with socket.create_connection(("127.0.0.1", port)) as plain:
            connection = SSL.Connection(settings, plain)
            connection.set_connect_state()
            if session is not None:
                connection.set_session(session)
            connection.do_handshake()
            connection.send(b"hello")
            assert connection.recv(5) == b"hello"  # by now what a server would give was received
            connection.shutdown()  # OpenSSL marks a session that broke off as spent
            return connection.get_session(), SSL._lib.SSL_session_reused(connection._ssl)  # type: ignore[attr-defined]

    async def story() -> None:
        async with serving(server.server()) as served:
            session, _ = await asyncio.to_thread(talk, served.port, None)
            assert session is not None
            _, reused = await asyncio.to_thread(talk, served.port, session)
            assert reused == 0
            assert served.peers == [KM, KM]

    asyncio.run(story())


def willing_to_resume(certificate: bytes) -> SSL.Context:
    """A client with all that our own settings switch off."""
    settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    settings.use_certificate(x509.load_der_x509_certificate(certificate))
    settings.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)
    return settings
