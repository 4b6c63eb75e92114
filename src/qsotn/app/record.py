"""A province's folder, and the record of what runs where in it (`province.json`).

province.toml           the province file it was made from
province.json           every process, its addresses and its folder
pki/                    the two roots and their keys (`qsotn.app.authority`); no service reads it
parties/<role>-<name>/  all that one party needs: service.toml, module.key, identity.sealed, installation.json,
                        transport.pem and transport.key, the two roots and their revocation lists; later its store
saes/<name>/            what an SAE shows: its certificate and key, and roots and lists to know its key manager by
operator/               what the operator's commands show: the certificate of operator/admin, its key, roots, lists
twin/                   the QKD twin: service.toml, module.key, and a folder for the certificate of each link
log/                    what the processes print
running                 locked, and holds the supervisor's process number, while the province runs
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from qsotn.app.plan import Plan, read_plan
from qsotn.app.service_files import link_folder, tls_section
from qsotn.domain import PartyId, Role
from qsotn.errors import StoreError, UsageError
from qsotn.service.config import CONFIGURATION, TlsSection

VERSION: Final = 1
PLAN, RECORD = "province.toml", "province.json"
PKI, PARTIES, OPERATOR_FOLDER, TWIN, LOG = "pki", "parties", "operator", "twin", "log"
SAES: Final = "saes"
ADMIN: Final = PartyId("operator/admin")


class ServiceRecord(msgspec.Struct, frozen=True):
    """One process of one party. Folder and configuration are relative to the province's folder."""

    party: PartyId
    replica: int
    url: str
    monitoring: str
    """`host:port`, plain HTTP."""
    folder: str
    configuration: str
    delivery: str = ""
    """Where SAEs get keys (ETSI GS QKD 014), or empty."""
    streams: str = ""
    """Where they open streams of key (004), or empty."""
    border: str = ""
    """Where other operators hand over keys (020), or empty."""


class TwinRecord(msgspec.Struct, frozen=True):
    """The process of the QKD twin."""

    monitoring: str
    folder: str
    configuration: str
    links: tuple[str, ...]


class FibreRecord(msgspec.Struct, frozen=True):
    """One fibre: its two devices, and the UDP address of the line port of each."""

    ends: tuple[PartyId, PartyId]
    addresses: tuple[str, str]


class ProvinceRecord(msgspec.Struct, frozen=True):
    """`province.json`: what runs where."""

    version: int
    name: str
    services: tuple[ServiceRecord, ...]
    twin: TwinRecord
    fibres: tuple[FibreRecord, ...]
    client_ports: dict[PartyId, str]
    """The UDP address at which each device takes its client's frames."""
    saes: tuple[str, ...] = ()
    """The SAEs that have certificates of the province."""

    def urls(self, party: PartyId) -> tuple[str, ...]:
        """Where one party is reached. Raises `UsageError` for a party that is not here."""
        found = tuple(one.url for one in self.services if one.party == party)
        if not found:
            known = ", ".join(dict.fromkeys(one.party for one in self.services))
            raise UsageError(f"there is no {party} in {self.name}; there are {known}")
        return found


def configuration_name(replica: int) -> str:
    """Return the name of a process's configuration in its party's folder: they differ in the addresses alone."""
    return CONFIGURATION if replica == 1 else f"service.{replica}.toml"


def party_place(party: PartyId) -> str:
    """Return a party's folder, relative to the province's."""
    return f"{PARTIES}/{party.replace('/', '-')}"


def sae_party(name: str) -> PartyId:
    """Return who an SAE is in its certificate."""
    return PartyId(f"{Role.SAE}/{name}")


def load_record(state: Path) -> ProvinceRecord:
    """Return what runs where in a province.

    Raises `UsageError` for a folder that holds none, or one of another version; `StoreError` for a damaged one.
    """
    path = state / RECORD
    try:
        record = msgspec.json.decode(path.read_bytes(), type=ProvinceRecord)
    except FileNotFoundError:
        raise UsageError(f"{state} holds no province; make one with: qsotn init --state {state}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{path} cannot be used: {error}") from error
    if record.version != VERSION:
        raise UsageError(f"{state} is a province of version {record.version}; this release runs version {VERSION}")
    return record


def load_plan(state: Path) -> Plan:
    """Return the province file a province was made from. Raises `UsageError`."""
    return read_plan(state / PLAN)


def transport_folders(state: Path, record: ProvinceRecord) -> dict[PartyId, Path]:
    """Return the folder of everybody who has a transport certificate."""
    folders = {one.party: state / one.folder for one in record.services}
    folders[ADMIN] = state / OPERATOR_FOLDER
    for sae in record.saes:
        folders[sae_party(sae)] = state / SAES / sae
    for link in record.twin.links:
        folders[PartyId(f"{Role.QKD}/{link}")] = state / record.twin.folder / link_folder(link)
    return folders


def operator_tls(state: Path) -> TlsSection:
    """Return what the operator's commands identify themselves with, and whom they trust."""
    return tls_section(state / OPERATOR_FOLDER)
