"""Every server that a client turns away from: with which words, and before it showed or sent anything."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator

import pytest
from OpenSSL import SSL
from tests.adapters.tls.parties import (
    DAY,
    KM,
    NOW,
    QSSP,
    SECOND,
    CarelessServer,
    Province,
    ask,
    classical_groups,
    connected,
    number_of,
    serving,
)
from tests.adapters.tls.unbelievable import UNBELIEVED, Maker

from qsotn.adapters.tls import openssl
from qsotn.domain import PartyId

pytestmark = pytest.mark.usefixtures("carrier")

Start = Callable[[SSL.Context], CarelessServer]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[CarelessServer] = []

    def begin(settings: SSL.Context) -> CarelessServer:
        started.append(CarelessServer(settings))
        return started[-1]

    yield begin
    for server in started:
        server.close()


@pytest.mark.parametrize(("certificate", "words", "claims"), UNBELIEVED.values(), ids=UNBELIEVED)
def test_a_client_refuses_an_unbelievable_certificate(
    province: Province, start: Start, certificate: Maker, words: str, claims: PartyId | None
) -> None:
    client = province.process(QSSP)
    server = start(province.settings(*certificate(province, KM), server=True))
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        asyncio.run(ask(client.client(KM), server.port))
    server.close()
    ((reason, claimed),) = client.refusals
    assert words in reason
    assert caught.value.args == (1, reason)
    assert claimed == claims
    assert server.received == b""


def test_the_same_careless_server_is_spoken_to_with_a_certificate_in_order(province: Province, start: Start) -> None:
    client, key = province.process(QSSP), province.key()
    server = start(province.settings([province.certificate(KM, key)], key, server=True))
    assert asyncio.run(ask(client.client(KM), server.port)) == b"hello"
    assert client.refusals == []


def test_a_server_that_is_another_party_is_refused(province: Province) -> None:
    """A KM of the same province, in order in every other way."""
    server, client = province.process(KM), province.process(QSSP)

    async def story() -> None:
        async with serving(server.server()) as served:
            with pytest.raises(ssl.SSLCertVerificationError, match="the server is km/jinan: expected km/qingdao"):
                await ask(client.client(PartyId("km/qingdao")), served.port)
            await asyncio.sleep(0.05)
            assert served.peers == []

    asyncio.run(story())
    assert client.refusals == [("the server is km/jinan: expected km/qingdao", KM)]
    # The client left before it showed who it is, so there is nobody the server could have refused.
    assert server.refusals == []


def test_a_revoked_server_is_refused(province: Province, start: Start) -> None:
    client, key = province.process(QSSP, lists=True), province.key()
    certificate = province.certificate(KM, key)
    server = start(province.settings([certificate], key, server=True))
    province.write_list(client.folder, {number_of(certificate): NOW}, 2)
    assert client.trust.reload_if_changed()
    with pytest.raises(ssl.SSLCertVerificationError, match="is revoked"):
        asyncio.run(ask(client.client(KM), server.port))


def test_a_client_whose_list_has_ended_believes_no_server(province: Province, start: Start) -> None:
    client, key = province.process(QSSP, lists=True), province.key()
    server = start(province.settings([province.certificate(KM, key)], key, server=True))
    client.clock.moment = NOW + 7 * DAY + SECOND
    with pytest.raises(ssl.SSLCertVerificationError, match="ended at"):
        asyncio.run(ask(client.client(KM), server.port))


def test_a_server_without_post_quantum_groups_is_refused(province: Province, start: Start) -> None:
    client, key = province.process(QSSP), province.key()
    server = start(classical_groups(province.settings([province.certificate(KM, key)], key, server=True)))
    with pytest.raises(OSError):
        asyncio.run(ask(client.client(KM), server.port))
    assert server.received == b""
    assert [reason for reason, _ in client.refusals] in ([], ["the peer refused: tls alert handshake failure"])


def test_a_server_of_an_older_version_is_refused(province: Province, start: Start) -> None:
    client = province.process(QSSP)
    settings = SSL.Context(SSL.TLS_SERVER_METHOD)
    settings.set_max_proto_version(SSL.TLS1_2_VERSION)
    server = start(settings)
    with pytest.raises(OSError):
        asyncio.run(ask(client.client(KM), server.port))
    assert server.received == b""


def test_a_classical_group_is_refused_even_if_both_ends_were_set_to_it(
    province: Province, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of the library are not relied on: what was negotiated is looked at."""
    with monkeypatch.context() as patched:
        patched.setattr(openssl, "GROUPS", ("X25519",))
        server, client = province.process(KM), province.process(QSSP)

    async def story() -> None:
        async with serving(server.server()) as served:
            with pytest.raises(ssl.SSLCertVerificationError, match="not post-quantum: x25519"):
                await ask(client.client(KM), served.port)
            assert served.peers == []

    asyncio.run(story())
    assert client.refusals == [
        ("the key exchange is not post-quantum: x25519, expected X25519MLKEM768 or SecP384r1MLKEM1024", KM)
    ]


def test_the_larger_group_is_taken_if_it_is_the_only_one(province: Province, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(openssl, "GROUPS", ("SecP384r1MLKEM1024",))
        client = province.process(QSSP)
    server = province.process(KM)

    async def story() -> str | None:
        async with serving(server.server()) as served:
            _, writer = await connected(client.client(KM), served.port)
            group: str | None = writer.get_extra_info("ssl_object").group()
            writer.close()
            return group

    assert asyncio.run(story()) == "SecP384r1MLKEM1024"
