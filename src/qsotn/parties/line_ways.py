"""Over which way a supply for a leased line goes, and the bits it begins with: chosen as for ready pools.

The QKMP tells how the network's links stand and between whom they are (`link_sights`); what this key manager sees of
its own links it knows better (`link_knowledge`). While it is told nothing, each hop follows its own table, unless what
it has seen itself speaks against that: then the network as it was told last shows the way round.

What a supply was refused for is kept for as long as the link is to be left out (`keynetwork.failures`). All of it lies
in the store, so that every replica goes by it, and a restart too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec

from qsotn.domain import PartyId, Secret
from qsotn.errors import KeyShortage, Refusal
from qsotn.keynetwork import pool
from qsotn.keynetwork.choosing import Path, best_way, links_of
from qsotn.keynetwork.failures import Failures
from qsotn.keynetwork.relay import hindered_at, hindrance, lies_ahead
from qsotn.keynetwork.topology import Link, Topology
from qsotn.keynetwork.widths import COMMON_READY_KEYS, UNKNOWN, Avoided, Needs, Wanted, rank
from qsotn.messages import KeyRelay
from qsotn.parties import link_sights
from qsotn.parties.desk import Collection as Records
from qsotn.parties.desk import Desk
from qsotn.parties.km import Allocation, Km
from qsotn.parties.link_knowledge import Known, known_links
from qsotn.parties.link_light import is_barred

MOST_ON_A_WAY: Final = 256
"""Key managers on one way."""


class WayInUse(msgspec.Struct, frozen=True):
    """The way that the last supply to a key manager was given."""

    managers: Path


def ways_in_use(desk: Desk) -> Records[WayInUse]:
    """The ways of the last supplies, by their targets."""
    return desk.collection("line-ways", WayInUse)


def failures(desk: Desk) -> Records[Failures]:
    """What supplies for lines failed at, by link."""
    return desk.collection("line-failures", Failures)


@dataclass(frozen=True, repr=False)
class Begun:
    """The bits that a supply begins with, the neighbour over whose link, and the way, if the origin chose it."""

    link: str
    hop: PartyId
    way: Path
    taken: Allocation
    keys: list[Secret]


# --- at the origin --------------------------------------------------------------------------------------------------


def begin(km: Km, target: PartyId, number: int, size: int, refused: Collection[str] = ()) -> Begun:
    """Take keys of the first link of the best way to a target; where it has too few bits, of the next best way's.

    `refused` are links for which earlier attempts failed: only a chosen way round them serves. Raises `KeyShortage`,
    `Refusal` NO_ROUTE or LINK_BARRED.
    """
    if target == km.desk.party:
        return _begin_here(km, number, size)
    dry: set[str] = set()
    while True:
        way = choose(km, target, pool.units_for(number, size), dry, refused)
        link, hop = (km.link_to(way[1]), way[1]) if way else km.link_towards(target)
        check_light(km, link)
        try:
            taken, keys = km.allocate(link, number, size)
        except KeyShortage:
            if not way or link in dry:
                raise
            dry.add(link)
            continue
        if way:
            _note_way(km.desk, target, way)
        return Begun(link, hop, way, taken, keys)


def _begin_here(km: Km, number: int, size: int) -> Begun:
    """Take keys that stay in this city, of the best of its links that has them."""
    known, wanted = known_links(km), _wanted(pool.units_for(number, size))
    usable = [link for link in km.configuration.links if not is_barred(km.desk, link)]
    if not usable and km.configuration.links:
        raise Refusal("LINK_BARRED", f"every link of {km.desk.party} shows more errors than any key may be made of")
    best = sorted(usable, key=lambda link: (rank(known[link], wanted), km.available_bits(link)), reverse=True)
    for link in best:
        try:
            taken, keys = km.allocate(link, number, size)
        except KeyShortage:
            continue
        return Begun(link, km.configuration.links[link], (), taken, keys)
    raise KeyShortage(f"no link of {km.desk.party} has {number} keys of {size} bits")


def choose(km: Km, target: PartyId, units: int, dry: Collection[str] = (), refused: Collection[str] = ()) -> Path:
    """Return the way of the next supply to a target; none where every hop follows its own table.

    `dry` are links that have turned out to have too few bits, `refused` links that it may not cross. Raises `Refusal`
    NO_ROUTE.
    """
    sights = list(link_sights.fresh(km.desk))
    hindered = _hindered(km)
    barred = any(is_barred(km.desk, link) for link in km.configuration.links)
    if not (sights or hindered or barred):
        return ()
    known = _known(km, hindered, dry)
    topology = _network(km, known)
    wanted, used = _wanted(units), ways_in_use(km.desk).get(target)
    needs = Needs(km.desk.party, wanted, wanted)
    way: Path = ()
    if gone := [link for link in refused if link in topology.by_name]:
        topology = topology.without(gone)
    if target in topology.managers:
        way = best_way(topology, known, needs, target, () if used is None else used.managers)
    if refused and not 0 < len(way) <= MOST_ON_A_WAY:
        raise Refusal("NO_ROUTE", f"{km.desk.party} knows no way to {target} but over {', '.join(refused)}")
    return way if len(way) <= MOST_ON_A_WAY else ()


def _wanted(units: int) -> Wanted:
    return Wanted(units * pool.UNIT_BITS, COMMON_READY_KEYS * pool.UNIT_BITS)


def _hindered(km: Km) -> set[str]:
    return {link for link, one in failures(km.desk).items() if km.desk.now < one.until}


def _known(km: Km, hindered: Collection[str], dry: Collection[str]) -> Known:
    known = known_links(km)
    for reason, links in ((Avoided.FAILED, hindered), (Avoided.DRY, dry)):
        known |= {link: known.get(link, UNKNOWN).also(reason) for link in links}
    return known


def _links(km: Km) -> dict[str, tuple[PartyId, PartyId]]:
    """Return the ends of each link, as told last; of its own links this key manager believes nobody."""
    own = km.desk.party
    pages = list(link_sights.fresh(km.desk)) or list(link_sights.kept(km.desk))
    told = (one for page in pages for one in page.told.links)
    others = {one.link: one.ends for one in told if own not in one.ends and one.ends[0] != one.ends[1]}
    return others | {link: (own, far) for link, far in km.configuration.links.items()}


def _network(km: Km, known: Known) -> Topology:
    """Return the network as far as links join it to this key manager, of several between two the one with most bits."""
    own = km.desk.party
    ends = _links(km)
    best: dict[frozenset[PartyId], str] = {}
    for link, pair in ends.items():
        before = best.setdefault(frozenset(pair), link)
        best[frozenset(pair)] = max(before, link, key=lambda name: _worth(known, name))
    return _joined_to(own, [Link(name, ends[name]) for name in best.values()])


def _worth(known: Known, link: str) -> tuple[bool, int, str]:
    measured = known.get(link, UNKNOWN)
    return not measured.barred, measured.pool_bits or 0, link


def _joined_to(own: PartyId, links: Iterable[Link]) -> Topology:
    """Return the piece of a network that a key manager is in."""
    near: dict[PartyId, list[Link]] = {own: []}
    for link in links:
        for end in link.ends:
            near.setdefault(end, []).append(link)
    reached, waiting = {own}, [own]
    for one in waiting:  # grows while it is read
        fresh = {link.far(one) for link in near[one]} - reached
        reached |= fresh
        waiting += sorted(fresh)
    found = {link.name: link for one in sorted(reached) for link in near[one]}
    return Topology(tuple(sorted(reached)), tuple(found.values()))


def _note_way(desk: Desk, target: PartyId, way: Path) -> None:
    ways, used = ways_in_use(desk), WayInUse(way)
    if ways.get(target) != used:
        ways.put(target, used)


def is_ahead(km: Km, detail: str, link: str, way: Path, *, first: bool) -> bool:
    """Return whether the link that a refusal names can be ahead of a supply that went on over `link`.

    Only whoever is `first`, and chose the way, holds it against the network that it knows, too.
    """
    if not lies_ahead(detail, km.desk.party, link, km.configuration.links, way):
        return False
    named, party = hindered_at(detail)
    if named == link or not (first and way):
        return True
    ends = _links(km).get(named, ())
    return party in ends and set(ends) in [set(pair) for pair in pairwise(way)]


def is_at(km: Km, link: str, party: PartyId) -> bool:
    """Return whether a link is known to end at a key manager."""
    return party in _links(km).get(link, ())


def note_refusal(km: Km, code: str, link: str) -> bool:
    """Leave a link out for a while that a supply was refused for; return whether it is known to be one at all."""
    is_link, kept = link in _links(km), failures(km.desk)
    if is_link:
        kept.put(link, (kept.get(link) or Failures()).after(code, km.desk.now))
    return is_link


def note_crossed(km: Km, path: Path) -> None:
    """Use the links of a way as before any failure: a supply has crossed them."""
    failed = list(failures(km.desk).items())
    if failed:
        crossed = links_of(_network(km, known_links(km)), path)
        for link in (link for link, _ in failed if link in crossed):
            failures(km.desk).delete(link)


# --- at a relay -----------------------------------------------------------------------------------------------------


def check_way(own: PartyId, asked: KeyRelay, sender: PartyId) -> None:
    """Check that a supply has gone the way that its origin chose, to here. Raises `Refusal` WRONG_WAY."""
    way, gone = asked.way, (*asked.path, own)
    if not way:
        return
    wrong = ""
    if len(way) > MOST_ON_A_WAY:
        wrong = f"a way has at most {MOST_ON_A_WAY} key managers, not {len(way)}"
    elif len(set(way)) != len(way):
        wrong = "it leads in a circle"
    elif way[-1] != asked.target:
        wrong = f"it ends at {way[-1]}, and the keys are for {asked.target}"
    elif gone[-2:-1] != (sender,) or way[: len(gone)] != gone:
        wrong = f"{sender} is not before {own} on it, as {', '.join(gone)} had the keys so far"
    if wrong:
        shown = ", ".join(way[:MOST_ON_A_WAY])
        raise Refusal("WRONG_WAY", hindrance(asked.link, own, f"{shown} is no way for these keys: {wrong}"))


def next_hop(km: Km, asked: KeyRelay) -> tuple[str, PartyId]:
    """Return the link and the neighbour to which keys are passed on. Raises `Refusal` NO_ROUTE or LINK_BARRED."""
    own = km.desk.party
    try:
        hop = asked.way[asked.way.index(own) + 1] if asked.way else None
        link, hop = km.link_towards(asked.target) if hop is None else (km.link_to(hop), hop)
    except Refusal as no:
        raise Refusal("NO_ROUTE", hindrance(asked.link, own, no.detail)) from no
    check_light(km, link)
    return link, hop


def check_light(km: Km, link: str) -> None:
    """Raise `Refusal` LINK_BARRED for a link that is used for nothing; who asked for it may not know yet."""
    if is_barred(km.desk, link):
        noise = f"{link} shows more errors than any key may be made of"
        raise Refusal("LINK_BARRED", hindrance(link, km.desk.party, noise))


def draw_pad(km: Km, link: str, number: int, size: int) -> tuple[Allocation, list[Secret]]:
    """Take the pads of keys that are passed on. Raises `Refusal` KEY_SHORTAGE, which names the link."""
    try:
        return km.allocate(link, number, size)
    except KeyShortage as error:
        raise Refusal("KEY_SHORTAGE", hindrance(link, km.desk.party, str(error))) from error
