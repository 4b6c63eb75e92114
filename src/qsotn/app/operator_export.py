"""What the key managers of a running province look like to an SDN controller (ETSI GS QKD 015): asked, not assumed.

Rates are those that the QKMP saw: averages over the last ten minutes, or over as long as it looks (`NetworkRate`). A
link's `skr` is what its two ends agreed on in that time, that of a virtual link what came to the pool of ready keys.
Before the QKMP has looked at a link for `LEAST_S` there is no rate of it.

Applications are lines, which need what their rekey interval says; streams of key, which need what they were promised;
and SAEs, which take what they take. So a link's `expected_consumption` is what lines need, and what SAEs and streams
took of the pools that use it, or were promised, whichever is more; and no less than what both its ends allocated.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from qsotn import __version__
from qsotn.app.operator import Operator
from qsotn.app.operator_network import qkmp_of
from qsotn.app.plan import Plan
from qsotn.app.routes import next_hops
from qsotn.domain import PartyId, Role, role_of
from qsotn.parties.network_alarms import link_subject
from qsotn.parties.qssp import LineService
from qsotn.service.http.operations_km import LinkSupply, PoolSupply
from qsotn.service.http.operations_rates import NetworkRate
from qsotn.service.interoperation.etsi004_messages import StreamReport
from qsotn.service.interoperation.etsi015 import ApplicationView, LinkView, NodeView, document

KEYS_A_REKEYING: Final = 2
"""A line takes a key for each direction, of 256 bits."""
KEY_BITS: Final = 256
LEAST_S: Final = 60.0
"""Over how long the QKMP must have looked for an average to be told."""


@dataclass(frozen=True, slots=True)
class Supplies:
    """What one key manager tells of itself."""

    party: PartyId
    links: Sequence[LinkSupply]
    pools: Sequence[PoolSupply]
    streams: Sequence[StreamReport] = ()


@dataclass(frozen=True, slots=True)
class Province:
    """What key managers are seen with: the rates of the QKMP, by what and whose they are, and where each SAE is."""

    rates: Mapping[tuple[str, PartyId], NetworkRate] = field(default_factory=dict)
    saes: Mapping[str, PartyId] = field(default_factory=dict)

    def gained(self, what: str, km: PartyId) -> float | None:
        """What something gained, bits per second; None if it was not watched for long enough."""
        rate = self.rates.get((what, km))
        return None if rate is None or rate.over_s < LEAST_S else rate.gained_bits_s

    def drawn(self, what: str, *kms: PartyId) -> float:
        """What was drawn of something at these key managers together, as far as it was watched."""
        return sum(rate.drawn_bits_s for km in kms if (rate := self.rates.get((what, km))) is not None)


async def export(operator: Operator, plan: Plan) -> list[dict[str, Any]]:
    """Return the instance data of every key manager, by name. Raises `LineError` if one, or the QKMP, cannot be asked.

    Raises `UsageError` for a province without a QKMP.
    """
    kms = sorted(party for party in operator.parties if role_of(party) is Role.KM)
    qssps = sorted(party for party in operator.parties if role_of(party) is Role.QSSP)
    rates = await operator.every(qkmp_of(operator), "/network/rates", NetworkRate)
    supplies = await asyncio.gather(*(_supplies(operator, km) for km in kms))
    lines = await asyncio.gather(*(operator.every(qssp, "/services", LineService) for qssp in qssps))
    served = {_km_of(qssp): of_one for qssp, of_one in zip(qssps, lines, strict=True)}
    around = Province({(one.what, one.km): one for one in rates}, _sae_homes(plan))
    ends = [(PartyId(f"km/{link.ends[0]}"), PartyId(f"km/{link.ends[1]}")) for link in plan.qkd_links]
    hops = next_hops(ends)
    return [document(node_view(one, served.get(one.party, []), hops.get(one.party, {}), around)) for one in supplies]


async def _supplies(operator: Operator, km: PartyId) -> Supplies:
    links, pools, streams = await asyncio.gather(
        operator.every(km, "/links", LinkSupply),
        operator.every(km, "/pools", PoolSupply),
        operator.every(km, "/streams", StreamReport),
    )
    return Supplies(km, links, pools, streams)


def _sae_homes(plan: Plan) -> dict[str, PartyId]:
    """Return where each SAE is; those of other operators count as attached at the border."""
    foreign = {} if plan.border is None or plan.border_km is None else dict.fromkeys(plan.border.saes, plan.border_km)
    return {**plan.sae_homes, **foreign}


def node_view(
    told: Supplies, lines: Sequence[LineService], hops: Mapping[PartyId, PartyId], around: Province
) -> NodeView:
    """Put together what a key manager told, the lines of its city, its next hop towards every other, and its SAEs."""
    backed = _Backing(told, hops)
    of_lines = [_line(line, told.party, backed) for line in lines]
    of_streams = [_stream(one, backed) for one in told.streams]
    applications = (*of_lines, *of_streams, *_saes(told.party, around.saes, backed))
    needed = _needed(told, of_lines, of_streams, backed, around)
    links = (
        *(_link(one, told.party, needed, around) for one in told.links),
        *_virtual(told, applications, hops, needed, around),
    )
    return NodeView(told.party, __version__, told.party.partition("/")[2], True, links, applications)


class _Backing:
    """Over which links of a node keys with another one come."""

    def __init__(self, told: Supplies, hops: Mapping[PartyId, PartyId]) -> None:
        self._own, self._hops = told.party, hops
        self._neighbours = {link.neighbour: link.link for link in told.links}

    def of(self, remote: PartyId) -> tuple[str, ...]:
        """Return the first link of the way, and the virtual link, if the other one is no neighbour."""
        if remote == self._own:
            return ()
        hop = self._hops.get(remote)
        first = (self._neighbours[hop],) if hop is not None and hop in self._neighbours else ()
        return first if remote in self._neighbours else (*first, virtual_name(self._own, remote))


def _line(line: LineService, km: PartyId, backed: _Backing) -> ApplicationView:
    remote = _km_of(line.peer_qssp)
    return ApplicationView(
        name=line.line,
        server=f"urn:qsotn:{_qssp_of(km)}",
        clients=(f"urn:qsotn:{line.peer_qssp}",),
        remote=remote,
        connected=line.confirmed,
        least_bps=KEYS_A_REKEYING * KEY_BITS / line.rekey_interval_s,
        links=backed.of(remote),
    )


def _stream(one: StreamReport, backed: _Backing) -> ApplicationView:
    """A stream of ETSI GS QKD 004; 0 of its quality of service leaves a parameter open."""
    return ApplicationView(
        name=f"stream {one.stream}",
        server=_sae_uri(one.source),
        clients=(_sae_uri(one.destination),),
        remote=one.km,
        connected=one.connected,
        priority=one.qos.priority,
        most_bps=one.qos.max_bps or None,
        least_bps=one.qos.min_bps or None,
        jitter_ms=one.qos.jitter or None,
        ttl_s=one.qos.ttl or None,
        links=backed.of(one.km),
    )


def _saes(km: PartyId, homes: Mapping[str, PartyId], backed: _Backing) -> Iterator[ApplicationView]:
    """An SAE with all others at one key manager, for it may ask for keys with any (ETSI GS QKD 014)."""
    for sae in sorted(name for name, home in homes.items() if home == km):
        for remote in sorted(set(homes.values())):
            clients = tuple(_sae_uri(name) for name, home in sorted(homes.items()) if home == remote and name != sae)
            if clients:
                name = f"sae {sae} {remote}"
                yield ApplicationView(name, _sae_uri(sae), clients, remote, None, links=backed.of(remote))


def _sae_uri(sae: str) -> str:
    return f"urn:qsotn:sae/{quote(sae, safe='')}"


def _needed(
    told: Supplies,
    lines: Iterable[ApplicationView],
    streams: Sequence[ApplicationView],
    backed: _Backing,
    around: Province,
) -> Mapping[str, float]:
    """Return what applications need or take of each link, bits per second."""
    needed: dict[str, float] = defaultdict(float)
    for line in lines:
        for name in line.links:
            needed[name] += line.least_bps or 0.0
    promised: dict[PartyId, float] = defaultdict(float)
    for stream in streams:
        promised[stream.remote] += stream.least_bps or 0.0
    for remote in {*promised, *(pool.target for pool in told.pools if pool.origin == told.party)}:
        taken = around.drawn(_pool_name(told.party, remote), told.party)
        for name in backed.of(remote):
            needed[name] += max(taken, promised[remote])
    return needed


def _link(one: LinkSupply, km: PartyId, needed: Mapping[str, float], around: Province) -> LinkView:
    what = link_subject(one.link)
    return LinkView(
        name=one.link,
        remote=one.neighbour,
        available_bits=one.available_bits,
        generates=one.blocks > 0 and one.available_bits > 0,
        rate_bps=around.gained(what, km),
        consumed_bps=max(needed.get(one.link, 0.0), around.drawn(what, km, one.neighbour)),
        qber=one.qber,
    )


def _virtual(
    told: Supplies,
    applications: Sequence[ApplicationView],
    hops: Mapping[PartyId, PartyId],
    needed: Mapping[str, float],
    around: Province,
) -> list[LinkView]:
    """Links to key managers that are no neighbours: those with ready keys, and those that applications have."""
    ready: dict[PartyId, int] = defaultdict(int)
    for pool in told.pools:
        ready[pool.target if pool.origin == told.party else pool.origin] += pool.ready_bits
    direct = {told.party, *(link.neighbour for link in told.links)}
    remotes = sorted({*ready, *(one.remote for one in applications)} - direct)
    return [_virtual_link(told.party, remote, ready[remote], hops.get(remote), needed, around) for remote in remotes]


def _virtual_link(
    km: PartyId,
    remote: PartyId,
    ready_bits: int,
    hop: PartyId | None,
    needed: Mapping[str, float],
    around: Province,
) -> LinkView:
    name = virtual_name(km, remote)
    return LinkView(
        name=name,
        remote=remote,
        available_bits=ready_bits,
        generates=ready_bits > 0,
        virtual=True,
        rate_bps=around.gained(_pool_name(km, remote), km),
        consumed_bps=needed.get(name, 0.0),
        hops=() if hop is None else (hop,),
        required_bps=needed.get(name, 0.0),
    )


def virtual_name(one: PartyId, other: PartyId) -> str:
    """Return the name of the virtual link of two key managers, the same at both."""
    return "~".join(sorted((one, other)))


def _pool_name(origin: PartyId, target: PartyId) -> str:
    return f"pool {origin}>{target}"


def _km_of(qssp: PartyId) -> PartyId:
    return PartyId(f"{Role.KM}/{qssp.partition('/')[2]}")


def _qssp_of(km: PartyId) -> PartyId:
    return PartyId(f"{Role.QSSP}/{km.partition('/')[2]}")
