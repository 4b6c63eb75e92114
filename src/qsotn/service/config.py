"""What `qsotn serve` reads: one party's `service.toml`, and the twin's.

Paths are relative to the file's folder, which holds everything the party needs and no other party reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from qsotn.domain import PartyId, Role, role_of
from qsotn.errors import UsageError
from qsotn.service.config_checks import SERVED as SERVED
from qsotn.service.config_checks import of_address, of_monitoring, of_party, of_peers
from qsotn.service.config_checks import split_address as split_address
from qsotn.service.delivery.configuration import DeliverySection, SaeSection, delivery_complaints
from qsotn.service.interoperation.configuration import BorderSection, StreamsSection, border_complaints
from qsotn.service.toml_file import read_toml

CONFIGURATION: Final = "service.toml"
SQLITE: Final = "sqlite"
"""The store is `store.db` in the state folder."""
COURIERED: Final = (Role.CPE, Role.QSSP)
"""The two roles that meet on Iaq, with the PMP as their courier."""
_SHORTEST_LOOK_S: Final = 0.1
_LONGEST_LOOK_S: Final = 3600
_LONGEST_HISTORY_S: Final = 7 * 24 * 3600
SHORTEST_RETENTION_DAYS: Final = 3
"""A key waits for its SAE for a day, and so long a message may live; an epoch lasts two."""
_LONGEST_RETENTION_DAYS: Final = 3650
DAY_US: Final = 24 * 3600 * 1_000_000


class StoreSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sqlite`, or the URL of a PostgreSQL database, in which this party has a schema of its own."""

    url: str = SQLITE


class ListenSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`host:port` of the service, and of the plain monitoring listener, or an empty text for none."""

    address: str
    monitoring: str = ""


class TlsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The party's own certificate of TLS and key, the two roots, and the revocation list of each: PEM files."""

    certificate: Path
    key: Path
    operator_root: Path
    manufacturer_root: Path
    operator_list: Path
    manufacturer_list: Path


class LimitsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much may wait before the service answers that it has too much to do."""

    waiting: int = 1024


class LogSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is written to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class TelemetrySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where traces go: the URL of an OTLP collector over HTTP, or an empty text for nowhere."""

    otlp: str = ""


class LineSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device's two ports, `host:port` of UDP: this and the far end of the fibre, and where the client connects."""

    local: str
    remote: str
    client_port: str


class SupervisionSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often a QKMP looks at its key managers and QSSPs, how far back it remembers, and what alarms it.

    `qber` is a fraction; the bits are marks, for what one end of a link may allocate and for a pool of ready keys;
    `starves_s` is how long before a pool would be empty.
    """

    interval_s: float = 10.0
    history_s: float = 3600.0
    qber: float = 0.05
    link_bits: int = 8192
    pool_bits: int = 8192
    starves_s: float = 600.0


class AccountsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long a key manager keeps accounts of keys: how each came, over which links, and what became of supplies.

    At least `SHORTEST_RETENTION_DAYS`, which is longer than any key can wait for its SAE and any procedure last.
    """

    retention_days: int = 30


class ServiceConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One party's `service.toml`."""

    party: PartyId
    state: Path
    listen: ListenSection
    tls: TlsSection
    store: StoreSection = StoreSection()
    courier: PartyId | None = None
    """Who carries what is sealed between a device and its QSSP: the PMP."""
    peers: dict[PartyId, tuple[str, ...]] = {}
    """The URLs at which another party is reached, one for each of its replicas."""
    limits: LimitsSection = LimitsSection()
    log: LogSection = LogSection()
    telemetry: TelemetrySection = TelemetrySection()
    line: LineSection | None = None
    links: dict[str, PartyId] = {}
    """A key manager's QKD links, and the key manager at the far end of each."""
    network: dict[str, tuple[PartyId, PartyId]] = {}
    """Of a key manager that supplies pools: every QKD link of the network, and its two ends."""
    delivery: DeliverySection | None = None
    """A key manager's listener for SAEs."""
    saes: tuple[SaeSection, ...] = msgspec.field(name="sae", default=())
    """The SAEs that a key manager knows: its own, and those that they share keys with."""
    border: BorderSection | None = None
    """A key manager's border to other operators, and their SAEs."""
    streams: StreamsSection | None = None
    """A key manager's listener for SAEs that take streams of key."""
    supervision: SupervisionSection = SupervisionSection()
    accounts: AccountsSection = AccountsSection()


class KeysSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many bits the twin keeps available at each end of each link."""

    fill_bits: int


class TwinLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One QKD link: its two key managers, and what its modules identify themselves with as `qkd/<name>`."""

    name: str
    ends: tuple[PartyId, PartyId]
    tls: TlsSection


class MonitoringSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`host:port` of the plain monitoring listener, or an empty text for none."""

    monitoring: str = ""


class TwinConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The twin's `service.toml`: it stands for the QKD modules of every link, and listens to nobody."""

    state: Path
    keys: KeysSection
    links: tuple[TwinLink, ...] = msgspec.field(name="link")
    peers: dict[PartyId, tuple[str, ...]]
    listen: MonitoringSection = MonitoringSection()
    log: LogSection = LogSection()


def load_configuration(path: Path) -> ServiceConfiguration:
    """Read one party's configuration. Raises `UsageError`: what is wrong, where, and what would be right."""
    configuration = read_toml(path, ServiceConfiguration)
    for complaint in _complaints(configuration):
        raise UsageError(f"{path}: {complaint}")
    return configuration


def load_twin(path: Path) -> TwinConfiguration:
    """Read the twin's configuration. Raises `UsageError`."""
    configuration = read_toml(path, TwinConfiguration)
    for complaint in _twin_complaints(configuration):
        raise UsageError(f"{path}: {complaint}")
    return configuration


