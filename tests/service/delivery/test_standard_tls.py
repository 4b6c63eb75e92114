"""Ordinary TLS for SAEs of others: files that change while it is served, revoked certificates, open connections."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from structlog.testing import capture_logs
from tests.service.delivery.etsi014_world import MASTER, SLAVE, MemoryDelivery, OrdinaryAuthority, Wire, served, wire

from qsotn.adapters.keysource.etsi014_format import path
from qsotn.adapters.tls.ordinary import OrdinaryFiles, OrdinaryTls
from qsotn.errors import UsageError
from qsotn.service.delivery.etsi014_identity import standard_server_context, standard_tls

STATUS = path(SLAVE, "status")


def serial_number(certificate: Path) -> int:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number


def revocation_list(
    authority: OrdinaryAuthority, number: int, *revoked: Path, days: float = 1, partial: bool = False
) -> bytes:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.name)
    builder = builder.last_update(now - dt.timedelta(days=30)).next_update(now + dt.timedelta(days=days))
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    if partial:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial_number(one)).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass
class House:
    """A CA, a key manager's files and two SAEs'; what was refused and what was not taken over."""

    folder: Path
    authority: OrdinaryAuthority
    server: tuple[Path, Path]
    master: tuple[Path, Path]
    refused: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    ahead_s: float = 0.0

    @property
    def revoked(self) -> Path:
        return self.folder / "clients.crl"

    @property
    def files(self) -> OrdinaryFiles:
        return OrdinaryFiles(*self.server, self.authority.ca, self.revoked)

    def tls(self, files: OrdinaryFiles | None = None) -> OrdinaryTls:
        return OrdinaryTls(
            files or self.files,
            lambda now: standard_server_context(now.certificate, now.key, now.authority),
            self.refused.append,
            self.failed.append,
            lambda: time.time() + self.ahead_s,
        )

    def client(self, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        context.load_cert_chain(*(pair or self.master))
        return context


@pytest.fixture
def house(tmp_path: Path) -> House:
    authority = OrdinaryAuthority(tmp_path)
    server = authority.pair("server", "km", [x509.DNSName("localhost")])
    made = House(tmp_path, authority, server, authority.pair("master", MASTER))
    made.revoked.write_bytes(revocation_list(authority, 1))
    return made


@contextlib.asynccontextmanager
async def serving(tls: OrdinaryTls) -> AsyncIterator[int]:
    async with served(MemoryDelivery(), tls.context) as port:
        yield port


async def asked(client: Wire) -> int:
    return (await client.ask("GET", STATUS)).status


async def ended(port: int, context: ssl.SSLContext) -> bool:
    """Whether a new connection is refused before it is answered anything."""
    try:
        async with wire(port, context) as client:
            await asked(client)
    except (OSError, asyncio.IncompleteReadError):
        return True
    return False


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(story(), 20)

    asyncio.run(bounded())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_revoked_client_is_refused_on_its_open_connection_and_on_a_new_one(
    house: House, version: ssl.TLSVersion
) -> None:
    async def story() -> None:
        tls = house.tls()
        context = house.client()
        context.minimum_version = context.maximum_version = version
        other = house.authority.pair("other", MASTER)
        async with serving(tls) as port, wire(port, context) as client, wire(port, house.client(other)) as unharmed:
            assert (await asked(client), await asked(unharmed)) == (200, 200)
            house.revoked.write_bytes(revocation_list(house.authority, 2, house.master[0]))
            assert tls.reload_if_changed()
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await asked(client)
            assert await ended(port, context)
            assert await asked(unharmed) == 200

    with capture_logs() as lines:
        run(story)
    number = serial_number(house.master[0])
    assert house.refused == [f"the certificate {number:x} of CN={MASTER} is revoked"]
    assert any("certificate revoked" in str(line.get("reason")) for line in lines), "the handshake's reason is logged"


def test_the_process_logs_who_was_refused_and_what_is_not_taken_over(house: House) -> None:
    async def story() -> None:
        tls = standard_tls(house.files)
        async with serving(tls) as port, wire(port, house.client()) as client:
            assert await asked(client) == 200
            house.server[1].write_bytes(house.master[1].read_bytes())
            house.revoked.write_bytes(revocation_list(house.authority, 2, house.master[0]))
            assert tls.reload_if_changed(), "whom to believe counts, while certificate and key do not go together"
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await asked(client)

    with capture_logs() as lines:
        run(story)
    told = {line["event"]: line for line in lines}
    assert "is revoked" in told["a client is refused"]["reason"]
    assert "cannot be used" in told["standard TLS goes on with what it had"]["reason"]


def test_a_list_that_has_ended_lets_nobody_go_on_until_a_newer_one_is_there(house: House) -> None:
    async def story() -> None:
        tls = house.tls()
        async with serving(tls) as port:
            async with wire(port, house.client()) as client:
                assert await asked(client) == 200
                house.ahead_s = 2 * 86_400
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    await asked(client)
            house.revoked.write_bytes(revocation_list(house.authority, 2, days=3))
            assert tls.reload_if_changed()
            async with wire(port, house.client()) as client:
                assert await asked(client) == 200

    run(story)
    assert house.refused == ["the revocation list of CN=ca has ended"]


def test_a_renewed_certificate_is_shown_to_new_connections_without_a_restart(house: House) -> None:
    async def story() -> None:
        tls = house.tls()
        async with serving(tls) as port, wire(port, house.client()) as before:
            house.authority.pair("server", "km", [x509.DNSName("localhost")])
            assert tls.reload_if_changed()
            assert not tls.reload_if_changed()
            async with wire(port, house.client()) as after:
                assert (await asked(before), await asked(after)) == (200, 200)
                shown = [one.writer.get_extra_info("ssl_object").getpeercert(True) for one in (before, after)]
        assert shown[0] != shown[1]
        assert x509.load_der_x509_certificate(shown[1]).serial_number == serial_number(house.server[0])

    run(story)


def test_a_certificate_waits_for_its_key(house: House) -> None:
    tls = house.tls()
    before, old_key = tls.inner, house.server[1].read_bytes()
    house.authority.pair("server", "km", [x509.DNSName("localhost")])
    new_key = house.server[1].read_bytes()
    house.server[1].write_bytes(old_key)
    assert not tls.reload_if_changed()
    assert tls.inner is before
    assert "cannot be used" in house.failed[0]
    house.server[1].write_bytes(new_key)
    assert tls.reload_if_changed()
    assert tls.inner is not before


def test_another_ca_takes_the_place_of_the_old_one(house: House, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    newer = OrdinaryAuthority(tmp_path / "new", "newer")
    pair = newer.pair("master", MASTER)

    async def story() -> None:
        files = OrdinaryFiles(*house.server, house.folder / "clients.pem")
        files.authority.write_bytes(house.authority.ca.read_bytes())
        tls = house.tls(files)
        async with serving(tls) as port, wire(port, house.client()) as client:
            assert await asked(client) == 200
            assert await ended(port, house.client(pair))
            files.authority.write_bytes(newer.ca.read_bytes())
            assert tls.reload_if_changed()
            async with wire(port, house.client(pair)) as admitted:
                assert await asked(admitted) == 200
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await asked(client)

    run(story)
    assert house.refused == [f"the CA of CN={MASTER} is not named any more; it may connect again"]


def test_a_ca_that_is_added_ends_no_connection(house: House, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    further = OrdinaryAuthority(tmp_path / "new", "further")

    async def story() -> None:
        files = OrdinaryFiles(*house.server, house.folder / "clients.pem")
        files.authority.write_bytes(house.authority.ca.read_bytes())
        tls = house.tls(files)
        async with serving(tls) as port, wire(port, house.client()) as client:
            assert await asked(client) == 200
            files.authority.write_bytes(house.authority.ca.read_bytes() + further.ca.read_bytes())
            assert tls.reload_if_changed()
            assert await asked(client) == 200

    run(story)
    assert house.refused == []


def bad_lists(house: House) -> Iterator[tuple[bytes, str]]:
    (house.folder / "other").mkdir()
    stranger = OrdinaryAuthority(house.folder / "other", "ca")
    yield b"nothing", "has no revocation list of CN=ca"
    yield b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "holds no revocation lists in PEM"
    yield revocation_list(stranger, 7), "is not signed by a CA that is named"
    yield revocation_list(house.authority, 7, partial=True), "is partial or never ends"
    yield revocation_list(house.authority, 4), "older than number 5 in force"


@pytest.mark.parametrize("which", range(5))
def test_a_list_that_is_none_is_not_taken_over_and_the_one_before_stays_in_force(house: House, which: int) -> None:
    house.revoked.write_bytes(revocation_list(house.authority, 5, house.master[0]))
    tls = house.tls()
    before = tls.believed
    content, reason = list(bad_lists(house))[which]
    house.revoked.write_bytes(content)
    tls.reload_if_changed()
    assert tls.believed is before
    assert reason in house.failed[0]


@pytest.mark.parametrize("which", range(4))
def test_a_process_does_not_begin_with_a_list_that_is_none(house: House, which: int) -> None:
    content, reason = list(bad_lists(house))[which]
    house.revoked.write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        house.tls()


def test_a_list_of_lists_covers_every_ca_that_is_named(house: House, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    further = OrdinaryAuthority(tmp_path / "new", "further")
    pair = further.pair("master", MASTER)
    both = OrdinaryFiles(*house.server, tmp_path / "clients.pem", house.revoked)
    both.authority.write_bytes(house.authority.ca.read_bytes() + further.ca.read_bytes())
    with pytest.raises(UsageError, match="has no revocation list of CN=further"):
        house.tls(both)
    house.revoked.write_bytes(revocation_list(house.authority, 1) + revocation_list(further, 1))

    async def story() -> None:
        async with serving(house.tls(both)) as port:
            for shown in (house.master, pair):
                async with wire(port, house.client(shown)) as client:
                    assert await asked(client) == 200

    run(story)
