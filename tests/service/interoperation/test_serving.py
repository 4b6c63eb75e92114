"""Two borders over real sockets: TLS 1.3 with certificates on both sides, of a CA that both operators know."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.service.interoperation.border import ALICE, BOB, EAST, WEST, Network, run, seeded

from qsotn.crypto.vault import Vault
from qsotn.domain import PartyId, Secret
from qsotn.errors import LineError, Refusal, UsageError
from qsotn.service.delivery.etsi014_identity import sae_of
from qsotn.service.delivery.saes import Saes
from qsotn.service.interoperation import etsi020_messages as form
from qsotn.service.interoperation.border import Border, Neighbourhood, opened
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.etsi020_client import HttpLine
from qsotn.service.interoperation.operators import Operator, Operators
from qsotn.service.interoperation.serving import listen, standard_context

STRANGER = "km/stranger"
HOMES = {ALICE: EAST, BOB: WEST}
TYPES = "https://qkd.etsi.org/gs020-interop-kms/"


class Authority:
    """A CA of ordinary certificates, and what it issued, in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.issue(name, self.key, authority=True)

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def issue(self, name: str, key: ec.EllipticCurvePrivateKey | None = None, *, authority: bool = False) -> None:
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder(
                issuer_name=_named(self.name),
                subject_name=_named(name),
                public_key=key.public_key(),
                serial_number=x509.random_serial_number(),
                not_valid_before=now - dt.timedelta(hours=1),
                not_valid_after=now + dt.timedelta(hours=1),
            )
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if not authority:
            names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.UniformResourceIdentifier(name)]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(self.key, SHA256())
        path = self.folder / f"{name.replace('/', '-')}.pem"
        path.write_bytes(signed.public_bytes(Encoding.PEM))
        path.with_suffix(".key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def revocation_list(self, number: int, *revoked: str) -> bytes:
        """A list in PEM of those whom it names, by the certificates that they had last."""
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(_named(self.name)).last_update(now)
        builder = builder.next_update(now + dt.timedelta(hours=1)).add_extension(x509.CRLNumber(number), critical=False)
        for name in revoked:
            certificate = x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM)

    def context(self, name: str, *, server: bool) -> ssl.SSLContext:
        path = self.folder / f"{name.replace('/', '-')}.pem"
        return standard_context(path, path.with_suffix(".key"), self.certificate, server=server)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    for name in (EAST, WEST, STRANGER):
        made.issue(name)
    return made


@dataclass
class Side:
    """One operator: where it listens, and what it is."""

    own: PartyId
    listener: socket.socket
    border: Border | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.listener.getsockname()[1]}"


def side(own: PartyId) -> Side:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return Side(own, listener)


@contextlib.asynccontextmanager
async def both(authority: Authority, patience_s: float = 10) -> AsyncIterator[tuple[Side, Side]]:
    east, west = side(EAST), side(WEST)
    async with contextlib.AsyncExitStack() as stack:
        for own, other, foreign in ((east, west, BOB), (west, east, ALICE)):
            await stack.enter_async_context(at_border(authority, own, other, foreign, patience_s))
        yield east, west


@contextlib.asynccontextmanager
async def at_border(
    authority: Authority, own: Side, other: Side, foreign: str, patience_s: float
) -> AsyncIterator[None]:
    saes = Saes(own.own, {**HOMES, foreign: own.own})
    operator = Operator(other.own, other.url, frozenset({foreign}))
    line = HttpLine(operator, partial(authority.context, own.own, server=False))
    around = Neighbourhood(
        Network(own.own, {**HOMES}), saes, Operators([operator]), lambda _: line, own.url, patience_s
    )
    vault = Vault(Secret(hashlib.sha256(own.own.encode()).digest()), seeded(own.own))
    path = authority.folder / f"{own.own.replace('/', '-')}.db"
    async with opened(around, lambda: BorderStore(path, vault, seeded(own.own))) as own.border:
        context = authority.context(own.own, server=True)
        identify = partial(sae_of, known={other.own})
        async with listen(own.border.interface.answer, own.listener, context, identify):
            yield
    await line.close()


