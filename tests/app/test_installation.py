"""A province as files: what `qsotn init` makes, what a party's store takes in, and certificates over time."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.adapters.tls.credentials import Credentials
from qsotn.adapters.tls.trust import Trust, TrustFiles
from qsotn.app import authority as authority_module
from qsotn.app.authority import Authority, read_pem_certificate
from qsotn.app.installation import create_installation, ensure_installation
from qsotn.app.plan import sample_file
from qsotn.app.record import (
    ADMIN,
    PKI,
    RECORD,
    ProvinceRecord,
    load_plan,
    load_record,
    operator_tls,
    party_place,
    transport_folders,
)
from qsotn.app.renewal import issued_certificates, renew, revoke_certificate
from qsotn.app.service_files import tls_section
from qsotn.console.init import run_init
from qsotn.console.pki import renew_certificates, show_certificates
from qsotn.crypto.identity import verify_certificate
from qsotn.domain import PartyId, Role, role_of
from qsotn.errors import BadProof, StoreError, UsageError
from qsotn.parties.desk import Certificates
from qsotn.parties.km import KmConfiguration
from qsotn.service.config import TlsSection, load_configuration, load_twin
from qsotn.service.installation import Installation, install, load_installation, open_installed, open_vault

NOW = dt.datetime(2026, 6, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SAMPLE = sample_file().read_text()
ANYWHERE = SAMPLE.replace("first_port = 7400", "first_port = 0")
QSSP, KM, CPE, POMP = PartyId("qssp/jinan"), PartyId("km/jinan"), PartyId("cpe/jinan-1"), PartyId("pomp/shandong")


def made(folder: Path, text: str = ANYWHERE) -> tuple[Path, ProvinceRecord]:
    file = folder / "file.toml"
    file.write_text(text)
    state = folder / "state"
    return state, create_installation(file, state, os.urandom, NOW)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample province on free ports. Tests that change it take `state`."""
    return made(tmp_path_factory.mktemp("province"))[0]


@pytest.fixture
def state(shared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shared, tmp_path / "copy")


def trust_of(tls: TlsSection, now: dt.datetime) -> Trust:
    files = TrustFiles(tls.operator_root, tls.manufacturer_root, tls.operator_list, tls.manufacturer_list)
    return Trust(files, lambda: now, pytest.fail)


def shown_by(folder: Path) -> tuple[bytes, ...]:
    return (read_pem_certificate(folder / "transport.pem").public_bytes(Encoding.DER),)


# --- what is made ---------------------------------------------------------------------------------------------------


def test_every_party_has_a_folder_with_its_configuration(shared: Path) -> None:
    record, plan = load_record(shared), load_plan(shared)
    assert tuple(one.party for one in record.services) == plan.parties
    for one in record.services:
        configuration = load_configuration(shared / one.configuration)
        assert configuration.party == one.party
        assert configuration.state == shared / one.folder
        assert one.url == f"https://{configuration.listen.address}"
        assert one.monitoring == configuration.listen.monitoring
        assert configuration.peers == {other: record.urls(other) for other in plan.correspondents(one.party)}
        assert (configuration.courier == plan.pmp) is (role_of(one.party) in (Role.CPE, Role.QSSP))


def test_the_two_ends_of_a_fibre_name_each_other(shared: Path) -> None:
    record = load_record(shared)
    (fibre,) = record.fibres
    near, far = (load_configuration(shared / party_place(cpe) / "service.toml").line for cpe in fibre.ends)
    assert near is not None
    assert far is not None
    assert (near.local, near.remote) == (far.remote, far.local) == fibre.addresses
    assert record.client_ports == {fibre.ends[0]: near.client_port, fibre.ends[1]: far.client_port}


