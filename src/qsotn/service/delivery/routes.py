"""Over which ways a key manager supplies its pools: the best that it knows of (`keynetwork.widths`).

It goes by what is known of pools, rates and error rates (`knowledge`), and by what its own supplies met: one that
failed names the link it failed at (`parties.km_pool.Batch.link`), and that link is left out for a while, and for longer
if it was left out before; if it is none of its way, the first one of that is left out instead. To avoid a link is a
preference: if there is no other way, it is used all the same, and that is told. Only a link with more errors than any
key may be made of is never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog

from qsotn.domain import PartyId
from qsotn.errors import Refusal
from qsotn.keynetwork.choosing import Path, best_neighbour, best_way, links_of, with_barred
from qsotn.keynetwork.disjoint import disjoint_paths
from qsotn.keynetwork.failures import Failures
from qsotn.keynetwork.pool import UNIT_BITS
from qsotn.keynetwork.relay import Mode, hindered_at
from qsotn.keynetwork.topology import Link, Topology
from qsotn.keynetwork.widths import COMMON_READY_KEYS, UNKNOWN, Avoided, Measured, Needs, Wanted, reasons
from qsotn.parties.link_knowledge import NOTHING, Known

BARRED: Final = "BARRED"
"""Beside the reasons of `Avoided`: on no way at all."""
FEWEST_UNITS: Final = 8
"""Of a supply: smaller ones are not worth their signatures."""
REFILLED_PARTS: Final = 4
"""In how many supplies a whole pool is filled: of so many parts one must be gone before more is asked for, as every
supply is signed at every hop."""
_log = structlog.get_logger("keys")


def _needs(own: PartyId, mode: Mode, ready_keys: int) -> Needs:
    """Return what supplies take: units of the origin's own links, and of all others as much as the mode pads with."""
    pads = REFILLED_PARTS * mode.pad_units(max(1, ready_keys // REFILLED_PARTS))
    others = Wanted(mode.pad_units(FEWEST_UNITS) * UNIT_BITS, pads * UNIT_BITS)
    return Needs(own, Wanted(FEWEST_UNITS * UNIT_BITS, ready_keys * UNIT_BITS), others)


class Routes:
    """The ways from one key manager. Times in microseconds since the epoch."""

    def __init__(
        self,
        own: PartyId,
        links: Mapping[str, tuple[PartyId, PartyId]],
        shares: int = 1,
        mode: Mode = Mode.ONE_TIME_PAD,
        ready_keys: int = COMMON_READY_KEYS,
    ) -> None:
        """`links` are those of the whole network, by name; without any, every hop follows its own table.

        `shares` is over how many node-disjoint ways a key is spread, `ready_keys` how many units fill a pool, `mode`
        how they cross a link. Raises `UsageError` for links that are no network.
        """
        self._own = own
        self._shares = shares
        self._needs = _needs(own, mode, ready_keys)
        self._known: Known = NOTHING
        self._failures: dict[str, Failures] = {}
        self._used: dict[PartyId, Path] = {}
        self._forced: set[PartyId] = set()
        managers = tuple(sorted({own, *(end for ends in links.values() for end in ends)}))
        self._topology = Topology(managers, tuple(Link(name, ends) for name, ends in links.items()))

    # --- what is known ----------------------------------------------------------------------------------------------

    def know(self, known: Known) -> None:
        """Go by this from now on."""
        self._known = known

    def failed(self, link: str, now: int) -> None:
        """Leave a link out for a while: a supply failed at it. One that is not in this network is not remembered."""
        if link in self._topology.by_name:
            self._failures[link] = self._failures.get(link, Failures()).failed(now)

    def refused(self, link: str, now: int) -> None:
        """Leave a link out for which a relay refused, as it shows too many errors; like `failed`."""
        if link in self._topology.by_name:
            self._failures[link] = self._failures.get(link, Failures()).refused(now)

    def held_against(self, way: Path, detail: str) -> str:
        """Return the link that a refusal counts against: the one it names, or the first of the way if it names another.

        That is one that the way does not cross, or that does not end at whoever is said to have refused for it.
        """
        link, party = hindered_at(detail)
        crossed = self._links_of(way)
        if not crossed or (link in crossed and party in self._topology.by_name[link].ends):
            return link
        return crossed[0]

    def short(self, ways: Sequence[Path], now: int) -> None:
        """Leave this key manager's own link out at which a supply over these ways found too few bits to begin.

        Of several ways nobody says which link that is, and none is left out.
        """
        for link in self._links_of(ways[0][:2]) if len(ways) == 1 else ():
            self.failed(link, now)

    def crossed(self, ways: Iterable[Path]) -> None:
        """Use the links of some ways as before any failure: a supply has crossed them."""
        for link in (link for way in ways for link in self._links_of(way)):
            self._failures.pop(link, None)

    def hindered(self, now: int) -> dict[str, tuple[str, ...]]:
        """Return the links that are avoided or barred now, by name, each with its reasons."""
        found = {link.name: self._why(link, self._measured(link.name, now)) for link in self._topology.links}
        return {link: told for link, told in found.items() if told}

    def _why(self, link: Link, measured: Measured) -> tuple[str, ...]:
        barred = (BARRED,) if measured.barred else ()
        return (*(reason.name for reason in sorted(reasons(measured, self._needs.of(link)))), *barred)

    def _measured(self, link: str, now: int) -> Measured:
        known, failures = self._known.get(link, UNKNOWN), self._failures.get(link)
        return known.also(Avoided.FAILED) if failures is not None and now < failures.until else known

    def _links_of(self, way: Path) -> list[str]:
        return links_of(self._topology, way)

    # --- ways -------------------------------------------------------------------------------------------------------

    def ways(self, target: PartyId, now: int) -> tuple[Path, ...]:
        """Return the ways of the next supply, each from end to end; none where every hop follows its own table.

        For a pool of this key manager's own, the way is to the neighbour whose link gives the bits.

        Raises `Refusal` NO_ROUTE, or TOO_FEW_PATHS where so many disjoint ones do not exist at all.
        """
        if not self._topology.links or (target == self._own and not self._known):
            return ()
        known = {link.name: self._measured(link.name, now) for link in self._topology.links}
        if target == self._own:
            ways = self._local(known)
        else:
            ways = self._single(target, known) if self._shares == 1 else self._several(target, known)
        self._tell_forced(target, known, ways)
        return ways

    def _single(self, target: PartyId, known: Known) -> tuple[Path, ...]:
        way = best_way(self._topology, known, self._needs, target, self._used.get(target, ()))
        self._used[target] = way
        return (way,)

    def _local(self, known: Known) -> tuple[Path, ...]:
        """Return the neighbour over whose link a pool of this key manager's own is supplied."""
        return ((self._own, best_neighbour(self._topology, known, self._needs)),)

    def _several(self, target: PartyId, known: Known) -> tuple[Path, ...]:
        barred = {name for name, one in known.items() if one.barred}
        avoided = {link.name for link in self._topology.links if self._why(link, known[link.name])}
        try:
            return disjoint_paths(self._topology.without(barred | avoided), self._own, target, self._shares)
        except Refusal:
            try:
                return disjoint_paths(self._topology.without(barred), self._own, target, self._shares)
            except Refusal as refusal:
                raise with_barred(refusal, known) from refusal

    def _tell_forced(self, target: PartyId, known: Known, ways: Iterable[Path]) -> None:
        """Say once when the best way has a link that is to be avoided, and once when it has none any more."""
        crossed = [link for way in ways for link in self._links_of(way)]
        why = {link: told for link in crossed if (told := self._why(self._topology.by_name[link], known[link]))}
        if why and target not in self._forced:
            shown = ", ".join(f"{link} ({', '.join(told)})" for link, told in why.items())
            _log.warning("supplies cross links that are to be avoided", target=target, links=shown)
            self._forced.add(target)
        elif not why and target in self._forced:
            _log.info("supplies cross no link that is to be avoided", target=target)
            self._forced.discard(target)
