"""Reference topologies, synthesised: a national backbone that meets published totals, and a province.

No link of either is a real one. Of China's national network CN-QCN its builders published totals and no list of links
(npj Quantum Information 2025, doi 10.1038/s41534-025-01089-8): 145 backbone nodes, 20 metropolitan networks, 17
provinces, 80 cities, 6 ground stations; and, as reported elsewhere, 104 of the nodes relays between 41 at which
networks attach, 144 links that average 70 km, 10 103 km in all, and 8 to 25 kbit/s end to end by one-time pad. The
backbone made here has exactly these numbers; everything else is drawn from a seed.

* 144 links that make one network of 145 nodes make a tree: between any two nodes there is one way, every relay on it is
  trusted alone, and one cut fibre parts the network. Shares over disjoint ways exist in the metropolitan
  rings and the province, not across the backbone. (Reports of rings in the real network need links that these totals
  do not have; they would have to come from elsewhere.)
* A link's rate is a model: 800 kbit/s without fibre, falling with its transmittance at 0.2 dB/km, as that of decoy BB84
  does while dark counts are few. It is chosen so that 75 to 100 km give 25 to 8 kbit/s. Every route between two
  access nodes has a link of 76 to 98 km, so that end to end these are the rates that come out.
* QBER: 1 % and a hundredth of a percent for each kilometre. Pools: what ten minutes make.

The draws are SHAKE-256 over the seed and a counter, so that a seed gives the same network everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import shake_256
from itertools import pairwise
from typing import Final

from qsotn.domain import PartyId
from qsotn.keynetwork.topology import Link, Topology

BACKBONE_NODES: Final = 145
BACKBONE_LINKS: Final = 144
BACKBONE_KM: Final = 10_103
ACCESS_NODES: Final = 41
METROS: Final = 20
PROVINCES: Final = 17
CITIES: Final = 80
GROUND_STATIONS: Final = 6

SEED: Final = 2025
POOL_S: Final = 600
_LONGEST_KM: Final = (76, 98)
_OTHER_KM: Final = (40, 98)


@dataclass(frozen=True, slots=True)
class City:
    """A city of the synthesised network: its province, and the backbone node in it."""

    name: str
    province: str
    manager: PartyId


@dataclass(frozen=True, slots=True)
class Metro:
    """A metropolitan network: a ring through an access node of the backbone."""

    name: str
    gateway: PartyId
    managers: tuple[PartyId, ...]
    """Besides the gateway."""
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class National:
    """The synthesised national network."""

    backbone: Topology
    access: tuple[PartyId, ...]
    relays: tuple[PartyId, ...]
    cities: tuple[City, ...]
    metros: tuple[Metro, ...]
    ground_stations: tuple[tuple[str, PartyId], ...]
    """Each with the access node it is joined to. Satellite passes are no part of the topology."""

    @property
    def whole(self) -> Topology:
        """The backbone and all metropolitan rings, as one network."""
        managers = self.backbone.managers + tuple(m for metro in self.metros for m in metro.managers)
        return Topology(managers, self.backbone.links + tuple(link for metro in self.metros for link in metro.links))


def rate_bits_s(length_km: float) -> int:
    """Secret bits a second of a synthesised link: 800 000·10^(−0.2·L/10)."""
    return int(800_000 * 10 ** (-0.02 * length_km))


def synthesised_link(name: str, near: PartyId, far: PartyId, length_km: int) -> Link:
    """Make a link of a length, by the models of the module's docstring."""
    rate = rate_bits_s(length_km)
    return Link(name, (near, far), rate, rate * POOL_S, float(length_km), round(0.01 + 0.0001 * length_km, 4))