def test_a_key_manager_knows_the_far_end_of_its_links_and_the_twin_both(shared: Path) -> None:
    relay = load_configuration(shared / party_place(PartyId("km/weifang")) / "service.toml")
    assert relay.links == {"jinan-weifang": "km/jinan", "weifang-qingdao": "km/qingdao"}
    twin = load_twin(shared / load_record(shared).twin.configuration)
    assert {link.name: link.ends for link in twin.links} == load_plan(shared).links
    assert twin.keys.fill_bits == load_plan(shared).keys.fill_bits
    assert twin.peers == {km: load_record(shared).urls(km) for km in load_plan(shared).kms}


def test_all_ports_are_different_and_written_down(shared: Path) -> None:
    record = load_record(shared)
    streams = [address for one in record.services for address in (one.url.removeprefix("https://"), one.monitoring)]
    datagrams = [*record.client_ports.values(), *record.fibres[0].addresses]
    for addresses in ([*streams, record.twin.monitoring], datagrams):
        assert len(set(addresses)) == len(addresses)
        assert all(address.startswith("127.0.0.1:") and not address.endswith(":0") for address in addresses)


SAES = """
[[sae]]
name = "bank"
city = "jinan"
[[sae]]
name = "branch"
city = "qingdao"
"""


def test_key_managers_with_saes_serve_them_and_each_sae_has_a_certificate(tmp_path: Path) -> None:
    state, record = made(tmp_path, ANYWHERE + SAES)
    serving = {one.party: one.delivery for one in record.services if one.delivery}
    assert serving.keys() == {"km/jinan", "km/qingdao"}
    for km, url in serving.items():
        configuration = load_configuration(state / party_place(km) / "service.toml")
        assert configuration.delivery is not None
        assert f"https://{configuration.delivery.address}" == url
        assert [(sae.id, sae.km) for sae in configuration.saes] == [("bank", "km/jinan"), ("branch", "km/qingdao")]
    folders = transport_folders(state, record)
    judge = trust_of(operator_tls(state), NOW + DAY)
    for sae in (PartyId("sae/bank"), PartyId("sae/branch")):
        assert judge.verify(shown_by(folders[sae])).party == sae
    renewed = renew(state, os.urandom, NOW + 80 * DAY)
    assert PartyId("sae/bank") in renewed.transport


CLASSES = """
[[sae]]
name = "bank"
city = "jinan"
class = "gold"
[[sae]]
name = "branch"
city = "qingdao"
[[delivery.class]]
name = "gold"
guaranteed_percent = 50
[[delivery.class]]
name = "others"
guaranteed_percent = 20
"""


def test_every_key_manager_knows_the_classes_and_of_which_each_sae_is(tmp_path: Path) -> None:
    state, record = made(tmp_path, ANYWHERE + CLASSES)
    for one in (one for one in record.services if one.delivery):
        configuration = load_configuration(state / one.configuration)
        assert configuration.delivery is not None
        classes = [(known.name, known.guaranteed_percent) for known in configuration.delivery.classes]
        assert classes == [("gold", 50), ("others", 20)]
        assert [(sae.id, sae.service_class) for sae in configuration.saes] == [("bank", "gold"), ("branch", "")]


BORDER = """
[streams]
[border]
city = "jinan"
own_url = "https://border.east.example:7700"
certificate = "/etc/qsotn/border.pem"
key = "/etc/qsotn/border.key"
authority = "/etc/qsotn/operators.pem"
authority_list = "/etc/qsotn/operators.crl"
[[border.operator]]
name = "border.west.example"
url = "https://border.west.example:7700"
saes = ["bank-west", "wanda"]
"""


