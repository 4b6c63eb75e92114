"""A province as its file says it: cities, relays, QKD links, devices and fibres; and who its parties are.

A city has a QSSP and a key manager, a relay a key manager alone; POMP, QKMP and PMP serve the whole province. All of
that follows from the file and is computed here: parties, homes, neighbours, routes. `qsotn.app.plan_checks` says what
is wrong with a file.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Literal

import msgspec

from qsotn.app.plan_border import Border, Streams
from qsotn.app.plan_checks import complaints
from qsotn.app.routes import next_hops
from qsotn.domain import PartyId, Role, role_of
from qsotn.errors import UsageError
from qsotn.parties.cpe import DeviceConfiguration
from qsotn.parties.km import KmConfiguration
from qsotn.parties.qkmp import QkmpConfiguration
from qsotn.parties.qssp import QsspConfiguration
from qsotn.service.delivery.configuration import ClassSection
from qsotn.service.toml_file import read_toml


class City(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A city: `qssp/<name>` and `km/<name>`."""

    name: str


class Relay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trusted relay: `km/<name>`."""

    name: str


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A QKD link between two cities or relays, by name."""

    name: str
    ends: tuple[str, str]


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A customer's device, `cpe/<name>`, whose home is the QSSP of its city."""

    name: str
    city: str
    serial_number: str
    odu_types: tuple[str, ...] = ("ODU0", "ODU2")
    suites: tuple[int, ...] = (1,)


