"""Topologies as files: read, written, and the reference ones; and the topology of a province that runs.

A topology file is TOML: the names of key managers, and a table for each link with its length, rate, QBER and pool. The
reference topologies are made by `qsotn.keynetwork.synthesis` and labelled as synthesised in the first lines of every
file. `province.toml` here is a province for `qsotn up --province`, of the same cities and links as the topology.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from qsotn.app.plan import Plan
from qsotn.domain import PartyId
from qsotn.errors import UsageError
from qsotn.keynetwork import synthesis
from qsotn.keynetwork.topology import Link, Topology
from qsotn.service.toml_file import read_toml, write_toml

NAMES: Final = ("national", "backbone", "province", "province-plan")
"""What `reference_text` writes; the last is a province file, the others are topology files."""

_BACKBONE: Final = f"""\
SYNTHESISED. No link here is a real one: its totals are those published of China's CN-QCN (npj Quantum Information
2025, doi 10.1038/s41534-025-01089-8): {synthesis.BACKBONE_NODES} backbone nodes and {synthesis.BACKBONE_LINKS} links \
of {synthesis.BACKBONE_KM} km in all.
Lengths are drawn from seed {{seed}}; rates, QBER and pools follow from them by the models of
qsotn.keynetwork.synthesis.
"""
_NATIONAL: Final = f"""\
{_BACKBONE}With {synthesis.METROS} metropolitan rings, which are drawn from the seed altogether.
"""
_PROVINCE: Final = """\
SYNTHESISED. The names are of places in Shandong; the links, their lengths, rates, QBER and pools are nobody's.
"""


class LinkTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link in a topology file, its ends as names of key managers without `km/`."""

    name: str
    ends: tuple[str, str]
    length_km: float = 0.0
    rate_bits_s: int = 0
    qber: float = 0.0
    pool_bits: int = 0
    up: bool = True


class TopologyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A topology file."""

    key_managers: tuple[str, ...]
    links: tuple[LinkTable, ...] = msgspec.field(name="link", default=())


def read_topology(path: Path) -> Topology:
    """Read a topology file. Raises `UsageError`: what is wrong, where, and what would be right."""
    file = read_toml(path, TopologyFile)
    try:
        return Topology(tuple(map(_manager, file.key_managers)), tuple(map(_link, file.links)))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def topology_text(topology: Topology, heading: str) -> str:
    """Return a topology as a file; `heading` becomes its first comment."""
    names = [_bare(manager) for manager in topology.managers]
    return write_toml({"key_managers": names, "link": [_table(link) for link in topology.links]}, heading)


def topology_of(plan: Plan) -> Topology:
    """Return the key managers and links of a province file, of whose rates and pools nothing is known yet."""
    return Topology(plan.kms, tuple(Link(name, ends) for name, ends in plan.links.items()))


def reference_text(name: str, seed: int = synthesis.SEED) -> str:
    """Return a reference topology as a file; `seed` changes the national ones. Raises `UsageError` for no such name."""
    match name:
        case "national":
            return topology_text(synthesis.national(seed).whole, _NATIONAL.format(seed=seed))
        case "backbone":
            return topology_text(synthesis.national(seed).backbone, _BACKBONE.format(seed=seed))
        case "province":
            return topology_text(synthesis.province(), _PROVINCE)
        case "province-plan":
            return write_toml(_province_plan(), _PROVINCE)
    raise UsageError(f"there is no reference topology {name!r}; there are {', '.join(NAMES)}")


def province_file() -> Path:
    """Return the province file that ships with the package: `qsotn up --province` takes it."""
    return Path(__file__).with_name("province.toml")


def _province_plan() -> Mapping[str, Any]:
    """Eight cities with a device in each, every two of which have a fibre between them."""
    cities = synthesis.PROVINCE_CITIES
    return {
        "name": "shandong",
        "city": [{"name": name} for name in cities],
        "relay": [{"name": name} for name in synthesis.PROVINCE_RELAYS],
        "link": [{"name": link.name, "ends": [_bare(end) for end in link.ends]} for link in synthesis.province().links],
        "cpe": [
            {"name": f"{name}-1", "city": name, "serial_number": f"QS-2026-{number:06}"}
            for number, name in enumerate(cities, 1)
        ],
        "fibre": [{"ends": [f"{one}-1", f"{other}-1"]} for one, other in zip(cities[:4], cities[4:], strict=True)],
    }


def _manager(name: str) -> PartyId:
    return PartyId(f"km/{name}")


def _bare(manager: PartyId) -> str:
    return manager.partition("/")[2]


def _link(table: LinkTable) -> Link:
    ends = (_manager(table.ends[0]), _manager(table.ends[1]))
    return Link(table.name, ends, table.rate_bits_s, table.pool_bits, table.length_km, table.qber, table.up)


def _table(link: Link) -> Mapping[str, Any]:
    told = {
        "name": link.name,
        "ends": [_bare(end) for end in link.ends],
        "length_km": link.length_km,
        "rate_bits_s": link.rate_bits_s,
        "qber": link.qber,
        "pool_bits": link.pool_bits,
    }
    return told if link.up else {**told, "up": False}