def test_a_border_and_streams_stand_where_the_province_says(tmp_path: Path) -> None:
    state, record = made(tmp_path, ANYWHERE + SAES + BORDER)
    found = {
        one.party: (one, load_configuration(state / one.configuration))
        for one in record.services
        if role_of(one.party) is Role.KM
    }
    jinan, qingdao, weifang = (found[PartyId(f"km/{place}")][1] for place in ("jinan", "qingdao", "weifang"))
    assert jinan.border is not None
    assert [(one.name, one.url) for one in jinan.border.operators] == [
        ("border.west.example", "https://border.west.example:7700")
    ]
    assert jinan.border.saes == ("bank-west", "wanda")
    assert jinan.border.authority_list == Path("/etc/qsotn/operators.crl")
    own = [("bank", "km/jinan"), ("branch", "km/qingdao")]
    foreign = [("bank-west", "km/jinan"), ("wanda", "km/jinan")]
    assert [(sae.id, sae.km) for sae in jinan.saes] == own
    assert [(sae.id, sae.km) for sae in qingdao.saes] == own + foreign
    assert (qingdao.border, weifang.border, weifang.streams, weifang.delivery) == (None,) * 4
    for km in ("km/jinan", "km/qingdao"):
        service, configuration = found[PartyId(km)]
        assert configuration.streams is not None
        assert service.streams == f"https://{configuration.streams.address}"
    assert found[PartyId("km/jinan")][0].border == f"https://{jinan.border.address}"


def test_everybodys_certificate_of_tls_is_taken_by_everybody_else(shared: Path) -> None:
    folders = transport_folders(shared, load_record(shared))
    assert {ADMIN, PartyId("qkd/jinan-weifang"), CPE, POMP} < folders.keys()
    judge = trust_of(operator_tls(shared), NOW + DAY)
    for party, folder in folders.items():
        peer = judge.verify(shown_by(folder))
        assert (peer.party, peer.role) == (party, role_of(party))
        assert peer.not_after == NOW + 90 * DAY


def test_the_files_of_every_service_serve_for_tls(shared: Path) -> None:
    for one in load_record(shared).services:
        tls = load_configuration(shared / one.configuration).tls
        assert tls == tls_section(shared / one.folder)
        credentials = Credentials(one.party, tls.certificate, tls.key, trust_of(tls, NOW), pytest.fail)
        assert credentials.pair.itself.party == one.party


def test_a_device_is_certified_by_its_manufacturer_for_as_long_as_that_is_there(shared: Path) -> None:
    installation = load_installation(shared / party_place(CPE))
    root = x509.load_der_x509_certificate(installation.trust.manufacturer)
    leaf = x509.load_der_x509_certificate(installation.chain[0])
    assert leaf.issuer == root.subject
    assert leaf.not_valid_after_utc == root.not_valid_after_utc
    assert installation.known == {}


def test_secrets_are_for_their_owner_alone_and_the_roots_keys_in_one_place(shared: Path) -> None:
    private = {"module.key", "transport.key", "identity.sealed", "service.toml", "operator.key", "manufacturer.key"}
    roots = {(shared / PKI / name).read_bytes() for name in ("operator.key", "manufacturer.key")}
    found = set()
    for path in shared.rglob("*"):
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
        elif path.name in private:
            found.add(path.name)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            assert path.parent.name == PKI or path.read_bytes() not in roots
    assert found == private


def test_replicas_differ_in_their_addresses_alone(tmp_path: Path) -> None:
    text = ANYWHERE.replace('url = "sqlite"', 'url = "postgresql://q:w@host/q_{party}"').replace("qssp = 1", "qssp = 2")
    state, record = made(tmp_path, text)
    first, second = (load_configuration(state / one.configuration) for one in record.services if one.party == QSSP)
    assert first.listen.address != second.listen.address
    assert msgspec.structs.replace(second, listen=first.listen) == first
    assert first.store.url == "postgresql://q:w@host/q_qssp_jinan"
    urls = (f"https://{first.listen.address}", f"https://{second.listen.address}")
    assert load_configuration(state / party_place(POMP) / "service.toml").peers[QSSP] == urls
    assert load_configuration(state / party_place(CPE) / "service.toml").store.url == "sqlite"
    assert "w@host" not in (state / RECORD).read_text()


def test_one_database_serves_all_platform_parties_and_no_device(tmp_path: Path) -> None:
    state, record = made(tmp_path, ANYWHERE.replace('url = "sqlite"', 'url = "postgresql://host/qsotn"'))
    stores = {one.party: load_configuration(state / one.configuration).store.url for one in record.services}
    platform = {party for party in stores if role_of(party) is not Role.CPE}
    assert {stores[party] for party in platform} == {"postgresql://host/qsotn"}
    assert {url for party, url in stores.items() if party not in platform} == {"sqlite"}


