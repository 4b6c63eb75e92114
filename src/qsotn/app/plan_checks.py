"""What can be wrong with a province file whose tables have the right shape."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

import msgspec

from qsotn.app.key_listeners import KeyListeners, key_listeners, ports_behind
from qsotn.app.plan_border import border_complaints
from qsotn.app.routes import next_hops
from qsotn.crypto.suites import SUITES
from qsotn.errors import Refusal
from qsotn.keynetwork.disjoint import disjoint_paths
from qsotn.keynetwork.topology import Link as KeyLink
from qsotn.keynetwork.topology import Topology
from qsotn.parties.pmp import ODU_TYPES
from qsotn.service.delivery.configuration import MOST_READY_KEYS, MOST_SHARES, class_complaints, classed_complaints

if TYPE_CHECKING:
    from qsotn.app.plan import Device, Plan

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_SERIAL_NUMBER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DATABASE: Final = re.compile(r"postgresql://\S+")
_LARGEST_PORT: Final = 65_535
_SMALLEST_PORT: Final = 1024
LARGEST_FILL: Final = 1 << 24
MOST_REPLICAS: Final = 16
SHORTEST_LIFETIME_S: Final = 5
LONGEST_LIFETIME_DAYS: Final = 825
TCP_PORTS_EACH: Final = 2
UDP_PORTS_EACH: Final = 4


def complaints(plan: Plan) -> Iterator[str]:
    """Yield what is wrong, each with its table and what would be right; what comes later may follow from the first."""
    yield from _bad_names(plan)
    yield from _repeated_names(plan)
    yield from _bad_links(plan)
    yield from _bad_devices(plan)
    yield from _bad_saes(plan)
    yield from _bad_fibres(plan)
    yield from _missing_routes(plan)
    yield from _bad_settings(plan)
    yield from _bad_ports(plan)
    yield from _bad_delivery(plan)
    yield from border_complaints(plan)
    yield from _too_few_ways(plan)


def _bad_names(plan: Plan) -> Iterator[str]:
    named = [("name", plan.name)]
    for table, names in _named(plan):
        named += [(f"[[{table}]] number {number}, name", name) for number, name in enumerate(names, 1)]
    for where, name in named:
        if not _NAME.fullmatch(name):
            yield f"{where}: {name!r} is no name; a name is 1 to 40 small letters, digits and inner hyphens"


def _named(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    yield "city", [city.name for city in plan.cities]
    yield "relay", [relay.name for relay in plan.relays]
    yield "link", [link.name for link in plan.qkd_links]
    yield "cpe", [device.name for device in plan.devices]
    yield "sae", [sae.name for sae in plan.saes]


def _repeated_names(plan: Plan) -> Iterator[str]:
    for table, names in (
        ("[[city]] or [[relay]]", list(plan.places)),
        ("[[link]]", [link.name for link in plan.qkd_links]),
        ("[[cpe]]", [device.name for device in plan.devices]),
        ("[[sae]]", [sae.name for sae in plan.saes]),
    ):
        for name in _repeated(names):
            yield f"{table} {name!r}: there are two of that name; give each its own"
    for number in _repeated(device.serial_number for device in plan.devices):
        yield f"[[cpe]] serial_number {number!r}: two devices have it; a serial number belongs to one device"


def _repeated(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def _bad_links(plan: Plan) -> Iterator[str]:
    places = plan.places
    joined: dict[frozenset[str], str] = {}
    for link in plan.qkd_links:
        where = f"[[link]] {link.name!r}"
        for end in link.ends:
            if end not in places:
                yield f"{where}, ends: there is no city or relay {end!r}; there are {_listed(places)}"
        if link.ends[0] == link.ends[1]:
            yield f"{where}, ends: both are {link.ends[0]!r}; a link joins two places"
        before = joined.setdefault(frozenset(link.ends), link.name)
        if before != link.name:
            yield f"{where}, ends: link {before!r} joins these two already; two places have one link"


def _bad_devices(plan: Plan) -> Iterator[str]:
    cities = [city.name for city in plan.cities]
    for device in plan.devices:
        where = f"[[cpe]] {device.name!r}"
        if device.city not in cities:
            yield f"{where}, city: there is no city {device.city!r}; there are {_listed(cities)}"
        if not _SERIAL_NUMBER.fullmatch(device.serial_number):
            yield f"{where}, serial_number: {device.serial_number!r} is not 1 to 64 letters, digits, dots, _ or hyphens"
        yield from _bad_abilities(where, device)


def _bad_abilities(where: str, device: Device) -> Iterator[str]:
    for key, given, known in (
        ("odu_types", device.odu_types, sorted(ODU_TYPES)),
        ("suites", device.suites, sorted(SUITES)),
    ):
        if not given:
            yield f"{where}, {key}: the list is empty; name at least one of {_listed(known)}"
        for one in given:
            if one not in known:
                yield f"{where}, {key}: {one!r} is none; there are {_listed(known)}"


def _bad_saes(plan: Plan) -> Iterator[str]:
    cities = [city.name for city in plan.cities]
    for sae in plan.saes:
        if sae.city not in cities:
            yield f"[[sae]] {sae.name!r}, city: there is no city {sae.city!r}; there are {_listed(cities)}"


def _bad_fibres(plan: Plan) -> Iterator[str]:
    devices = [device.name for device in plan.devices]
    used: set[str] = set()
    for number, fibre in enumerate(plan.fibres, 1):
        where = f"[[fibre]] number {number}, ends"
        if fibre.ends[0] == fibre.ends[1]:
            yield f"{where}: both are {fibre.ends[0]!r}; a fibre joins two devices"
        for end in dict.fromkeys(fibre.ends):
            if end not in devices:
                yield f"{where}: there is no cpe {end!r}; there are {_listed(devices)}"
            if end in used:
                yield f"{where}: {end!r} is at the end of another fibre; a device has one line port"
            used.add(end)


def _missing_routes(plan: Plan) -> Iterator[str]:
    if not plan.cities:
        yield "[[city]]: there is none; a province has at least one city"
    hops = next_hops(plan.links.values())
    for km in plan.kms:
        if km not in hops:
            yield f"[[link]]: none ends at {km.partition('/')[2]!r}; its key manager needs a QKD link to have keys"
    cities = [(city.name, plan.attachments[qssp]) for city, qssp in zip(plan.cities, plan.qssps, strict=True)]
    for number, (one, near) in enumerate(cities):
        for other, far in cities[number + 1 :]:
            if far not in hops.get(near, {}):
                yield f"[[link]]: no links lead from {one!r} to {other!r}; every two cities need a way over QKD links"


def _bad_settings(plan: Plan) -> Iterator[str]:
    days = plan.certificates.lifetime_days
    if not math.isfinite(days) or not SHORTEST_LIFETIME_S / 86_400 <= days <= LONGEST_LIFETIME_DAYS:
        yield (
            f"[certificates] lifetime_days: {days:g} is out of range; it may be a part of a day, of at least "
            f"{SHORTEST_LIFETIME_S} s, and at most {LONGEST_LIFETIME_DAYS} days"
        )
    if not 1 <= plan.keys.fill_bits <= LARGEST_FILL:
        yield f"[keys] fill_bits: {plan.keys.fill_bits} is out of range; there may be 1 to {LARGEST_FILL} bits"
    yield from _bad_stores(plan)


def _bad_stores(plan: Plan) -> Iterator[str]:
    url = plan.store.url
    if url != "sqlite" and not _DATABASE.fullmatch(url):
        # Not quoted: an address may hold a password.
        yield '[store] url: this is no store; there are "sqlite" and "postgresql://…"'
    for role, number in msgspec.structs.asdict(plan.replicas).items():
        if not 1 <= number <= MOST_REPLICAS:
            yield f"[replicas] {role}: {number} is out of range; there may be 1 to {MOST_REPLICAS}"
        elif number > 1 and url == "sqlite":
            yield f"[replicas] {role}: {number} processes cannot share SQLite; set [store] url to PostgreSQL, or take 1"


def _bad_ports(plan: Plan) -> Iterator[str]:
    if not plan.listen.host:
        yield '[listen] host: it is empty; name the host to listen on, for example "127.0.0.1"'
    first, last = plan.listen.first_port, _LARGEST_PORT - ports_needed(plan) + 1
    if first and not _SMALLEST_PORT <= first <= last:
        yield (
            f"[listen] first_port: {first} is out of range; this province needs {ports_needed(plan)} ports, so that "
            f"its first may be {_SMALLEST_PORT} to {last}, or 0 for free ones"
        )
    for listeners in key_listeners(plan):
        yield from _bad_first_port(listeners)


def _bad_first_port(listeners: KeyListeners) -> Iterator[str]:
    first, last = listeners.first, _LARGEST_PORT - len(listeners.processes) + 1
    if first and not _SMALLEST_PORT <= first <= last:
        yield f"{listeners.where}: {first} is out of range; there may be {_SMALLEST_PORT} to {last}, or 0 for any"


def _bad_delivery(plan: Plan) -> Iterator[str]:
    delivery = plan.delivery
    if not 1 <= delivery.ready_keys <= MOST_READY_KEYS:
        yield f"[delivery] ready_keys: {delivery.ready_keys} is out of range; there may be 1 to {MOST_READY_KEYS}"
    if not 1 <= delivery.shares <= MOST_SHARES:
        yield f"[delivery] shares: {delivery.shares} is out of range; there may be 1 to {MOST_SHARES}"
    yield from class_complaints(delivery.classes, delivery.ready_keys)
    yield from classed_complaints(delivery.classes, ((f"[[sae]] {sae.name!r}", sae.service_class) for sae in plan.saes))
    for key in ("certificate", "key", "client_ca", "client_list"):
        path = delivery.files.get(key, "")
        if delivery.tls != "standard" and path:
            yield f'[delivery] {key}: with tls = "{delivery.tls}", leave it out; those of the province are used'
        needed = bool(path) or key != "client_list"
        if delivery.tls == "standard" and needed and not PurePath(path).is_absolute():
            yield f'[delivery] {key}: {path!r} is no absolute path; with tls = "standard", name a PEM file by one'


def _too_few_ways(plan: Plan) -> Iterator[str]:
    """Complain about shares that cannot be spread: between every two cities with SAEs as many ways are needed."""
    if plan.delivery.shares < 2:
        return
    topology = Topology(plan.kms, tuple(KeyLink(name, ends) for name, ends in plan.links.items()))
    serving = [km for km in plan.kms if plan.has_saes(km)]
    for one, other in itertools.combinations(serving, 2):
        try:
            disjoint_paths(topology, one, other, plan.delivery.shares)
        except Refusal as error:
            cities = " and ".join(repr(km.partition("/")[2]) for km in (one, other))
            yield (
                f"[delivery] shares: {plan.delivery.shares} is too many between {cities}: {error.detail}; add links "
                "or take fewer shares"
            )


def ports_needed(plan: Plan) -> int:
    """Return how many ports a province takes from its first on.

    Two for each process, one for the twin, four for each fibre, and one for each listener for SAEs, for streams and for
    other operators that has no first port of its own.
    """
    processes = sum(_replicas(plan, party) for party in plan.parties)
    return TCP_PORTS_EACH * processes + 1 + UDP_PORTS_EACH * len(plan.fibres) + ports_behind(plan)


def _replicas(plan: Plan, party: str) -> int:
    return int(msgspec.structs.asdict(plan.replicas).get(party.partition("/")[0], 1))


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