def _complaints(configuration: ServiceConfiguration) -> Iterator[str]:
    yield from of_party("party", configuration.party, SERVED)
    role = role_of(configuration.party)
    yield from of_address("[listen] address", configuration.listen.address)
    yield from of_monitoring(configuration.listen.monitoring)
    url = configuration.store.url
    if url != SQLITE and not url.startswith("postgresql://"):
        yield f'[store] url: this is no store; there are "{SQLITE}" and "postgresql://…"'
    if configuration.limits.waiting < 1:
        yield f"[limits] waiting: {configuration.limits.waiting} is too few; at least 1 must be able to wait"
    yield from of_peers(configuration.peers)
    yield from _of_courier(configuration, role)
    yield from _of_role(configuration, role)
    yield from _of_delivery(configuration, role)


def _twin_complaints(configuration: TwinConfiguration) -> Iterator[str]:
    yield from of_monitoring(configuration.listen.monitoring)
    if configuration.keys.fill_bits < 1:
        yield f"[keys] fill_bits: {configuration.keys.fill_bits} is too few; at least 1"
    yield from of_peers(configuration.peers)
    for link in configuration.links:
        yield from of_party("[[link]] name", PartyId(f"{Role.QKD}/{link.name}"), (Role.QKD,))
        for end in link.ends:
            yield from of_party(f"[[link]] {link.name!r}, ends", end, (Role.KM,))
            if end not in configuration.peers:
                yield f"[[link]] {link.name!r}, ends: [peers] does not say where {end} is; name its URL there"


def _of_courier(configuration: ServiceConfiguration, role: Role) -> Iterator[str]:
    courier = configuration.courier
    if role not in COURIERED:
        if courier is not None:
            yield f"courier: a {role} has none; leave it out"
    elif courier is None:
        yield f'courier: a {role} needs one; name its PMP, for example "pmp/shandong"'
    else:
        yield from of_party("courier", courier, (Role.PMP,))
        if courier not in configuration.peers:
            yield f"courier: [peers] does not say where {courier} is; name its URL there"


def _of_supervision(section: SupervisionSection) -> Iterator[str]:
    if not _SHORTEST_LOOK_S <= section.interval_s <= _LONGEST_LOOK_S:
        yield f"[supervision] interval_s: {section.interval_s:g} is not {_SHORTEST_LOOK_S:g} to {_LONGEST_LOOK_S} s"
    if not section.interval_s <= section.history_s <= _LONGEST_HISTORY_S:
        yield f"[supervision] history_s: {section.history_s:g} is not interval_s to {_LONGEST_HISTORY_S} s"
    if not 0 <= section.qber <= 1:
        yield f"[supervision] qber: {section.qber:g} is no fraction; expected 0 to 1, for example 0.05"
    for key in ("link_bits", "pool_bits", "starves_s"):
        if not getattr(section, key) >= 0:
            yield f"[supervision] {key}: {getattr(section, key):g} is too little; expected 0 or more"


def _of_accounts(section: AccountsSection, role: Role) -> Iterator[str]:
    if role is not Role.KM and section != AccountsSection():
        yield f"[accounts]: a {role} keeps no accounts of keys; leave it out"
    if not SHORTEST_RETENTION_DAYS <= section.retention_days <= _LONGEST_RETENTION_DAYS:
        between = f"{SHORTEST_RETENTION_DAYS} to {_LONGEST_RETENTION_DAYS}"
        yield f"[accounts] retention_days: {section.retention_days} is out of range; there may be {between}"


def _of_role(configuration: ServiceConfiguration, role: Role) -> Iterator[str]:
    if configuration.line is not None:
        if role is not Role.CPE:
            yield f"[line]: a {role} has no line; leave it out"
        for key, address in msgspec.structs.asdict(configuration.line).items():
            yield from of_address(f"[line] {key}", address)
    if role is not Role.QKMP and configuration.supervision != SupervisionSection():
        yield f"[supervision]: a {role} supervises nothing; leave it out"
    yield from _of_supervision(configuration.supervision)
    yield from _of_accounts(configuration.accounts, role)
    if configuration.links and role is not Role.KM:
        yield f"[links]: a {role} has no QKD links; leave it out"
    for link, far in configuration.links.items():
        yield from of_party(f"[links] {link}", far, (Role.KM,))
        if far not in configuration.peers:
            yield f"[links] {link}: [peers] does not say where {far} is; name its URL there"


def _of_delivery(configuration: ServiceConfiguration, role: Role) -> Iterator[str]:
    delivery, saes = configuration.delivery, configuration.saes
    beside = {"[[sae]]": saes, "[border]": configuration.border, "[streams]": configuration.streams}
    present = [table for table, given in beside.items() if given]
    if delivery is None and not present:
        return
    if role is not Role.KM:
        yield f"[delivery], {', '.join(beside)}: a {role} gives no keys to SAEs; leave them out"
    if delivery is None:
        yield f'{present[0]}: there is no [delivery] for it; name an address there, for example "127.0.0.1:7601"'
        return
    yield from of_address("[delivery] address", delivery.address)
    yield from delivery_complaints(delivery, saes)
    for number, sae in enumerate(saes, 1):
        yield from of_party(f"[[sae]] number {number}, km", sae.km, (Role.KM,))
        if sae.km not in (configuration.party, *configuration.peers):
            yield f"[[sae]] number {number}, km: [peers] does not say where {sae.km} is; name its URL there"
    if configuration.border is not None:
        yield from border_complaints(configuration.border, {sae.id for sae in saes})
    if configuration.streams is not None:
        yield from of_address("[streams] address", configuration.streams.address)
