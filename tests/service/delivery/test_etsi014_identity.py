"""Which SAE a certificate is, and which TLS its owner may speak."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from structlog.testing import capture_logs
from tests.adapters.tls.parties import NOW, Province
from tests.service.delivery.etsi014_world import (
    MASTER,
    SLAVE,
    THIRD,
    Certificates,
    MemoryDelivery,
    OrdinaryAuthority,
    make_certificates,
    served,
    wire,
)

from qsotn.adapters.keysource.etsi014_format import path
from qsotn.domain import PartyId
from qsotn.errors import UsageError, WrongParty
from qsotn.service.delivery.etsi014_identity import sae_of, standard_server_context

KNOWN = {"sae-a", "sae-b", "urn:sae:a", "urn:sae:b", "a.example", "b.example"}
URI, DNS = x509.UniformResourceIdentifier, x509.DNSName


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


NAMES: list[tuple[str, list[x509.GeneralName], str | None]] = [
    ("sae-a", [], "sae-a"),
    ("sae-a", [URI("urn:sae:a")], "urn:sae:a"),
    ("sae-a", [DNS("a.example")], "a.example"),
    ("sae-a", [URI("urn:sae:a"), DNS("b.example")], "urn:sae:a"),
    ("sae-a", [URI("urn:other"), URI("urn:sae:b")], "urn:sae:b"),
    ("sae-a", [URI("urn:sae:b"), URI("urn:sae:b")], "urn:sae:b"),
    ("sae-a", [x509.RFC822Name("a@example.org")], "sae-a"),
    ("sae-c", [], None),
    ("SAE-A", [], None),
    ("sae-a", [URI("urn:unknown")], None),
    ("sae-a", [DNS("unknown.example")], None),
    ("sae-a", [URI("urn:unknown"), DNS("a.example")], None),
    ("sae-a", [URI("urn:sae:a"), URI("urn:sae:b")], None),
]


@pytest.mark.parametrize(("common_name", "alternatives", "sae"), NAMES)
def test_the_first_kind_of_name_that_is_there_says_who_it_is(
    tmp_path: Path, common_name: str, alternatives: Sequence[x509.GeneralName], sae: str | None
) -> None:
    file, _ = OrdinaryAuthority(tmp_path).pair("one", common_name, alternatives)
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    if sae is not None:
        assert sae_of(certificate, KNOWN) == sae
    else:
        with pytest.raises(WrongParty, match="the certificate names"):
            sae_of(certificate, KNOWN)


@pytest.mark.parametrize("sae", [MASTER, SLAVE, THIRD])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_sae_is_known_over_either_version_of_tls(
    certificates: Certificates, sae: str, version: ssl.TLSVersion
) -> None:
    async def story() -> None:
        context = certificates.client(sae)
        context.minimum_version = context.maximum_version = version
        async with served(MemoryDelivery(), certificates.server_context) as port, wire(port, context) as client:
            other = THIRD if sae != THIRD else MASTER
            status = json.loads((await client.ask("GET", path(other, "status"))).body)
            assert (status["master_SAE_ID"], status["slave_SAE_ID"]) == (sae, other)

    asyncio.run(story())


def test_a_certificate_of_another_ca_gets_no_connection(certificates: Certificates, tmp_path: Path) -> None:
    pair = OrdinaryAuthority(tmp_path, "another").pair("false", MASTER)

    async def story() -> None:
        context = certificates.client(None)
        context.load_cert_chain(*pair)
        async with served(MemoryDelivery(), certificates.server_context) as port:
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                async with wire(port, context) as client:
                    await client.ask("GET", path(SLAVE, "status"))

    with capture_logs() as lines:
        asyncio.run(story())
    assert "certificate verify failed" in lines[0]["reason"]


def test_a_context_needs_files_that_hold_what_they_should(certificates: Certificates, tmp_path: Path) -> None:
    certificate, key = certificates.server
    ca, nothing = certificates.authority.ca, tmp_path / "nothing.pem"
    for files in ((certificate, ca, ca), (nothing, key, ca), (certificate, certificates.saes[SLAVE][1], ca)):
        with pytest.raises(UsageError, match="cannot be used"):
            standard_server_context(*files)
    with pytest.raises(UsageError, match="no certificate of a CA"):
        standard_server_context(certificate, key, nothing)


def test_over_post_quantum_tls_the_same_interface_is_spoken(tmp_path: Path) -> None:
    province = Province(tmp_path)
    manager = province.process(PartyId("km/jinan"))
    clients = {MASTER: province.process(PartyId("qssp/jinan")), SLAVE: province.process(PartyId("qssp/qingdao"))}
    uris = {f"spiffe://qsotn.example/{client.party}": sae for sae, client in clients.items()}

    async def story() -> None:
        delivery = MemoryDelivery()
        options = {"identify": lambda certificate: uris[sae_of(certificate, uris)], "clock": NOW.timestamp}
        async with (
            served(delivery, manager.server(), **options) as port,  # type: ignore[arg-type]  # two kinds of value
            wire(port, clients[MASTER].client(manager.party)) as master,
            wire(port, clients[SLAVE].client(manager.party)) as slave,
        ):
            given = json.loads((await master.ask("POST", path(SLAVE, "enc_keys"), b"{}")).body)["keys"]
            body = json.dumps({"key_IDs": [{"key_ID": given[0]["key_ID"]}]}).encode()
            assert json.loads((await slave.ask("POST", path(MASTER, "dec_keys"), body)).body)["keys"] == given

    asyncio.run(story())
    assert manager.refusals == []
