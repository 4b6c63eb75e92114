"""Processes with certificates in files, and the careless ends that they meet on real sockets."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL

from qsotn.adapters.tls import openssl
from qsotn.adapters.tls.context import EVERY_ROLE, PostQuantumContext, client_context, peer_of, server_context
from qsotn.adapters.tls.credentials import Credentials
from qsotn.adapters.tls.transport import TlsTransport
from qsotn.adapters.tls.trust import Trust, TrustFiles
from qsotn.crypto.certificates import Extension, spiffe_uri
from qsotn.crypto.identity import CertificateAuthority
from qsotn.crypto.revocation_lists import issue_revocation_list
from qsotn.crypto.suites import DEFAULT_SUITE, SigningKey
from qsotn.crypto.transport_certificates import issue_transport
from qsotn.domain import Entropy, PartyId, Role, role_of

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)

OURS: ContextVar[bool] = ContextVar("OURS", default=True)
"""Whether engines are carried by our own transport; else by asyncio's, as for servers and clients of others."""

QSSP, KM, POMP, CPE = PartyId("qssp/jinan"), PartyId("km/jinan"), PartyId("pomp/shandong"), PartyId("cpe/east")


def seeded(seed: str) -> Entropy:
    counter = 0

    def draw(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{seed}/{counter}".encode()).digest(size)

    return draw


@dataclass
class Clock:
    """The time of one process."""

    moment: dt.datetime = NOW

    def __call__(self) -> dt.datetime:
        return self.moment


@dataclass
class Process:
    """One process: its files, what it made of them, and what it wrote into its log."""

    folder: Path
    party: PartyId
    clock: Clock
    trust: Trust
    credentials: Credentials
    refusals: list[tuple[str, PartyId | None]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def refused(self, reason: str, claimed: PartyId | None) -> None:
        self.refusals.append((reason, claimed))

    def server(self, roles: frozenset[Role] = EVERY_ROLE) -> PostQuantumContext:
        return server_context(self.credentials, self.trust, self.refused, roles)

    def client(self, expected: PartyId) -> PostQuantumContext:
        return client_context(self.credentials, self.trust, self.refused, expected)


class Province:
    """Two roots, and a folder for each process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entropy = seeded("province")
        self.operator = CertificateAuthority.create("operator", self.entropy, NOW - 100 * DAY)
        self.manufacturer = CertificateAuthority.create("manufacturer", self.entropy, NOW - 100 * DAY)

    def authority(self, party: PartyId) -> CertificateAuthority:
        return self.manufacturer if role_of(party) is Role.CPE else self.operator

    def key(self) -> SigningKey:
        return DEFAULT_SUITE.generate_signing_key(self.entropy)

    def certificate(self, party: PartyId, key: SigningKey, begins: dt.datetime = NOW - DAY, days: float = 30) -> bytes:
        serial = "SN-1" if role_of(party) is Role.CPE else None
        public = key.public_key().public_bytes_raw()
        ends = begins + days * DAY
        return issue_transport(self.authority(party), party, public, begins, ends, ["localhost", "127.0.0.1"], serial)

    def process(self, party: PartyId, *, lists: bool = False, days: float = 30) -> Process:
        """Install a process: files, trust, credentials."""
        folder = self.folder / party.replace("/", "-")
        folder.mkdir()
        key = self.key()
        write_pair(folder, [self.certificate(party, key, days=days)], key)
        (folder / "operator.pem").write_bytes(pem(self.operator.certificate))
        (folder / "manufacturer.pem").write_bytes(pem(self.manufacturer.certificate))
        files = TrustFiles(folder / "operator.pem", folder / "manufacturer.pem")
        if lists:
            self.write_list(folder, {}, 1)
            files = TrustFiles(files.operator_root, files.manufacturer_root, folder / "operator.crl")
        clock, failures = Clock(), list[str]()
        trust = Trust(files, clock, failures.append)
        credentials = Credentials(party, folder / "chain.pem", folder / "key.pem", trust, failures.append)
        return Process(folder, party, clock, trust, credentials, failures=failures)

    def write_list(self, folder: Path, revoked: dict[int, dt.datetime], number: int, days: float = 7) -> None:
        data = issue_revocation_list(self.operator, revoked, number, NOW, NOW + days * DAY)
        (folder / "operator.crl").write_bytes(data)

    def renew(self, process: Process, begins: dt.datetime = NOW, days: float = 30) -> bytes:
        """Put a new pair into a process's files; returns the certificate."""
        key = self.key()
        certificate = self.certificate(process.party, key, begins, days)
        write_pair(process.folder, [certificate], key)
        return certificate

    def settings(self, chain: Sequence[bytes], key: SigningKey, *, server: bool = False) -> SSL.Context:
        """The library's settings with any certificate at all."""
        path = self.folder / f"key-{len(list(self.folder.iterdir()))}.pem"
        path.write_bytes(key_pem(key))
        return openssl.context([x509.load_der_x509_certificate(der) for der in chain], path, server=server)

    def wrongly(self, party: PartyId, key: SigningKey, alternatives: x509.SubjectAlternativeName) -> bytes:
        """A certificate that the operator's root really signed, for names of all sorts."""
        extensions: list[Extension] = [(alternatives, False)]
        return self.operator.certify(party, key.public_key(), (NOW - DAY, NOW + DAY), extensions, None)


def uris(*parties: PartyId) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(spiffe_uri(party, "qsotn.example")) for party in parties]
    )