def test_no_port_is_given_twice_though_chance_would_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = (number // 3 for number in range(10_000))
    monkeypatch.setattr(secrets, "randbelow", lambda _: next(drawn))
    _, record = made(tmp_path)
    services = [address for one in record.services for address in (one.url.removeprefix("https://"), one.monitoring)]
    assert len({*services, record.twin.monitoring}) == 2 * 10 + 1
    assert len({*record.client_ports.values(), *record.fibres[0].addresses}) == 4


def test_ports_are_counted_up_from_the_first(tmp_path: Path) -> None:
    for first in range(20_000, 30_000, 100):
        with contextlib.suppress(UsageError):  # somebody uses one of them
            _, record = made(tmp_path, SAMPLE.replace("first_port = 7400", f"first_port = {first}"))
            break
    assert [one.url for one in record.services] == [f"https://127.0.0.1:{first + n}" for n in range(10)]
    assert [one.monitoring for one in record.services] == [f"127.0.0.1:{first + n}" for n in range(10, 20)]
    assert record.twin.monitoring == f"127.0.0.1:{first + 20}"
    assert record.fibres[0].addresses == (f"127.0.0.1:{first + 21}", f"127.0.0.1:{first + 23}")


def test_a_port_in_use_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = SAMPLE.replace("first_port = 7400", f"first_port = {port}")
        with pytest.raises(UsageError, match=rf"port {port} of 127.0.0.1 cannot be used: Address already in use; stop"):
            made(tmp_path, text)
    assert [path.name for path in tmp_path.iterdir()] == ["file.toml"]


def test_a_host_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"of 192\.0\.2\.1 cannot be used: .*; stop who uses it, or choose another"):
        made(tmp_path, SAMPLE.replace("127.0.0.1", "192.0.2.1"))


# --- never over something, never in part ----------------------------------------------------------------------------


def test_nothing_is_made_over_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "mine").write_text("precious")
    with pytest.raises(UsageError, match="is there already and not empty; nothing in it was touched"):
        made(tmp_path)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["mine"]


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    assert load_record(made(tmp_path)[0]).name == "shandong"
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is there already"):
        create_installation(None, tmp_path / "file", os.urandom, NOW)


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    drawn = 0

    def exhausted(count: int) -> bytes:
        nonlocal drawn
        drawn += 1
        if drawn > 40:
            raise OSError("no entropy")
        return os.urandom(count)

    file = tmp_path / "file.toml"
    file.write_text(ANYWHERE)
    with pytest.raises(UsageError, match="state cannot be made: no entropy"):
        create_installation(file, tmp_path / "state", exhausted, NOW)
    assert drawn > 40
    assert [path.name for path in tmp_path.iterdir()] == ["file.toml"]


