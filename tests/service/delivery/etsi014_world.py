"""A key manager in memory, certificates of an ordinary CA, and the interface of ETSI GS QKD 014 on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import Refusal, WrongParty
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.delivery.etsi014 import listen
from qsotn.service.delivery.etsi014_counters import Observed
from qsotn.service.delivery.etsi014_identity import Identify, sae_of, standard_server_context
from qsotn.service.delivery.http_protocol import Limits
from qsotn.service.delivery.offered import Offer

MASTER, SLAVE, THIRD, FAR = "sae-1", "urn:sae:bank/2", "sae-3.example", "sae-far"
KM = PartyId("km/jinan")
STRANGER = "sae-stranger"
HOMES = {MASTER: KM, SLAVE: KM, THIRD: KM, FAR: PartyId("km/qingdao")}


@dataclass
class Waiting:
    """A key that is in the store, for whom, and from whom."""

    key: Secret
    master: str
    slaves: set[str]


@dataclass
class MemoryDelivery:
    """`KeyDelivery` with every SAE at one key manager, or pretending so; a delivered key is gone."""

    stored: int = 1_000_000
    key_size: int = 256
    most_additional: int = 4
    waiting: dict[str, Waiting] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    failure: Exception | None = None
    gate: asyncio.Event | None = None
    """If there is one, keys are given once it is set."""

    async def offer(self, master: str, slave: str) -> Offer:
        self.calls.append("offer")
        self._check_own(master)
        return Offer(KM, self._home(slave), self.key_size, self.stored, 10_000_000, 128, 4096, 64, self.most_additional)

    async def reserve(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        await self._asked("reserve")
        self._check_own(master)
        for slave in slaves:
            self._home(slave)
        if number > self.stored:
            raise Refusal("KEY_SHORTAGE", "too few keys are ready")
        self.stored -= number
        keys = [ReadyKey(KeyId(str(uuid4())), Secret(os.urandom(size // 8))) for _ in range(number)]
        for ready in keys:
            self.waiting[ready.key_id] = Waiting(ready.key, master, set(slaves))
        return keys

    async def collect(self, slave: str, master: str, key_ids: Sequence[KeyId]) -> Sequence[ReadyKey]:
        await self._asked("collect")
        self._home(master)
        found = [self.waiting.get(key_id) for key_id in key_ids]
        for one in found:
            if one is None or one.master != master:
                raise Refusal("KEYS_NOT_FOUND", "a key is not here")
            if slave not in one.slaves:
                raise Refusal("NOT_NAMED", f"{slave} was not named")
        return [self._given(key_id, slave) for key_id in key_ids]

    def _given(self, key_id: KeyId, slave: str) -> ReadyKey:
        one = self.waiting[key_id]
        one.slaves.remove(slave)
        if not one.slaves:
            del self.waiting[key_id]
        return ReadyKey(key_id, one.key)

    async def _asked(self, what: str) -> None:
        self.calls.append(what)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure

    def _check_own(self, sae: str) -> None:
        if HOMES.get(sae) != KM:
            raise WrongParty(f"{sae} is not attached here")

    def _home(self, sae: str) -> PartyId:
        if sae not in HOMES:
            raise Refusal("UNKNOWN_SAE", f"no SAE {sae[:40]} is known")
        return HOMES[sae]


# --- certificates -----------------------------------------------------------------------------------------------------


class OrdinaryAuthority:
    """A CA as an operator may have one for SAEs of others: ECDSA, X.509, PEM files in one folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        self.ca = folder / f"{name}.pem"
        basic = (x509.BasicConstraints(ca=True, path_length=0), True)
        self.ca.write_bytes(_pem(self._signed(self.name, self.key, [basic])))

    def pair(
        self, file: str, common_name: str, alternatives: Sequence[x509.GeneralName] = (), days: float = 30
    ) -> tuple[Path, Path]:
        """Certify somebody; returns the files of the certificate and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = []
        if alternatives:
            extensions.append((x509.SubjectAlternativeName(alternatives), False))
        certificate, private = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        certificate.write_bytes(_pem(self._signed(_name(common_name), key, extensions, days)))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        days: float = 30,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
        builder = builder.not_valid_after(now + dt.timedelta(days=days))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@dataclass
class Certificates:
    """The files of a key manager and of SAEs: known by a URI, by a DNS name, by the common name."""

    authority: OrdinaryAuthority
    server: tuple[Path, Path]
    saes: dict[str, tuple[Path, Path]]

    @property
    def server_context(self) -> ssl.SSLContext:
        return standard_server_context(*self.server, self.authority.ca)

    def client(self, sae: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        if sae is not None:
            context.load_cert_chain(*self.saes[sae])
        return context


def make_certificates(folder: Path) -> Certificates:
    authority = OrdinaryAuthority(folder)
    alternatives: dict[str, list[x509.GeneralName]] = {
        MASTER: [],
        SLAVE: [x509.UniformResourceIdentifier(SLAVE), x509.DNSName("host.example")],
        THIRD: [x509.DNSName(THIRD)],
        STRANGER: [],
    }
    saes = {sae: authority.pair(f"sae-{n}", sae, names) for n, (sae, names) in enumerate(alternatives.items())}
    address = [x509.DNSName("localhost")]
    return Certificates(authority, authority.pair("server", "km", address), saes)


# --- serving ----------------------------------------------------------------------------------------------------------


def known(certificate: x509.Certificate) -> str:
    return sae_of(certificate, HOMES)


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@contextlib.asynccontextmanager
async def served(
    delivery: MemoryDelivery,
    context: ssl.SSLContext,
    *,
    identify: Identify = known,
    observed: Observed | None = None,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[int]:
    """Serve until the end of the block; yields the port."""
    opened = listener()
    port = opened.getsockname()[1]
    async with listen(delivery, opened, context, identify, observed=observed, limits=limits, clock=clock):
        yield port


@contextlib.contextmanager
def served_aside(delivery: MemoryDelivery, context: ssl.SSLContext) -> Iterator[int]:
    """Serve from a thread, for clients that block."""
    ready: list[int] = []
    began, ending = threading.Event(), threading.Event()

    async def serve() -> None:
        async with served(delivery, context) as port:
            ready.append(port)
            began.set()
            while not ending.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert began.wait(5)
        yield ready[0]
    finally:
        ending.set()
        thread.join(10)


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A connection on which a test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, verb: str, target: str, body: bytes = b"", *fields: str) -> Reply:
        self.send(request(verb, target, body, *fields))
        return await self.reply(head_only=verb == "HEAD")

    async def reply(self, *, head_only: bool = False) -> Reply:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        length = 0 if head_only else int(headers.get("content-length", "0"))
        return Reply(int(head[0].split()[1]), headers, await self.reader.readexactly(length))

    async def ended(self) -> bool:
        """Wait for the end of the connection; whether nothing came before."""
        return await asyncio.wait_for(self.reader.read(1), 5) == b""


def request(verb: str, target: str, body: bytes = b"", *fields: str) -> bytes:
    lines = [f"{verb} {target} HTTP/1.1", "Host: localhost", *fields]
    if body:
        lines += ["Content-Type: application/json"] if not any("ontent-" in one for one in fields) else []
        lines += [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@contextlib.asynccontextmanager
async def wire(port: int, context: ssl.SSLContext) -> AsyncIterator[Wire]:
    """Open a connection until the end of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