def classical_groups(settings: SSL.Context) -> SSL.Context:
    assert SSL._lib.SSL_CTX_set1_curves_list(settings._context, b"X25519:P-384") == 1  # type: ignore[attr-defined]
    return settings


def number_of(certificate: bytes) -> int:
    return x509.load_der_x509_certificate(certificate).serial_number


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def key_pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def write_key(path: Path, key: Any) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(key_pem(key))


def write_pair(folder: Path, chain: Sequence[bytes], key: Any) -> None:
    (folder / "chain.pem").write_bytes(b"".join(map(pem, chain)))
    write_key(folder / "key.pem", key)


# --- ends -------------------------------------------------------------------------------------------------------------


@dataclass
class Served:
    """A server on loopback: what its application received, on how many connections, and from whom."""

    port: int = 0
    received: bytearray = field(default_factory=bytearray)
    peers: list[PartyId] = field(default_factory=list)


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()


class SeenReader(asyncio.StreamReader):
    """Notes every byte that TLS hands up."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self._served = served

    def feed_data(self, data: Any) -> None:
        self._served.received += data
        super().feed_data(data)


@asynccontextmanager
async def serving(context: ssl.SSLContext, talk: Talk = echo, timeout_s: float = 5) -> AsyncIterator[Served]:
    """Serve on a free port until the end of the block."""
    served = Served()

    async def talked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.peers.append(peer_of(writer.get_extra_info("ssl_object")).party)
        try:
            await talk(reader, writer)
        except OSError:
            pass  # told by whoever refused
        finally:
            writer.close()

    def protocol() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(SeenReader(served), talked)

    def ours() -> Any:
        assert isinstance(context, PostQuantumContext)
        transport = TlsTransport(context.engine(), protocol, timeout_s)
        transport.opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        return transport

    loop = asyncio.get_running_loop()
    if OURS.get():
        server = await loop.create_server(ours, "127.0.0.1", 0)
    else:
        server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=timeout_s)
    served.port = server.sockets[0].getsockname()[1]
    async with server:
        yield served


async def connected(context: PostQuantumContext, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a party on loopback."""
    if not OURS.get():
        return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport = TlsTransport(context.engine(), lambda: protocol, 5)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: transport, "127.0.0.1", port)
    await transport.opened
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def ask(context: PostQuantumContext, port: int, data: bytes = b"hello") -> bytes:
    """Connect, send, and return as many bytes as were sent (fewer if the other end closes)."""
    reader, writer = await connected(context, port)
    try:
        writer.write(data)
        return await reader.readexactly(len(data))
    except asyncio.IncompleteReadError as error:
        return error.partial
    finally:
        writer.transport.abort()


def careless_client(settings: SSL.Context, port: int) -> str:
    """Connect without verifying anybody, send at once; return what came of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        connection = SSL.Connection(settings, plain)
        connection.set_connect_state()
        plain.setblocking(True)
        try:
            connection.do_handshake()
            connection.send(b"hello")
            return f"received {connection.recv(100)!r}"
        except SSL.Error as error:
            return f"{type(error).__name__}"


class CarelessServer:
    """Accepts one connection without verifying anybody, and notes what its application would have received."""

    def __init__(self, settings: SSL.Context) -> None:
        self.received = b""
        self._settings = settings
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(5)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        plain, _ = self._listener.accept()
        plain.settimeout(None)
        connection = SSL.Connection(self._settings, plain)
        connection.set_accept_state()
        try:
            connection.do_handshake()
            self.received = connection.recv(100)
            connection.send(self.received)
        except SSL.Error:
            pass  # the client's side is what is looked at
        finally:
            plain.close()

    def close(self) -> None:
        """Wait for the connection to end."""
        self._thread.join(5)
        self._listener.close()


def standard_client(version: ssl.TLSVersion, port: int) -> str:
    """The standard library on the system's OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        try:
            with context.wrap_socket(plain) as connection:
                connection.sendall(b"hello")
                return f"received {connection.recv(100)!r}"
        except OSError as error:
            return type(error).__name__


def shout(data: bytes, port: int) -> str:
    """Send bytes that are no TLS, and return what came back."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        try:
            plain.sendall(data)
            return f"received {plain.recv(100)!r}"
        except OSError as error:
            return type(error).__name__