class Sae(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A secure application entity (ETSI GS QKD 014), attached to the key manager of its city; its ID is its name.

    Without a class it is of the lowest.
    """

    name: str
    city: str
    service_class: str = msgspec.field(name="class", default="")


class OpticalFibre(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The OTN line between two devices, by name."""

    ends: tuple[str, str]


class Listening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the services listen: one host, and ports from the first upwards. 0 takes free ones."""

    host: str = "127.0.0.1"
    first_port: int = 7400


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the platform's stores are: `sqlite`, or the URL of a PostgreSQL database. A device's is always SQLite.

    In a database each party has a schema of its own; `{party}` in the URL, for a database or a user of its own, stands
    for its name with underscores.
    """

    url: str = "sqlite"


class Replicas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many processes serve each party of a role. A device is one piece of equipment."""

    pomp: int = 1
    pmp: int = 1
    qkmp: int = 1
    qssp: int = 1
    km: int = 1


class TransportCertificates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a certificate of TLS is valid; days, or a part of one."""

    lifetime_days: float = 90.0


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many bits the twin keeps available at each end of each link."""

    fill_bits: int = 24 * 1024


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the key managers of cities with SAEs serve these: ports from the first upwards, or behind those of [listen].

    With `tls = "standard"` SAEs show certificates of `client_ca`, of each of which `client_list` has a revocation list,
    and every key manager has the same `certificate` and `key`: PEM files by absolute path. `ready_keys` are units of
    256 bits, towards each key manager; `mode` is how they cross a link, `shares` over how many node-disjoint ways they
    are spread. `class` are the classes of SAEs, from the highest priority down; without any, all are of one.
    """

    first_port: int | None = None
    tls: Literal["post-quantum", "standard"] = "post-quantum"
    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    client_list: str = ""
    ready_keys: int = 512
    mode: Literal["one-time-pad", "aes-wrapped"] = "one-time-pad"
    shares: int = 1
    classes: tuple[ClassSection, ...] = msgspec.field(name="class", default=())

    @property
    def files(self) -> dict[str, str]:
        """The files that are named, by their key."""
        keys = ("certificate", "key", "client_ca", "client_list")
        return {key: path for key in keys if (path := getattr(self, key))}


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A province file, and the parties that follow from it."""

    name: str
    cities: tuple[City, ...] = msgspec.field(name="city")
    relays: tuple[Relay, ...] = msgspec.field(name="relay", default=())
    qkd_links: tuple[Link, ...] = msgspec.field(name="link", default=())
    devices: tuple[Device, ...] = msgspec.field(name="cpe", default=())
    fibres: tuple[OpticalFibre, ...] = msgspec.field(name="fibre", default=())
    listen: Listening = Listening()
    store: Storage = Storage()
    replicas: Replicas = Replicas()
    certificates: TransportCertificates = TransportCertificates()
    keys: Keys = Keys()
    saes: tuple[Sae, ...] = msgspec.field(name="sae", default=())
    delivery: Delivery = Delivery()
    streams: Streams | None = None
    border: Border | None = None

    @property
    def pomp(self) -> PartyId:
        """The province's operation and management platform."""
        return PartyId(f"pomp/{self.name}")

    @property
    def qkmp(self) -> PartyId:
        """The province's quantum key management platform."""
        return PartyId(f"qkmp/{self.name}")

    @property
    def pmp(self) -> PartyId:
        """The province's management platform of the devices."""
        return PartyId(f"pmp/{self.name}")

    @property
    def qssps(self) -> tuple[PartyId, ...]:
        """The QSSP of each city."""
        return tuple(PartyId(f"qssp/{city.name}") for city in self.cities)

    @property
    def places(self) -> tuple[str, ...]:
        """The names of the cities, then of the relays."""
        return (*(city.name for city in self.cities), *(relay.name for relay in self.relays))

    @property
    def kms(self) -> tuple[PartyId, ...]:
        """The key manager of each city and of each relay."""
        return tuple(map(_km, self.places))

    @property
    def cpes(self) -> tuple[PartyId, ...]:
        """The devices."""
        return tuple(PartyId(f"cpe/{device.name}") for device in self.devices)

    @property
    def platform(self) -> tuple[PartyId, ...]:
        """Every party but the devices."""
        return (self.pomp, self.qkmp, self.pmp, *self.qssps, *self.kms)

    @property
    def parties(self) -> tuple[PartyId, ...]:
        """Every party: the platform's first, then the devices."""
        return (*self.platform, *self.cpes)

    @property
    def serial_numbers(self) -> dict[PartyId, str]:
        """Each device's serial number."""
        return {cpe: device.serial_number for cpe, device in zip(self.cpes, self.devices, strict=True)}

    @property
    def homes(self) -> dict[PartyId, PartyId]:
        """Each device's home QSSP."""
        return {cpe: PartyId(f"qssp/{device.city}") for cpe, device in zip(self.cpes, self.devices, strict=True)}

    @property
    def links(self) -> dict[str, tuple[PartyId, PartyId]]:
        """The key managers at the ends of each QKD link."""
        return {link.name: (_km(link.ends[0]), _km(link.ends[1])) for link in self.qkd_links}

    @property
    def lines(self) -> tuple[tuple[PartyId, PartyId], ...]:
        """The devices at the ends of each fibre."""
        return tuple((PartyId(f"cpe/{fibre.ends[0]}"), PartyId(f"cpe/{fibre.ends[1]}")) for fibre in self.fibres)

    @property
    def lifetime(self) -> dt.timedelta:
        """How long a transport certificate is valid."""
        return dt.timedelta(days=self.certificates.lifetime_days)

    @property
    def attachments(self) -> dict[PartyId, PartyId]:
        """The key manager at which each QSSP is an SAE: its city's."""
        return {PartyId(f"qssp/{city.name}"): _km(city.name) for city in self.cities}

    @property
    def sae_homes(self) -> dict[str, PartyId]:
        """The key manager at which each SAE is: its city's."""
        return {sae.name: _km(sae.city) for sae in self.saes}

    @property
    def border_km(self) -> PartyId | None:
        """The key manager at the border to other operators."""
        return None if self.border is None else _km(self.border.city)

    def has_saes(self, party: PartyId) -> bool:
        """Say whether a party is a key manager with SAEs; those of other operators count as the border's."""
        return party == self.border_km or party in self.sae_homes.values()

    def neighbours(self, km: PartyId) -> dict[str, PartyId]:
        """Return the far end of each link of one key manager."""
        return {link: far for link, ends in self.links.items() for near, far in (ends, ends[::-1]) if near == km}

    def correspondents(self, party: PartyId) -> tuple[PartyId, ...]:
        """Return the parties that one may send datagrams to: those its interfaces join it to. A device has its PMP."""
        match role_of(party):
            case Role.POMP:
                return (self.pmp, *self.qssps)
            case Role.PMP:
                return (self.pomp, *self.qssps)
            case Role.QKMP:
                return (*self.qssps, *self.kms)
            case Role.QSSP:
                others = tuple(qssp for qssp in self.qssps if qssp != party)
                return (self.pomp, self.pmp, self.qkmp, self.attachments[party], *others)
            case Role.KM:
                attached = tuple(qssp for qssp, km in self.attachments.items() if km == party)
                # All others: who is on a supply's way testifies to its origin, and both its ends confirm to each other.
                known = dict.fromkeys((*attached, *self.kms))
                return tuple(one for one in known if one != party)
            case Role.CPE:
                return (self.pmp,)
        raise ValueError(f"{party} is no party of a province")

    def configuration(self, party: PartyId) -> msgspec.Struct | None:
        """Return the configuration record of one party; POMP and PMP have none."""
        match role_of(party):
            case Role.QKMP:
                return QkmpConfiguration(self.qssps)
            case Role.QSSP:
                return QsspConfiguration(self.attachments[party], self.qkmp, self.pmp)
            case Role.KM:
                routes = next_hops(self.links.values()).get(party, {})
                return KmConfiguration(self.neighbours(party), routes, self.attachments)
            case Role.CPE:
                device = self.devices[self.cpes.index(party)]
                return DeviceConfiguration(device.serial_number, device.suites, device.odu_types)
        return None


def _km(place: str) -> PartyId:
    return PartyId(f"km/{place}")


def read_plan(path: Path) -> Plan:
    """Read a province file. Raises `UsageError` with the first thing that is wrong, where, and what would be right."""
    plan = read_toml(path, Plan)
    for complaint in complaints(plan):
        raise UsageError(f"{path}: {complaint}")
    return plan


def sample_plan() -> Plan:
    """Return the province that ships with the package."""
    return read_plan(sample_file())


def sample_file() -> Path:
    """Return the file of the province that ships with the package."""
    return Path(__file__).with_name("sample_province.toml")
