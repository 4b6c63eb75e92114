"""The quantum key management platform: the province's view of its key network, and of which keys its cities share.

It manages the QSSPs and supervises Iqq. It sees key IDs and counts, never keys, and refuses a report that gives one
key ID to two generations: the mark of a key network that hands out a key twice.

Beside what is reported to it, it looks: it asks every key manager for its links and pools, and every QSSP for the
generations it has drawn. Here is what becomes of one such look (`network_readings`), and which alarms follow from it
(`network_alarms`). One record is kept for each end of a link, each pool and each end of a line, and a history of
bounded length, so that the store does not grow with time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from qsotn.domain import KeyId, LineId, PartyId
from qsotn.errors import Refusal, WrongParty
from qsotn.messages import SynchronisationReport
from qsotn.parties import network_alarms as alarms
from qsotn.parties.desk import Collection, Desk
from qsotn.parties.line_comparison import LineComparison, compare
from qsotn.parties.network_alarms import Alarm, Findings, Limits
from qsotn.parties.network_readings import (
    History,
    LineReading,
    LinkReading,
    Look,
    Point,
    PoolReading,
    Watched,
    link_point,
    pool_point,
)

R = TypeVar("R", LinkReading, PoolReading, LineReading)

MOST_CLEARED: Final = 200
"""Alarms that are kept after they cleared."""
_COMPARED: Final = 8


class QkmpConfiguration(msgspec.Struct, frozen=True):
    """The QSSPs this platform manages."""

    qssps: tuple[PartyId, ...]


class Synchronisation(msgspec.Struct, frozen=True):
    """One generation that two cities share."""

    line: LineId
    generation: int
    master: PartyId
    responder: PartyId
    key_ids: tuple[KeyId, ...]
    at: int


class Qkmp:
    """The QKMP at its desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @property
    def configuration(self) -> QkmpConfiguration:
        """The managed QSSPs."""
        return self.desk.collection("configuration", QkmpConfiguration).require("qkmp")

    @property
    def synchronisations(self) -> Collection[Synchronisation]:
        """Shared generations by `line/generation`."""
        return self.desk.collection("synchronisations", Synchronisation)

    @property
    def seen(self) -> Collection[str]:
        """Every key ID ever reported, with the line it went to."""
        return self.desk.collection("key-ids", str)

    def record(self, master: PartyId, report: SynchronisationReport) -> None:
        """Record what two managed QSSPs share. Raises `WrongParty` for a stranger, `Refusal` KEY_REUSED."""
        managed = self.configuration.qssps
        if master not in managed or report.peer not in managed:
            raise WrongParty(f"{master} and {report.peer} are not both managed by {self.desk.party}")
        for key_id in report.key_ids:
            used = self.seen.get(key_id)
            if used is not None:
                raise Refusal("KEY_REUSED", f"key {key_id} was already given to {used}")
            self.seen.put(key_id, f"{report.line}/{report.generation}")
        shared = Synchronisation(report.line, report.generation, master, report.peer, report.key_ids, self.desk.now)
        self.synchronisations.put(f"{report.line}/{report.generation:08}", shared)

    # --- what was seen ----------------------------------------------------------------------------------------------

    @property
    def watched(self) -> Collection[Watched]:
        """The parties that are asked, by identifier."""
        return self.desk.collection("watched", Watched)

    @property
    def links(self) -> Collection[LinkReading]:
        """The newest reading of each end of each link, by `link/km`."""
        return self.desk.collection("link-readings", LinkReading)

    @property
    def pools(self) -> Collection[PoolReading]:
        """The newest reading of each pool at each of its key managers, by `pool/km`."""
        return self.desk.collection("pool-readings", PoolReading)

    @property
    def line_ends(self) -> Collection[LineReading]:
        """The newest reading of each end of each line, by `line/end`."""
        return self.desk.collection("line-readings", LineReading)

    @property
    def histories(self) -> Collection[History]:
        """Histories by the key of their reading."""
        return self.desk.collection("reading-histories", History)

    @property
    def alarms(self) -> Collection[Alarm]:
        """Alarms that last, by subject and cause under `active/`, and the last that cleared under `cleared/`."""
        return self.desk.collection("network-alarms", Alarm)

    @property
    def suspicions(self) -> Collection[Alarm]:
        """What may yet become an alarm, by subject and cause."""
        return self.desk.collection("network-suspicions", Alarm)

    def history(self, reading: LinkReading | PoolReading) -> History:
        """Return the history of an end of a link, or of a pool."""
        return self.histories.get(reading.key) or History()

    def begin_look(self, interval_us: int) -> bool:
        """Say whether a look is due, and note that it begins: of several replicas, one looks."""
        looks = self.desk.collection("network-looks", int)
        if 0 <= self.desk.now - (looks.get("last") or 0) < interval_us:
            return False
        looks.put("last", self.desk.now)
        return True

    def note(self, look: Look, limits: Limits, span_us: int) -> None:
        """Keep what a look brought, extend the histories, and raise and clear alarms."""
        self._note_parties(look)
        self._replace(self.links, self._with_past(look.links), {*look.answered})
        self._replace(self.pools, self._pools_with_past(look.pools), {*look.answered})
        self._replace(self.line_ends, look.lines, {*look.answered})
        for link in look.links:
            self._extend(link.key, link_point(self._dated(link)), span_us)
        for pool in look.pools:
            self._extend(pool.key, pool_point(self._dated(pool)), span_us)
        self._note_alarms(self._findings(look, limits))

    def _note_parties(self, look: Look) -> None:
        asked = {*look.answered, *look.silent}
        for known in [one for one in self.watched.values() if one.party not in asked]:
            self._forget(known.party)
        for party in look.answered:
            self.watched.put(party, Watched(party, self.desk.now))
        for party, reason in look.silent.items():
            before = self.watched.get(party) or Watched(party)
            since = before.silent_since or self.desk.now
            self.watched.put(party, Watched(party, before.answered_at, since, reason))

    def _forget(self, party: PartyId) -> None:
        """Forget a party that is not asked any more, and all it told."""
        self.watched.delete(party)
        self._replace(self.links, (), {party})
        self._replace(self.pools, (), {party})
        self._replace(self.line_ends, (), {party})

    def _with_past(self, readings: Iterable[LinkReading]) -> list[LinkReading]:
        return [self._link_with_past(one, self.links.get(one.key)) for one in readings]

    def _link_with_past(self, told: LinkReading, known: LinkReading | None) -> LinkReading:
        if known is None:
            return told
        seen_at = self.desk.now if told.lost_bits > known.lost_bits else known.lost_seen_at
        return msgspec.structs.replace(told, agreed_before=known.agreed_bits, lost_seen_at=seen_at)

    def _pools_with_past(self, readings: Iterable[PoolReading]) -> list[PoolReading]:
        newest = {pair: max(one.series for one in told) for pair, told in self.newest_pools().items() if told}
        return [self._pool_with_past(one, newest.get((one.origin, one.target))) for one in readings]

    def _pool_with_past(self, told: PoolReading, newest: int | None) -> PoolReading:
        """`newest` is the series in use by the look before, if there was one."""
        if (known := self.pools.get(told.key)) is not None:
            past = {"all_before": known.all_bits, "gone_before": known.gone_bits, "began_at": known.began_at}
            return msgspec.structs.replace(told, **past)
        begins_anew = newest is not None and told.series > newest
        return msgspec.structs.replace(told, began_at=self.desk.now if begins_anew else 0)

    def _replace(self, kept: Collection[R], told: Iterable[R], tellers: set[PartyId]) -> None:
        """Put what some parties told in the place of all that they told before."""
        fresh = {one.key: self._dated(one) for one in told}
        for key, one in list(kept.items()):
            if _teller(one) in tellers and key not in fresh:
                kept.delete(key)
                self.histories.delete(key)
        for key, one in fresh.items():
            kept.put(key, one)

    def _dated(self, reading: R) -> R:
        return msgspec.structs.replace(reading, at=self.desk.now)

    def _extend(self, key: str, point: Point, span_us: int) -> None:
        self.histories.put(key, (self.histories.get(key) or History()).extended(point, span_us))

    # --- what is wrong ----------------------------------------------------------------------------------------------

    def by_link(self) -> dict[str, list[LinkReading]]:
        """Return the readings of each link's ends."""
        found: dict[str, list[LinkReading]] = defaultdict(list)
        for one in self.links.values():
            found[one.link].append(one)
        return dict(found)

    def newest_pools(self) -> dict[tuple[PartyId, PartyId], list[PoolReading]]:
        """Return, for each two key managers, the readings of the pool in use: the newest series its origin tells of."""
        found: dict[tuple[PartyId, PartyId], list[PoolReading]] = defaultdict(list)
        for one in self.pools.values():
            found[one.origin, one.target].append(one)
        return {pair: _in_use(told) for pair, told in found.items()}

    def compared(self, line: LineId) -> LineComparison | None:
        """Return how the two QSSPs of a line stand to each other, or None for one that nobody serves."""
        readings = tuple(self.line_ends.values(f"{line}/"))
        if not readings:
            return None
        after = max(0, max(one.newest for one in readings) - _COMPARED)
        agreed = self.synchronisations.values(f"{line}/", after=f"{line}/{after:08}")
        return compare(readings, {one.generation: one.key_ids for one in agreed}, self.desk.now)

    def lines(self) -> list[LineId]:
        """Return the lines that somebody serves, by name."""
        return list(dict.fromkeys(one.line for one in self.line_ends.values()))

    def _findings(self, look: Look, limits: Limits) -> Findings:
        found, now = Findings(), self.desk.now
        alarms.of_parties(found, self.watched.values())
        for readings in self.by_link().values():
            alarms.of_link(found, readings, look.answered, limits, now)
            for end in (one for one in readings if one.at == now):
                alarms.of_trend(found, alarms.link_end_subject(end.link, end.km), self.history(end), limits, now)
        for pair, told in self.newest_pools().items():
            for origin in (one for one in told if one.km == pair[0]):
                alarms.of_pool(found, origin, limits, now)
                if origin.at == now:
                    alarms.of_trend(found, alarms.pool_subject(origin), self.history(origin), limits, now)
            alarms.of_pool_ends(found, told, look.answered, now)
        for compared in filter(None, map(self.compared, self.lines())):
            alarms.of_line(found, compared, look.silent)
        return found

    def _note_alarms(self, found: Findings) -> None:
        standing = [*self.alarms.values("active/"), *self.suspicions.values()]
        changed = alarms.changed(standing, found, self.desk.now)
        for one in standing:
            self.alarms.delete(f"active/{one.key}")
            self.suspicions.delete(one.key)
        for one in changed.standing:
            if one.raised_at:
                self.alarms.put(f"active/{one.key}", one)
            else:
                self.suspicions.put(one.key, one)
        for one in changed.cleared:
            self.alarms.put(f"cleared/{one.cleared_at:016}/{one.key}", one)
        kept = [key for key, _ in self.alarms.items("cleared/")]
        for key in kept[: max(0, len(kept) - MOST_CLEARED)]:
            self.alarms.delete(key)


def _in_use(told: list[PoolReading]) -> list[PoolReading]:
    of_origin = [one for one in told if one.km == one.origin] or told
    series = max(one.series for one in of_origin)
    return [one for one in told if one.series == series]


def _teller(reading: LinkReading | PoolReading | LineReading) -> PartyId:
    return reading.qssp if isinstance(reading, LineReading) else reading.km
