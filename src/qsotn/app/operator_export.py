"""What the key managers of a running province look like to an SDN controller (ETSI GS QKD 015): asked, not assumed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from qsotn import __version__
from qsotn.app.operator import Operator
from qsotn.app.plan import Plan
from qsotn.app.routes import next_hops
from qsotn.domain import PartyId, Role, role_of
from qsotn.parties.qssp import LineService
from qsotn.service.http.operations_km import LinkSupply, PoolSupply
from qsotn.service.interoperation.etsi015 import ApplicationView, LinkView, NodeView, document

KEYS_A_REKEYING: Final = 2
"""A line takes a key for each direction, of 256 bits."""
KEY_BITS: Final = 256


@dataclass(frozen=True, slots=True)
class Supplies:
    """What one key manager tells of itself."""

    party: PartyId
    links: Sequence[LinkSupply]
    pools: Sequence[PoolSupply]


async def export(operator: Operator, plan: Plan) -> list[dict[str, Any]]:
    """Return the instance data of every key manager, by name. Raises `LineError` if one cannot be asked."""
    kms = sorted(party for party in operator.parties if role_of(party) is Role.KM)
    qssps = sorted(party for party in operator.parties if role_of(party) is Role.QSSP)
    supplies = await asyncio.gather(*(_supplies(operator, km) for km in kms))
    lines = await asyncio.gather(*(operator.every(qssp, "/services", LineService) for qssp in qssps))
    served = {_km_of(qssp): of_one for qssp, of_one in zip(qssps, lines, strict=True)}
    ends = [(PartyId(f"km/{link.ends[0]}"), PartyId(f"km/{link.ends[1]}")) for link in plan.qkd_links]
    hops = next_hops(ends)
    return [document(node_view(one, served.get(one.party, []), hops.get(one.party, {}))) for one in supplies]


async def _supplies(operator: Operator, km: PartyId) -> Supplies:
    links, pools = await asyncio.gather(
        operator.every(km, "/links", LinkSupply), operator.every(km, "/pools", PoolSupply)
    )
    return Supplies(km, links, pools)


def node_view(told: Supplies, lines: Sequence[LineService], hops: Mapping[PartyId, PartyId]) -> NodeView:
    """Put together what a key manager told, the lines of its city, and its next hop towards every other."""
    neighbours = {link.neighbour: link.link for link in told.links}
    applications = [_line(line, told.party, neighbours, hops) for line in lines]
    links = (*(_link(one, applications) for one in told.links), *_virtual(told, applications, hops))
    return NodeView(told.party, __version__, told.party.partition("/")[2], True, links, tuple(applications))


def _line(
    line: LineService, km: PartyId, neighbours: Mapping[PartyId, str], hops: Mapping[PartyId, PartyId]
) -> ApplicationView:
    remote = _km_of(line.peer_qssp)
    hop = hops.get(remote)
    backing = [neighbours[hop]] if hop is not None and hop in neighbours else []
    if remote != km and remote not in neighbours:
        backing.append(virtual_name(km, remote))
    return ApplicationView(
        name=line.line,
        server=f"urn:qsotn:{_qssp_of(km)}",
        clients=(f"urn:qsotn:{line.peer_qssp}",),
        remote=remote,
        connected=line.confirmed,
        least_bps=KEYS_A_REKEYING * KEY_BITS / line.rekey_interval_s,
        links=tuple(backing),
    )


def _link(one: LinkSupply, applications: Iterable[ApplicationView]) -> LinkView:
    rate = one.block_bits_s
    return LinkView(
        name=one.link,
        remote=one.neighbour,
        available_bits=one.available_bits,
        generates=one.blocks > 0 and one.available_bits > 0,
        rate_bps=rate,
        consumed_bps=_consumed(one.link, applications),
        qber=one.qber,
    )


def _virtual(
    told: Supplies, applications: Sequence[ApplicationView], hops: Mapping[PartyId, PartyId]
) -> list[LinkView]:
    """Links to key managers that are no neighbours: those with ready keys, and those that lines take keys with."""
    ready: dict[PartyId, int] = defaultdict(int)
    for pool in told.pools:
        ready[pool.target if pool.origin == told.party else pool.origin] += pool.ready_bits
    direct = {told.party, *(link.neighbour for link in told.links)}
    remotes = sorted({*ready, *(one.remote for one in applications)} - direct)
    return [_virtual_link(told.party, remote, ready[remote], applications, hops) for remote in remotes]


def _virtual_link(
    km: PartyId,
    remote: PartyId,
    ready_bits: int,
    applications: Sequence[ApplicationView],
    hops: Mapping[PartyId, PartyId],
) -> LinkView:
    name = virtual_name(km, remote)
    needed = _consumed(name, applications)
    return LinkView(
        name=name,
        remote=remote,
        available_bits=ready_bits,
        generates=ready_bits > 0,
        virtual=True,
        consumed_bps=needed,
        hops=tuple(hop for hop in (hops.get(remote),) if hop is not None),
        required_bps=needed,
    )


def virtual_name(one: PartyId, other: PartyId) -> str:
    """Return the name of the virtual link of two key managers, the same at both."""
    return "~".join(sorted((one, other)))


def _consumed(link: str, applications: Iterable[ApplicationView]) -> float:
    return sum(one.least_bps or 0.0 for one in applications if link in one.links)


def _km_of(qssp: PartyId) -> PartyId:
    return PartyId(f"{Role.KM}/{qssp.partition('/')[2]}")


def _qssp_of(km: PartyId) -> PartyId:
    return PartyId(f"{Role.QSSP}/{km.partition('/')[2]}")