def test_of_two_at_once_one_wins_and_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `init` ends between this one's first look and its last step."""
    create = Authority.create

    def overtaken(*arguments: object) -> Authority:
        monkeypatch.undo()
        monkeypatch.setattr(os, "getpid", lambda: 1)
        made(tmp_path)
        monkeypatch.undo()
        return create(*arguments)  # type: ignore[arg-type]  # what it was called with

    monkeypatch.setattr(Authority, "create", overtaken)
    with pytest.raises(UsageError, match="state cannot be made: Directory not empty"):
        made(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.toml", "state"]
    assert renew(tmp_path / "state", os.urandom, NOW).transport == ()


def test_a_folder_is_run_again_only_with_the_file_it_was_made_from(state: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(ANYWHERE + "\n# a comment is no difference\n")
    assert ensure_installation(other, state, os.urandom, NOW) == (load_record(state), False)
    assert ensure_installation(None, state, os.urandom, NOW) == (load_record(state), False)
    other.write_text(ANYWHERE.replace("fill_bits = 24576", "fill_bits = 1"))
    with pytest.raises(UsageError, match=r"was made from another province file than .*other\.toml; leave --province"):
        ensure_installation(other, state, os.urandom, NOW)


def test_a_folder_without_a_province_is_made_when_empty_and_refused_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    file.write_text(ANYWHERE)
    record, was_made = ensure_installation(file, tmp_path / "new", os.urandom, NOW)
    assert was_made
    assert record == load_record(tmp_path / "new")
    with pytest.raises(UsageError, match="holds no province; make one with: qsotn init --state"):
        ensure_installation(file, tmp_path, os.urandom, NOW)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "province.json cannot be used"),
        (b'{"version": 1}', "province.json cannot be used"),
        (None, "is a province of version 2; this release runs version 1"),
    ],
)
def test_a_damaged_record_is_told(state: Path, content: bytes | None, told: str) -> None:
    path = state / RECORD
    path.write_bytes(content or msgspec.json.encode(msgspec.structs.replace(load_record(state), version=2)))
    with pytest.raises((UsageError, StoreError), match=told):
        load_record(state)