def test_a_key_crosses_the_border_over_real_connections(authority: Authority) -> None:
    async def story() -> None:
        async with both(authority) as (east, west):
            assert east.border is not None
            assert west.border is not None
            keys = await east.border.gateway.reserve(ALICE, [BOB], 128, 256)
            found = await west.border.gateway.collect(BOB, ALICE, [key.key_id for key in keys])
            assert list(found) == list(keys)

    run(story())


def test_an_operator_that_does_not_listen_is_silence(authority: Authority) -> None:
    async def story() -> None:
        async with both(authority, patience_s=0.2) as (east, west):
            assert east.border is not None
            west.listener.close()
            with pytest.raises(Refusal, match="FAR_END_SILENT"):
                await east.border.gateway.reserve(ALICE, [BOB], 1, 256)

    run(story())


def test_a_peer_of_the_same_ca_that_is_no_operator_is_told_so_and_one_without_certificate_nothing(
    authority: Authority,
) -> None:
    async def story() -> None:
        async with both(authority) as (east, _):
            stranger = HttpLine(
                Operator("x", east.url, frozenset()), partial(authority.context, STRANGER, server=False)
            )
            assert await stranger.post(form.EXT_KEYS, b"{}") == 401
            await stranger.close()
            anonymous = ssl.create_default_context(cafile=authority.certificate)
            nobody = HttpLine(Operator("x", east.url, frozenset()), lambda: anonymous)
            with pytest.raises(LineError, match="gave no answer"):
                await nobody.post(form.EXT_KEYS, b"{}")
            await nobody.close()

    run(story())


def test_tls_1_2_is_not_spoken(authority: Authority) -> None:
    async def story() -> None:
        async with both(authority) as (east, _):
            context = authority.context(WEST, server=False)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            older = HttpLine(Operator("x", east.url, frozenset()), lambda: context)
            with pytest.raises(LineError, match="gave no answer"):
                await older.post(form.VERSIONS, b"")
            await older.close()

    run(story())


def test_a_body_that_is_too_large_is_refused_before_it_is_read(authority: Authority) -> None:
    async def story() -> None:
        async with both(authority) as (east, _):
            line = HttpLine(Operator("x", east.url, frozenset()), partial(authority.context, WEST, server=False))
            assert await line.post(form.EXT_KEYS, bytes(600 * 1024)) == 413
            await line.close()

    run(story())


def test_no_redirection_is_followed(authority: Authority) -> None:
    asked: list[str] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split()[1])
        writer.write(b"HTTP/1.1 307 No\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(redirect, "127.0.0.1", 0, ssl=authority.context(EAST, server=True))
        async with server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            line = HttpLine(Operator("x", url, frozenset()), partial(authority.context, WEST, server=False))
            assert await line.post("/ack", b"{}") == 307
            await line.close()
        assert asked == ["/ack"]

    run(story())


def test_what_http_itself_refuses_is_a_problem_document_too(authority: Authority) -> None:
    async def story() -> None:
        async with both(authority) as (east, _):
            connector = aiohttp.TCPConnector(ssl=authority.context(WEST, server=False))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get(f"{east.url}/kmapi/versions?any=1") as answer,
                session.get(f"{east.url}/nothing") as nothing,
            ):
                assert (answer.status, await answer.json()) == (
                    200,
                    {"versions": ["v1"], "capabilities": ["synchronous_mode"]},
                )
                problem = await nothing.json(content_type=None)
                assert (problem["status"], problem["type"]) == (404, f"{TYPES}no-such-resource")

    run(story())


def test_files_that_are_no_certificates_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        standard_context(tmp_path / "no.pem", tmp_path / "no.key", tmp_path / "ca.pem", server=True)
