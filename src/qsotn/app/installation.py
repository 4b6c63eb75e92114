"""A province as files: made once and whole, in one folder, which `qsotn up` runs and an operator may distribute.

What lies in the folder is in `qsotn.app.record`. It is made beside its place and renamed into it, so that it is there
whole or not at all.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from qsotn.app.addresses import Addresses, ServiceAddress, assign
from qsotn.app.authority import Authority, pem_key
from qsotn.app.files import PUBLIC, sync_folder, write_new
from qsotn.app.plan import Plan, read_plan, sample_file
from qsotn.app.record import (
    ADMIN,
    LOG,
    OPERATOR_FOLDER,
    PARTIES,
    PKI,
    PLAN,
    RECORD,
    SAES,
    TWIN,
    VERSION,
    FibreRecord,
    ProvinceRecord,
    ServiceRecord,
    TwinRecord,
    configuration_name,
    load_plan,
    load_record,
    party_place,
    sae_party,
)
from qsotn.app.service_files import SHARED_FILES, TLS_FILES, link_folder, service_toml, twin_toml
from qsotn.crypto.identity import Identity
from qsotn.crypto.suites import DEFAULT_SUITE
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, PartyId, Role, Secret, role_of
from qsotn.errors import UsageError
from qsotn.service.config import CONFIGURATION
from qsotn.service.installation import (
    IDENTITY,
    IDENTITY_CONTEXT,
    INSTALLATION,
    MODULE_KEY,
    Installation,
    ProvisionedTrust,
)


def create_installation(province: Path | None, state: Path, entropy: Entropy, now: dt.datetime) -> ProvinceRecord:
    """Make everything a province needs, from a province file or the sample.

    Raises `UsageError` for a file that is wrong, ports that are in use, and a folder that is not empty.
    """
    source = province or sample_file()
    plan = read_plan(source)
    _check_empty(state)
    addresses = assign(plan)
    with _made_beside(state) as folder:
        write_new(folder / PLAN, source.read_bytes())
        record = _Maker(plan, addresses, folder, entropy, now).make()
        write_new(folder / RECORD, _json(record), PUBLIC)
    return record


def _check_empty(state: Path) -> None:
    if state.exists() and (not state.is_dir() or any(state.iterdir())):
        raise UsageError(
            f"{state} is there already and not empty; nothing in it was touched; choose another --state DIR"
        )


@contextmanager
def _made_beside(state: Path) -> Iterator[Path]:
    """Give a folder to fill, and rename it to its place when it is durable; leave nothing if that fails."""
    beside = state.with_name(f".{state.name}.new-{os.getpid()}")
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir(mode=0o700)
        yield beside
        for inner, _, _ in os.walk(beside):
            sync_folder(Path(inner))
        beside.rename(state)
        sync_folder(state.parent)
    except OSError as error:
        raise UsageError(f"{state} cannot be made: {error.strerror or error}; choose another --state DIR") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


class _Maker:
    """Makes one province in an empty folder."""

    def __init__(self, plan: Plan, addresses: Addresses, folder: Path, entropy: Entropy, now: dt.datetime) -> None:
        self._plan = plan
        self._addresses = addresses
        self._folder = folder
        self._entropy = entropy
        self._now = now
        self._authority = Authority.create(folder / PKI, plan.name, plan.lifetime, entropy, now)

    def make(self) -> ProvinceRecord:
        """Make all parts, and return where they are."""
        self._authority.renew_lists(self._now)
        (self._folder / PARTIES).mkdir(mode=0o700)
        identities = {party: self._identity(party) for party in self._plan.parties}
        for identity in identities.values():
            self._make_party(identity, identities)
        self._make_transport(self._folder / OPERATOR_FOLDER, ADMIN)
        self._make_twin()
        self._make_saes()
        (self._folder / LOG).mkdir(mode=0o700)
        self._authority.save()
        return self._record()

    def _identity(self, party: PartyId) -> Identity:
        suites = {cpe: device.suites for cpe, device in zip(self._plan.cpes, self._plan.devices, strict=True)}
        number = suites.get(party, (DEFAULT_SUITE.number,))[0]
        serial_number = self._plan.serial_numbers.get(party)
        return self._authority.identity(party, serial_number, number, self._entropy, self._now)

    def _make_party(self, identity: Identity, identities: dict[PartyId, Identity]) -> None:
        party = identity.party
        place = self._folder / party_place(party)
        place.mkdir(mode=0o700)
        self._make_transport(place, party)
        sealed = self._module(place).wrap(identity.to_secret(), IDENTITY_CONTEXT)
        write_new(place / IDENTITY, sealed)
        platform = {} if role_of(party) is Role.CPE else {one: identities[one].chain for one in self._plan.platform}
        trust = ProvisionedTrust(self._authority.operator.certificate, self._authority.manufacturer.certificate)
        installation = Installation(party, trust, identity.chain, platform, self._plan.configuration(party))
        write_new(place / INSTALLATION, _json(installation))
        for own in self._services_of(party):
            write_new(place / configuration_name(own.replica), service_toml(self._plan, self._addresses, own).encode())

    def _module(self, place: Path) -> Vault:
        """Make the key of an embedded module, and return what it wraps with."""
        kek = Secret(self._entropy(32))
        write_new(place / MODULE_KEY, kek.reveal())
        return Vault(kek, self._entropy)

    def _make_transport(self, place: Path, party: PartyId) -> None:
        """Make the files of TLS: key, certificate, roots and lists."""
        place.mkdir(mode=0o700, exist_ok=True)
        key = DEFAULT_SUITE.generate_signing_key(self._entropy)
        served = [self._plan.listen.host] if party in self._plan.parties else []
        serial_number = self._plan.serial_numbers.get(party)
        public = key.public_key().public_bytes_raw()
        certificate = self._authority.transport(party, public, served, serial_number, self._now)
        write_new(place / TLS_FILES["key"], pem_key(key))
        write_new(place / TLS_FILES["certificate"], certificate, PUBLIC)
        for name in SHARED_FILES:
            write_new(place / name, (self._folder / PKI / name).read_bytes(), PUBLIC)

    def _make_twin(self) -> None:
        twin = self._folder / TWIN
        twin.mkdir(mode=0o700)
        self._module(twin)
        write_new(twin / CONFIGURATION, twin_toml(self._plan, self._addresses).encode())
        for link in self._plan.links:
            self._make_transport(twin / link_folder(link), PartyId(f"{Role.QKD}/{link}"))

    def _make_saes(self) -> None:
        """Make what SAEs show, where key managers take the province's own certificates from them."""
        for sae in self._own_saes():
            (self._folder / SAES).mkdir(mode=0o700, exist_ok=True)
            self._make_transport(self._folder / SAES / sae, sae_party(sae))

    def _own_saes(self) -> tuple[str, ...]:
        own = self._plan.delivery.tls == "post-quantum"
        return tuple(sae.name for sae in self._plan.saes) if own else ()

    def _services_of(self, party: PartyId) -> list[ServiceAddress]:
        return [one for one in self._addresses.services if one.party == party]

    def _record(self) -> ProvinceRecord:
        lines = self._addresses.lines
        return ProvinceRecord(
            VERSION,
            self._plan.name,
            tuple(_service_record(one) for one in self._addresses.services),
            TwinRecord(self._addresses.twin_monitoring, TWIN, f"{TWIN}/{CONFIGURATION}", tuple(self._plan.links)),
            tuple(FibreRecord(ends, (lines[ends[0]].local, lines[ends[1]].local)) for ends in self._plan.lines),
            {cpe: line.client for cpe, line in lines.items()},
            self._own_saes(),
        )


def _service_record(one: ServiceAddress) -> ServiceRecord:
    place = party_place(one.party)
    configuration = f"{place}/{configuration_name(one.replica)}"
    listeners = [f"https://{address}" if address else "" for address in (one.delivery, one.streams, one.border)]
    return ServiceRecord(
        one.party, one.replica, f"https://{one.address}", one.monitoring, place, configuration, *listeners
    )


def _json(record: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def ensure_installation(
    province: Path | None, state: Path, entropy: Entropy, now: dt.datetime
) -> tuple[ProvinceRecord, bool]:
    """Return the province of a folder, and whether it was made by this call, because the folder was empty.

    Raises `UsageError` if the folder holds a province that was made from another file than the one given.
    """
    if not state.exists() or (state.is_dir() and not any(state.iterdir())):
        return create_installation(province, state, entropy, now), True
    record = load_record(state)
    if province is not None and read_plan(province) != load_plan(state):
        raise UsageError(
            f"{state} was made from another province file than {province}; leave --province out to run it as it is, "
            "or make a new one with another --state DIR"
        )
    return record, False