def test_a_party_that_is_not_here_is_told_who_is(shared: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no qssp/yantai in shandong; there are pomp/shandong, qkmp"):
        load_record(shared).urls(PartyId("qssp/yantai"))


# --- a party's store ------------------------------------------------------------------------------------------------


@pytest.fixture
def km(state: Path) -> Path:
    return state / party_place(KM)


@pytest.fixture
def store(km: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(km / "store.db")
    yield opened
    opened.close()


def records(store: SqliteStore) -> dict[tuple[str, str], bytes]:
    with store.transaction() as transaction:
        return {
            (collection, key): value
            for collection in ("installation", "certificates", "configuration")
            for key, value in transaction.scan(collection)
        }


def rewrite(folder: Path, **changes: object) -> None:
    changed = msgspec.structs.replace(load_installation(folder), **changes)
    (folder / "installation.json").write_bytes(msgspec.json.encode(changed))


def test_a_first_start_provisions_the_store_and_a_second_changes_nothing(km: Path, store: SqliteStore) -> None:
    install(km, store, os.urandom)
    first = records(store)
    install(km, store, os.urandom)
    assert records(store) == first
    identity, anchors = open_installed(store, open_vault(km, KM, os.urandom), KM)
    assert verify_certificate(identity.chain, anchors, NOW).party == KM
    known = {key for collection, key in first if collection == "certificates"}
    assert known == {*load_plan(km.parent.parent).platform}
    held = msgspec.json.decode(first["configuration", "km"], type=KmConfiguration)
    assert held == load_plan(km.parent.parent).configuration(KM)


def test_every_party_can_be_installed(state: Path) -> None:
    for one in load_record(state).services:
        folder = state / one.folder
        opened = SqliteStore(folder / "store.db")
        install(folder, opened, os.urandom)
        identity, _ = open_installed(opened, open_vault(folder, one.party, os.urandom), one.party)
        assert identity.party == one.party
        opened.close()


def test_a_store_that_was_never_provisioned_opens_for_nobody(km: Path, store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="the store of km/jinan was never provisioned"):
        open_installed(store, open_vault(km, KM, os.urandom), KM)


def test_a_later_start_takes_up_renewed_certificates_and_configuration(km: Path, store: SqliteStore) -> None:
    state = km.parent.parent
    install(km, store, os.urandom)
    before, _ = open_installed(store, open_vault(km, KM, os.urandom), KM)
    renewed = renew(state, os.urandom, NOW + 731 * DAY)
    assert set(renewed.identities) == set(load_plan(state).platform)
    rewrite(km, configuration={"links": {}, "routes": {}, "attachments": {}})
    install(km, store, os.urandom)
    after, anchors = open_installed(store, open_vault(km, KM, os.urandom), KM)
    assert after.chain != before.chain
    assert after.to_secret() != before.to_secret()
    assert after.signing_key.private_bytes_raw() == before.signing_key.private_bytes_raw()
    assert verify_certificate(after.chain, anchors, NOW + 1500 * DAY).party == KM
    held = records(store)
    theirs = load_installation(state / party_place(QSSP)).chain
    assert msgspec.json.decode(held["certificates", QSSP], type=Certificates).chain == theirs
    assert msgspec.json.decode(held["configuration", "km"], type=KmConfiguration) == KmConfiguration({}, {}, {})


def swap_identity(km: Path) -> None:
    for name in ("identity.sealed", "module.key"):
        shutil.copy(km.parent / "km-qingdao" / name, km / name)


def swap_chain(km: Path) -> None:
    rewrite(km, chain=load_installation(km.parent / "km-qingdao").chain)


def forge_chain(km: Path) -> None:
    """A certificate of the right name, for keys that somebody else holds."""
    plan = load_plan(km.parent.parent)
    with Authority.opened(km.parent.parent / PKI, plan.lifetime, os.urandom) as authority:
        rewrite(km, chain=authority.identity(KM, None, 1, os.urandom, NOW).chain)


def misname_peer(km: Path) -> None:
    own = load_installation(km)
    rewrite(km, known={**own.known, QSSP: own.known[POMP]})


def transport_for_identity(km: Path) -> None:
    rewrite(km, chain=shown_by(km))


def break_json(km: Path) -> None:
    (km / "installation.json").write_text('{"party": "km/jinan", "extra": 1}')


def drop_configuration(km: Path) -> None:
    rewrite(km, configuration=None)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (swap_identity, "the store is not that of km/jinan: it holds the keys of km/qingdao"),
        (lambda km: shutil.copy(km.parent / "km-qingdao" / "module.key", km / "module.key"), "does not open"),
        (lambda km: (km / "module.key").write_bytes(b"short"), "the module key of km/jinan cannot be used"),
        (lambda km: (km / "module.key").unlink(), "the module key of km/jinan cannot be used"),
        (lambda km: (km / "identity.sealed").unlink(), "identity.sealed cannot be read: No such file"),
        (lambda km: (km / "installation.json").unlink(), "is no installation of a party"),
        (break_json, "is no installation of a party"),
        (swap_chain, "has a certificate of km/qingdao where one of km/jinan belongs"),
        (forge_chain, "has a certificate of km/jinan for keys that it does not hold"),
        (transport_for_identity, "has no certificate of km/jinan that can be used: .* no HPKE public key"),
        (lambda km: rewrite(km, chain=()), "has no certificate of km/jinan that can be used"),
        (misname_peer, "has a certificate of pomp/shandong where one of qssp/jinan belongs"),
        (drop_configuration, "has no configuration for km/jinan"),
    ],
)
def test_what_does_not_fit_together_is_not_installed(km: Path, store: SqliteStore, damage: object, told: str) -> None:
    assert callable(damage)
    damage(km)
    with pytest.raises(StoreError, match=told):
        install(km, store, os.urandom)
    assert records(store) == {}


def test_a_store_is_not_taken_over_by_another_party_or_other_roots(
    km: Path, store: SqliteStore, tmp_path: Path
) -> None:
    install(km, store, os.urandom)
    before = records(store)
    foreign, _ = made(tmp_path)
    other = msgspec.structs.replace(load_installation(km), trust=load_installation(foreign / party_place(KM)).trust)
    (km / "installation.json").write_bytes(msgspec.json.encode(other))
    with pytest.raises(StoreError, match=r"was provisioned under other roots than installation\.json names"):
        install(km, store, os.urandom)
    with pytest.raises(StoreError, match="does not open"):
        install(foreign / party_place(KM), store, os.urandom)
    with pytest.raises(StoreError, match=r"the store is not that of km/qingdao: it holds the keys of km/jinan"):
        open_installed(store, open_vault(km, KM, os.urandom), PartyId("km/qingdao"))
    assert records(store) == before


