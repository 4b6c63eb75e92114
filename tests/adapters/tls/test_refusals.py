"""Every client that is turned away: with which words, in one log line, and with no byte for the application."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto
from tests.adapters.tls.parties import (
    DAY,
    KM,
    NOW,
    QSSP,
    SECOND,
    Process,
    Province,
    careless_client,
    classical_groups,
    number_of,
    serving,
    shout,
    standard_client,
)
from tests.adapters.tls.unbelievable import UNBELIEVED, Maker

from qsotn.domain import PartyId, Role

pytestmark = pytest.mark.usefixtures("carrier")

Attempt = Callable[[int], str]
"""Connects to a port and says what came of it."""


def refused_by_a_server(server: Process, attempt: Attempt, context: ssl.SSLContext | None = None) -> tuple[str, Any]:
    """Let a client try; return the server's one reason, and whom it said it refused."""

    async def story() -> bytes:
        async with serving(context or server.server()) as served:
            outcome = await asyncio.to_thread(attempt, served.port)
            for _ in range(100):
                if server.refusals:
                    break
                await asyncio.sleep(0.01)
            assert not outcome.startswith("received b'hello"), outcome
            assert served.peers == []
            return bytes(served.received)

    assert asyncio.run(story()) == b""
    ((reason, claimed),) = server.refusals
    return reason, claimed


@pytest.mark.parametrize(("certificate", "words", "claims"), UNBELIEVED.values(), ids=UNBELIEVED)
def test_a_server_refuses_an_unbelievable_certificate(
    province: Province, certificate: Maker, words: str, claims: PartyId | None
) -> None:
    settings = province.settings(*certificate(province, KM))
    reason, claimed = refused_by_a_server(province.process(QSSP), lambda port: careless_client(settings, port))
    assert words in reason
    assert claimed == claims


def test_the_same_careless_client_is_served_with_a_certificate_in_order(province: Province) -> None:
    """So that each row above fails for its own reason."""
    server, key = province.process(QSSP), province.key()
    settings = province.settings([province.certificate(KM, key)], key)

    async def story() -> str:
        async with serving(server.server()) as served:
            return await asyncio.to_thread(careless_client, settings, served.port)

    assert asyncio.run(story()) == "received b'hello'"
    assert server.refusals == []


def without_a_certificate() -> SSL.Context:
    settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    settings.set_verify(SSL.VERIFY_NONE, lambda *_: True)
    return settings


def with_a_classical_certificate(province: Province) -> SSL.Context:
    """An elliptic-curve key that the operator's root certified."""
    key, settings = ec.generate_private_key(ec.SECP256R1()), without_a_certificate()
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + DAY)
    settings.use_certificate(builder.sign(key, hashes.SHA256()))
    settings.use_privatekey(key)
    return settings


def older_version(province: Province) -> SSL.Context:
    settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    settings.set_max_proto_version(SSL.TLS1_2_VERSION)
    return settings


def with_a_classical_group(province: Province) -> SSL.Context:
    key = province.key()
    return classical_groups(province.settings([province.certificate(KM, key)], key))


def with_shorter_keys(province: Province) -> SSL.Context:
    key = province.key()
    settings = province.settings([province.certificate(KM, key)], key)
    settings.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")
    return settings


CARELESS: dict[str, tuple[Callable[[Province], SSL.Context], str]] = {
    "no certificate": (lambda _: without_a_certificate(), "showed no ML-DSA certificate"),
    "classical certificate": (with_a_classical_certificate, "showed no ML-DSA certificate"),
    "classical groups": (with_a_classical_group, "offers no post-quantum group: expected X25519MLKEM768"),
    "AES-128": (with_shorter_keys, "does not take AES-256-GCM"),
    "TLS 1.2": (older_version, "does not speak TLS 1.3"),
}


@pytest.mark.parametrize(("settings", "words"), CARELESS.values(), ids=CARELESS)
def test_a_server_refuses_what_is_not_post_quantum_on_both_sides(province: Province, settings: Any, words: str) -> None:
    made = settings(province)
    reason, claimed = refused_by_a_server(province.process(QSSP), lambda port: careless_client(made, port))
    assert words in reason
    assert claimed is None