def national(seed: int = SEED) -> National:
    """Synthesise the national network."""
    draw = _Draw(seed)
    access = tuple(PartyId(f"km/access-{number:02}") for number in range(1, ACCESS_NODES + 1))
    routes = [(access[draw.within(far // 2, far - 1)], access[far]) for far in range(1, ACCESS_NODES)]
    relays = _share_relays(draw, len(routes), BACKBONE_NODES - ACCESS_NODES)
    backbone = _backbone(access, routes, relays, _lengths(draw, relays))
    between = tuple(manager for manager in backbone.managers if manager not in access)
    gateways = draw.some(access, METROS)
    return National(
        backbone,
        access,
        between,
        _cities(access, draw.some(between, CITIES - ACCESS_NODES), backbone.managers),
        tuple(_metro(draw, number, gateway) for number, gateway in enumerate(gateways, 1)),
        tuple((f"ground-station-{n}", at) for n, at in enumerate(draw.some(access, GROUND_STATIONS), 1)),
    )


class _Draw:
    """Numbers that a seed alone decides."""

    def __init__(self, seed: int) -> None:
        self._seed, self._count = seed, 0

    def within(self, low: int, high: int) -> int:
        """Draw a whole number, both ends included; 64 bits make its bias unnoticeable."""
        self._count += 1
        drawn = shake_256(f"qsotn/synthesis/{self._seed}/{self._count}".encode()).digest(8)
        return low + int.from_bytes(drawn) % (high - low + 1)

    def some(self, names: Sequence[PartyId], number: int) -> tuple[PartyId, ...]:
        """Draw that many of the names, in their own order."""
        left = list(names)
        while len(left) > number:
            left.pop(self.within(0, len(left) - 1))
        return tuple(left)


def _share_relays(draw: _Draw, routes: int, relays: int) -> list[int]:
    """One relay on every route, and the others wherever they are drawn."""
    shared = [1] * routes
    for _ in range(relays - routes):
        shared[draw.within(0, routes - 1)] += 1
    return shared


def _lengths(draw: _Draw, relays: Sequence[int]) -> list[list[int]]:
    """Draw whole kilometres for the links of every route, and even them out to the published sum."""
    lengths = [[draw.within(*_OTHER_KM) for _ in range(number + 1)] for number in relays]
    longest = [draw.within(0, len(route) - 1) for route in lengths]
    for route, place in zip(lengths, longest, strict=True):
        route[place] = draw.within(*_LONGEST_KM)
    others = [(r, p) for r, route in enumerate(lengths) for p in range(len(route)) if p != longest[r]]
    while missing := BACKBONE_KM - sum(map(sum, lengths)):
        step = 1 if missing > 0 else -1
        movable = [(r, p) for r, p in others if _OTHER_KM[0] <= lengths[r][p] + step <= _OTHER_KM[1]]
        for r, p in movable[: abs(missing)]:
            lengths[r][p] += step
    return lengths


def _backbone(
    access: tuple[PartyId, ...],
    routes: Sequence[tuple[PartyId, PartyId]],
    relays: Sequence[int],
    lengths: Sequence[Sequence[int]],
) -> Topology:
    managers, links = list(access), list[Link]()
    for (near, far), number, kilometres in zip(routes, relays, lengths, strict=True):
        first = len(managers) - len(access) + 1
        between = [PartyId(f"km/relay-{first + place:03}") for place in range(number)]
        managers += between
        for (one, other), length in zip(pairwise([near, *between, far]), kilometres, strict=True):
            links.append(synthesised_link(_name(one, other), one, other, length))
    return Topology(tuple(managers), tuple(links))


def _name(one: PartyId, other: PartyId) -> str:
    return f"{one.partition('/')[2]}-{other.partition('/')[2]}"


def _cities(access: Sequence[PartyId], others: Sequence[PartyId], order: Sequence[PartyId]) -> tuple[City, ...]:
    """A city at each access node and at some relays; provinces are runs of cities in the order of the nodes."""
    inhabited = [manager for manager in order if manager in access or manager in others]
    return tuple(
        City(f"city-{number + 1:02}", f"province-{number * PROVINCES // len(inhabited) + 1:02}", manager)
        for number, manager in enumerate(inhabited)
    )


def _metro(draw: _Draw, number: int, gateway: PartyId) -> Metro:
    """A ring of three to six further key managers, over links of 5 to 25 km."""
    managers = tuple(PartyId(f"km/metro-{number:02}-{one}") for one in range(1, draw.within(3, 6) + 1))
    ring = pairwise([gateway, *managers, gateway])
    links = tuple(synthesised_link(_name(one, other), one, other, draw.within(5, 25)) for one, other in ring)
    return Metro(f"metro-{number:02}", gateway, managers, links)


# --- a province -----------------------------------------------------------------------------------------------------

PROVINCE_CITIES: Final = ("jinan", "zibo", "weifang", "qingdao", "yantai", "rizhao", "linyi", "taian")
PROVINCE_RELAYS: Final = ("pingdu", "laiyang", "yishui")
_PROVINCE_KM: Final = (
    ("jinan", "zibo", 95),
    ("zibo", "weifang", 92),
    ("weifang", "pingdu", 68),
    ("pingdu", "qingdao", 88),
    ("pingdu", "laiyang", 64),
    ("laiyang", "yantai", 96),
    ("laiyang", "qingdao", 98),
    ("qingdao", "rizhao", 98),
    ("rizhao", "linyi", 97),
    ("linyi", "yishui", 84),
    ("yishui", "weifang", 97),
    ("yishui", "zibo", 98),
    ("linyi", "taian", 99),
    ("taian", "jinan", 66),
)


def province() -> Topology:
    """Return the sample province: eight cities and three relays, named after places in Shandong.

    The names are all that is real of it. Yantai hangs on one link; between any other two cities there are two disjoint
    ways at least.
    """
    managers = tuple(PartyId(f"km/{name}") for name in (*PROVINCE_CITIES, *PROVINCE_RELAYS))
    links = (synthesised_link(f"{a}-{b}", PartyId(f"km/{a}"), PartyId(f"km/{b}"), km) for a, b, km in _PROVINCE_KM)
    return Topology(managers, tuple(links))