def test_an_installation_holds_nothing_secret(shared: Path) -> None:
    for one in load_record(shared).services:
        public = msgspec.json.decode((shared / one.folder / "installation.json").read_bytes())
        assert set(public) == set(Installation.__struct_fields__)
        assert "PRIVATE" not in json.dumps(public)


# --- certificates over time -----------------------------------------------------------------------------------------


def numbers(state: Path) -> dict[PartyId, int]:
    folders = transport_folders(state, load_record(state))
    return {party: read_pem_certificate(folder / "transport.pem").serial_number for party, folder in folders.items()}


def keys(state: Path) -> dict[PartyId, bytes]:
    folders = transport_folders(state, load_record(state))
    return {party: (folder / "transport.key").read_bytes() for party, folder in folders.items()}


def test_nothing_is_renewed_before_two_thirds_of_its_life(state: Path) -> None:
    before = numbers(state)
    renewed = renew(state, os.urandom, NOW + 59 * DAY)
    assert (renewed.transport, renewed.identities, renewed.revocation_lists) == ((), (), False)
    assert numbers(state) == before


def test_all_is_renewed_after_two_thirds_and_believed_beyond_its_old_end(state: Path) -> None:
    before, held = numbers(state), keys(state)
    renewed = renew(state, os.urandom, NOW + 61 * DAY)
    after = numbers(state)
    assert set(renewed.transport) == set(before) == {party for party in before if before[party] != after[party]}
    assert renewed.revocation_lists
    assert renewed.identities == ()
    assert keys(state) == held, "a certificate and its key never disagree, for a renewal keeps the key"
    for folder in transport_folders(state, load_record(state)).values():
        assert trust_of(operator_tls(state), NOW + 120 * DAY).verify(shown_by(folder)).not_after > NOW + 120 * DAY
    assert renew(state, os.urandom, NOW + 61 * DAY).transport == ()


def test_all_can_be_renewed_at_any_time(state: Path) -> None:
    before = numbers(state)
    renewed = renew(state, os.urandom, NOW + DAY, everything=True)
    assert set(renewed.transport) == set(before)
    assert set(numbers(state).values()).isdisjoint(before.values())


def test_a_renewed_certificate_keeps_the_names_and_the_serial_number_of_the_device(state: Path) -> None:
    renew(state, os.urandom, NOW + DAY, everything=True)
    certificate = read_pem_certificate(state / party_place(CPE) / "transport.pem")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    judge = trust_of(operator_tls(state), NOW + DAY)
    assert judge.verify(shown_by(state / party_place(CPE))).serial == "QS-2026-000001"


def test_a_revoked_party_is_refused_by_all_with_its_older_certificates_too(state: Path) -> None:
    place = state / party_place(CPE)
    older = shown_by(place)
    renew(state, os.urandom, NOW + DAY, everything=True)
    newer = shown_by(place)
    revoke_certificate(state, CPE, os.urandom, NOW + DAY)
    assert older != newer
    for folder in transport_folders(state, load_record(state)).values():
        judge = trust_of(tls_section(folder), NOW + DAY)
        for shown in (older, newer):
            with pytest.raises(BadProof, match=r"the certificate of cpe/jinan-1 is revoked"):
                judge.verify(shown)
        other = PartyId("cpe/qingdao-1")
        assert judge.verify(shown_by(state / party_place(other))).party == other


def test_a_revoked_party_is_certified_no_more_however_long_ago(state: Path) -> None:
    revoke_certificate(state, CPE, os.urandom, NOW)
    before = numbers(state)[CPE]
    for days in (61, 122, 400):
        renewed = renew(state, os.urandom, NOW + days * DAY, everything=True)
        assert CPE not in renewed.transport
        assert len(renewed.transport) == len(numbers(state)) - 1
    assert numbers(state)[CPE] == before


def test_to_revoke_twice_is_to_revoke(state: Path) -> None:
    revoke_certificate(state, CPE, os.urandom, NOW)
    first = {one.number: one.revoked_at for one in issued_certificates(state, os.urandom) if one.party == CPE}
    revoke_certificate(state, CPE, os.urandom, NOW + DAY)
    assert {one.number: one.revoked_at for one in issued_certificates(state, os.urandom) if one.party == CPE} == first
    assert set(first.values()) == {NOW}