def test_a_certificate_that_cannot_be_read_is_refused(province: Province, tmp_path: Path) -> None:
    """X.509 in a version that does not exist: the library takes it, and what verifies here does not."""
    key = province.key()
    settings = province.settings([province.certificate(KM, key)], key)
    odd = province.certificate(KM, key).replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020108"))
    (tmp_path / "odd.der").write_bytes(odd)
    settings.use_certificate_file(str(tmp_path / "odd.der"), crypto.FILETYPE_ASN1)
    reason, claimed = refused_by_a_server(province.process(QSSP), lambda port: careless_client(settings, port))
    assert "the peer's certificate cannot be read" in reason
    assert claimed is None


@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO >= (3, 5), reason="the system's OpenSSL offers post-quantum groups")
@pytest.mark.parametrize(
    ("version", "words"),
    [
        (ssl.TLSVersion.TLSv1_3, "offers no post-quantum group"),
        (ssl.TLSVersion.TLSv1_2, "does not speak TLS 1.3"),
    ],
)
def test_a_client_on_an_older_openssl_is_refused(province: Province, version: ssl.TLSVersion, words: str) -> None:
    reason, _ = refused_by_a_server(province.process(QSSP), lambda port: standard_client(version, port))
    assert words in reason


NOT_TLS = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "is not TLS"),
    "a proxy's HTTP": (b"CONNECT localhost:1 HTTP/1.1\r\n\r\n", "is not TLS"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", "is not TLS"),
    "zeros": (bytes(300), "is not TLS"),
    "noise": (bytes(range(1, 256)), "is not TLS"),
    "a record of noise": (b"\x16\x03\x01\x00\x05hello", "is not TLS"),
    "a record without end": (b"\x16\x03\x01\xff\xffhello", "TLS failed"),
}


@pytest.mark.parametrize(("data", "words"), NOT_TLS.values(), ids=NOT_TLS)
def test_a_server_refuses_what_is_not_tls(province: Province, data: bytes, words: str) -> None:
    reason, _ = refused_by_a_server(province.process(QSSP), lambda port: shout(data, port))
    assert words in reason


def test_a_server_refuses_a_role_it_does_not_serve(province: Province) -> None:
    server, key = province.process(QSSP), province.key()
    settings = province.settings([province.certificate(KM, key)], key)
    context = server.server(frozenset({Role.POMP, Role.PMP}))
    reason, claimed = refused_by_a_server(server, lambda port: careless_client(settings, port), context)
    assert (reason, claimed) == ("km/jinan has no business at qssp/jinan: expected a role of pmp, pomp", KM)


def test_a_revoked_client_is_refused(province: Province) -> None:
    server, key = province.process(QSSP, lists=True), province.key()
    certificate = province.certificate(KM, key)
    province.write_list(server.folder, {number_of(certificate): NOW}, 2)
    assert server.trust.reload_if_changed()
    settings = province.settings([certificate], key)
    reason, claimed = refused_by_a_server(server, lambda port: careless_client(settings, port))
    assert (reason, claimed) == (
        f"the certificate of km/jinan is revoked (serial number {number_of(certificate):x})",
        KM,
    )


def test_when_a_revocation_list_has_ended_nobody_of_its_root_is_believed(province: Province) -> None:
    server, key = province.process(QSSP, lists=True), province.key()
    settings = province.settings([province.certificate(KM, key)], key)
    server.clock.moment = NOW + 7 * DAY + SECOND
    reason, _ = refused_by_a_server(server, lambda port: careless_client(settings, port))
    assert "the revocation list that covers km/jinan ended at" in reason


def hello_of_a_client() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    there = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), there).do_handshake()
    return there.read()


@pytest.mark.parametrize("length", [0, 1, 5, 6, 43, 100])
def test_a_handshake_that_breaks_off_is_no_peer(province: Province, length: int) -> None:
    server = province.process(QSSP)

    async def story() -> None:
        async with serving(server.server()) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(hello_of_a_client()[:length])
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 2) == b""
            writer.close()
            assert served.peers == []

    asyncio.run(story())
    assert server.refusals == []


@pytest.mark.parametrize("length", [0, 5, 100])
def test_a_handshake_that_stands_still_is_ended(province: Province, length: int) -> None:
    server = province.process(QSSP)

    async def story() -> None:
        async with serving(server.server(), timeout_s=0.2) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(hello_of_a_client()[:length])
            assert await asyncio.wait_for(rest_of(reader), 2) == b""
            writer.close()
            assert served.peers == []

    asyncio.run(story())
    assert server.refusals == []


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
