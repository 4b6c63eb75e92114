"""The QKMP looks at the key network: every so often it asks all its key managers and QSSPs how they stand.

It asks for counts and identifiers, in pages, with the certificate of its own role. One look is bounded in time, in the
questions under way at once, and in what it takes from one party. Who does not answer is told by name, with the reason;
nobody waits for them. What a look brought is noted in one transaction (`parties.qkmp.Qkmp.note`), and then the key
managers that answered are told how all links stand (`telling`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar
from urllib.parse import quote

import msgspec
import structlog

from qsotn.domain import PartyId, Role, role_of
from qsotn.errors import LineError, StoreError
from qsotn.parties.network_alarms import Limits
from qsotn.parties.network_capacity import WINDOW_US, LinkView, link_views
from qsotn.parties.network_readings import HeldGeneration, LineReading, LinkReading, Look, PoolReading
from qsotn.parties.qkmp import Qkmp
from qsotn.runtime import Node
from qsotn.service.config import SupervisionSection
from qsotn.service.http.operation import PREFIX
from qsotn.service.http.operations_keys import LineGenerations
from qsotn.service.http.operations_km import LinkSupply, PoolSupply
from qsotn.service.http.paging import LARGEST_PAGE, Page
from qsotn.service.supervision_metrics import NetworkMetrics
from qsotn.service.telling import Asked, Telling
from qsotn.service.worker import Overloaded

T = TypeVar("T")

AT_ONCE: Final = 16
"""Parties that are asked at the same time."""
MOST_PAGES: Final = 100
"""Of one list of one party: what is longer is not believed."""
LONGEST_ANSWER_S: Final = 5.0
_OK: Final = 200
_log = structlog.get_logger("supervision")


class Worker(Protocol):
    """The party's desk, as `service.worker.DeskWorker` offers it."""

    async def call(self, function: Callable[[Node], T]) -> T:
        """Run a repeatable function at the desk. Raises what it raises, and `Overloaded`."""


@dataclass(frozen=True)
class _Told:
    """What one party told."""

    links: tuple[LinkReading, ...] = ()
    pools: tuple[PoolReading, ...] = ()
    lines: tuple[LineReading, ...] = ()