def test_who_has_no_certificate_cannot_lose_it(state: Path) -> None:
    with pytest.raises(UsageError, match=r"cpe/nobody has no certificate of this province; `qsotn pki show`"):
        revoke_certificate(state, PartyId("cpe/nobody"), os.urandom, NOW)


def test_a_revocation_that_was_killed_half_way_is_finished_by_the_next_renewal(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(authority_module, "issue_revocation_list", killed)
    with pytest.raises(KeyboardInterrupt):
        revoke_certificate(state, CPE, os.urandom, NOW)
    monkeypatch.undo()
    shown = shown_by(state / party_place(CPE))
    assert trust_of(operator_tls(state), NOW).verify(shown).party == CPE
    assert renew(state, os.urandom, NOW).revocation_lists
    with pytest.raises(BadProof, match="is revoked"):
        trust_of(operator_tls(state), NOW).verify(shown)


def test_lists_that_did_not_reach_a_folder_are_laid_there_again(state: Path) -> None:
    target = state / party_place(POMP) / "operator.crl"
    target.write_bytes(b"old")
    renew(state, os.urandom, NOW)
    assert target.read_bytes() == (state / PKI / "operator.crl").read_bytes()


def test_expired_certificates_are_forgotten_and_revocations_are_not(state: Path) -> None:
    revoke_certificate(state, CPE, os.urandom, NOW)
    for days in (61, 122, 183):
        renew(state, os.urandom, NOW + days * DAY)
    listed = issued_certificates(state, os.urandom)
    assert len([one for one in listed if one.party == POMP and one.kind == "transport"]) == 2
    assert {one.kind for one in listed if one.party == CPE and one.revoked_at} == {"identity", "transport"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("operator.key", b"nothing", "operator.key is no private key that can be read"),
        ("operator.pem", b"nothing", "operator.pem is no certificate that can be read"),
        ("issued.json", b"nothing", "issued.json cannot be used"),
    ],
)
def test_a_damaged_authority_is_told_and_issues_nothing(state: Path, name: str, content: bytes, told: str) -> None:
    (state / PKI / name).write_bytes(content)
    before = numbers(state)
    with pytest.raises(StoreError, match=told):
        renew(state, os.urandom, NOW, everything=True)
    assert numbers(state) == before


def test_a_key_of_the_other_root_is_told(state: Path) -> None:
    shutil.copy(state / PKI / "manufacturer.key", state / PKI / "operator.key")
    with pytest.raises(StoreError, match=r"operator\.key is not the key of operator\.pem"):
        renew(state, os.urandom, NOW, everything=True)


# --- as a person sees it --------------------------------------------------------------------------------------------


def test_init_says_what_was_made_and_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file.toml"
    file.write_text(ANYWHERE)
    run_init(file, tmp_path / "one", as_json=False)
    shown = capsys.readouterr().out
    assert "10 parties in 10 processes, 2 QKD links, 1 fibres." in shown
    assert f"qsotn up --state {tmp_path / 'one'}" in shown
    run_init(file, tmp_path / "two", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == str(tmp_path / "two")
    assert msgspec.convert(shown["province"], ProvinceRecord) == load_record(tmp_path / "two")


def test_pki_shows_and_renews(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    revoke_certificate(state, CPE, os.urandom, NOW)
    show_certificates(state, as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert {one["number"] for one in listed} >= {f"{number:x}" for number in numbers(state).values()}
    assert {one["party"] for one in listed if one["revoked_at"]} == {CPE}
    renew_certificates(state, everything=True, as_json=False)
    assert "Renewed for TLS, and taken up by running services: pomp/shandong" in capsys.readouterr().out
    show_certificates(state, as_json=False)
    table = capsys.readouterr().out
    assert table.startswith("party ")
    assert f"{numbers(state)[POMP]:x}" in table