class Supervision:
    """Looks at some parties as long as it runs."""

    def __init__(
        self,
        worker: Worker,
        parties: Sequence[PartyId],
        reach: Callable[[PartyId], Asked],
        section: SupervisionSection,
        metrics: NetworkMetrics,
    ) -> None:
        """`parties` are whom to ask: of them, the key managers and the QSSPs."""
        self._worker = worker
        self._parties = [party for party in parties if role_of(party) in (Role.KM, Role.QSSP)]
        self._reach = reach
        self._section = section
        self._limits = Limits(section.qber, section.link_bits, section.pool_bits, section.starves_s)
        self._metrics = metrics
        self._under_way = asyncio.Semaphore(AT_ONCE)
        self._silent: set[PartyId] = set()
        self._telling = Telling(reach, section)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except (StoreError, Overloaded) as error:
                _log.warning("the look is not noted", reason=str(error))
            await asyncio.sleep(self._section.interval_s)

    async def look(self) -> None:
        """Look once, unless another replica just did; then take over into the metrics what is known.

        Raises `StoreError`, `Overloaded`.
        """
        interval_us = int(self._section.interval_s * 900_000)  # a replica's clock may be a little behind
        if await self._at_desk(lambda qkmp: qkmp.begin_look(interval_us)):
            seen = await self._seen()
            await self._at_desk(lambda qkmp: qkmp.note(seen, self._limits, self._span_us))
            self._log_change(seen)
            await self._tell(seen)
        self._metrics.take(*await self._at_desk(_known))

    @property
    def _span_us(self) -> int:
        """How far back is remembered: far enough for two looks, and for a link to show a rate."""
        longest_s = max(self._section.history_s, 2 * self._section.interval_s)
        return max(int(longest_s * 1_000_000), 2 * WINDOW_US)

    async def _tell(self, seen: Look) -> None:
        sights = await self._at_desk(lambda qkmp: [one.sight(qkmp.desk.now) for one in link_views(qkmp)])
        await self._telling.tell([one for one in seen.answered if role_of(one) is Role.KM], sights)

    async def _at_desk(self, act: Callable[[Qkmp], T]) -> T:
        def run(node: Node) -> T:
            with node.desk() as qkmp:
                return act(qkmp)

        return await self._worker.call(run)

    async def _seen(self) -> Look:
        answers = await asyncio.gather(*(self._answer(party) for party in self._parties))
        told = [one for one in answers if isinstance(one, _Told)]
        by_party = list(zip(self._parties, answers, strict=True))
        return Look(
            answered=tuple(party for party, one in by_party if isinstance(one, _Told)),
            silent={party: one for party, one in by_party if isinstance(one, str)},
            links=tuple(link for one in told for link in one.links),
            pools=tuple(pool for one in told for pool in one.pools),
            lines=tuple(line for one in told for line in one.lines),
        )

    async def _answer(self, party: PartyId) -> _Told | str:
        """Return what a party tells, or why it does not."""
        async with self._under_way:
            try:
                async with asyncio.timeout(LONGEST_ANSWER_S):
                    return await (self._of_km(party) if role_of(party) is Role.KM else self._of_qssp(party))
            except TimeoutError:
                return f"{party} did not answer within {LONGEST_ANSWER_S:g} s"
            except LineError as error:
                return str(error)

    async def _of_km(self, km: PartyId) -> _Told:
        links = await self._every(km, "/links", LinkSupply)
        pools = await self._every(km, "/pools", PoolSupply)
        for pool in pools:
            if km not in (pool.origin, pool.target):
                raise LineError(f"{km} told of a pool from {pool.origin} to {pool.target}, which is not its own")
        return _Told(tuple(_link(km, one) for one in links), tuple(_pool(km, one) for one in pools))

    async def _of_qssp(self, qssp: PartyId) -> _Told:
        lines = await self._every(qssp, "/generations", LineGenerations)
        return _Told(lines=tuple(_line(qssp, one) for one in lines))

    async def _every(self, party: PartyId, path: str, item: type[T]) -> list[T]:
        """Return a whole list. Raises `LineError` for one that is none, or has no end."""
        found: list[T] = []
        cursor = ""
        for _ in range(MOST_PAGES):
            page = await self._page(party, f"{path}?limit={LARGEST_PAGE}&cursor={quote(cursor)}", item)
            found += page.items
            if page.next_cursor is None:
                return found
            cursor = page.next_cursor
        raise LineError(f"{party} answered {path} with more than {MOST_PAGES} pages")

    async def _page(self, party: PartyId, path: str, item: type[T]) -> Page[T]:
        content = await self._reach(party).ask("GET", PREFIX + path, None, _OK)
        kind: type[Page[T]] = Page[item]  # type: ignore[valid-type]  # a type that is a value here
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise LineError(f"{party} answered {path} with something else than it should: {error}") from None

    def _log_change(self, seen: Look) -> None:
        """Say once when a party falls silent, and once when it answers again."""
        for party in sorted(seen.silent.keys() - self._silent):
            _log.warning("no answer", asked=party, reason=seen.silent[party])
        for party in sorted(self._silent & {*seen.answered}):
            _log.info("answers again", asked=party)
        self._silent = {*seen.silent}


def _known(qkmp: Qkmp) -> tuple[list[LinkView], list[PoolReading], int]:
    alarms = sum(1 for _ in qkmp.alarms.items("active/"))
    return link_views(qkmp), list(qkmp.pools.values()), alarms


def _link(km: PartyId, told: LinkSupply) -> LinkReading:
    return LinkReading(
        link=told.link,
        km=km,
        neighbour=told.neighbour,
        available_bits=told.available_bits,
        agreed_bits=told.agreed_bits,
        drawn_bits=told.drawn_bits,
        pending_blocks=told.pending_blocks,
        qber=told.qber,
        block_bits_s=told.block_bits_s,
        distils=told.distils,
        pending_s=told.pending_s,
        lost_bits=told.lost_bits,
    )


def _pool(km: PartyId, told: PoolSupply) -> PoolReading:
    return PoolReading(
        km=km,
        origin=told.origin,
        target=told.target,
        series=told.series,
        ready_bits=told.ready_bits,
        waiting_bits=told.waiting_bits,
        delivered_bits=told.delivered_bits,
        destroyed_bits=told.destroyed_bits,
    )


def _line(qssp: PartyId, told: LineGenerations) -> LineReading:
    drawn = tuple(HeldGeneration(one.generation, one.key_ids, one.drawn_at) for one in told.drawn)
    return LineReading(told.line, told.end, qssp, told.peer_qssp, told.km, told.rekey_interval_s, drawn)
