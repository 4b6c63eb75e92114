"""What the QKMP was told of the key network, and when: by key managers of links and pools, by QSSPs of lines.

Readings are counts and identifiers, each as one end told it. All times are microseconds since the epoch by the QKMP's
own clock, but for `drawn_at`, which is the QSSP's. A reading's answer may be older than `at` by what one look takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from qsotn.domain import End, KeyId, LineId, PartyId
from qsotn.keynetwork.forecast import Sample

MOST_POINTS: Final = 120
"""Of one history."""
RECENT_US: Final = 600 * 1_000_000
"""Over how long a recent rate is averaged, if it was watched for as long."""


class Watched(msgspec.Struct, frozen=True):
    """A party that is asked: when it answered last, and since when and why it does not (0 and empty if it does)."""

    party: PartyId
    answered_at: int = 0
    silent_since: int = 0
    reason: str = ""


class LinkReading(msgspec.Struct, frozen=True):
    """One end of a QKD link. `agreed_before` is what the end had agreed on by the look before, or -1.

    `distils` is whether keys come of its light now, as far as it knows. `pending_s` is for how long its oldest block
    waits for the far end's agreement, `lost_bits` what it wrote off, `lost_seen_at` the look that showed more of it.
    """

    link: str
    km: PartyId
    neighbour: PartyId
    available_bits: int
    agreed_bits: int
    drawn_bits: int
    pending_blocks: int
    qber: float | None
    block_bits_s: float | None
    at: int = 0
    agreed_before: int = -1
    distils: bool | None = None
    pending_s: float = 0.0
    lost_bits: int = 0
    lost_seen_at: int = 0

    @property
    def key(self) -> str:
        """The key of its record."""
        return f"{self.link}/{self.km}"


class PoolReading(msgspec.Struct, frozen=True):
    """A pool of ready keys as one of its two key managers counts it.

    `all_before` and `gone_before` are what it had had in all, and what of that was ready no more, by the look before,
    or -1. `began_at` is the look that showed that its origin began it in the place of an earlier series.
    """

    km: PartyId
    origin: PartyId
    target: PartyId
    series: int
    ready_bits: int
    waiting_bits: int
    delivered_bits: int
    destroyed_bits: int
    at: int = 0
    all_before: int = -1
    gone_before: int = -1
    began_at: int = 0

    @property
    def gone_bits(self) -> int:
        """What was ready once and is no more. It only grows, at the origin before it does at the target."""
        return self.waiting_bits + self.delivered_bits + self.destroyed_bits

    @property
    def all_bits(self) -> int:
        """What was ever laid into it at this end."""
        return self.ready_bits + self.gone_bits

    @property
    def pool(self) -> str:
        """What the pool is called, the same at both ends."""
        return f"{self.origin}>{self.target}#{self.series:08}"

    @property
    def key(self) -> str:
        """The key of its record."""
        return f"{self.pool}/{self.km}"


class HeldGeneration(msgspec.Struct, frozen=True):
    """One generation of session keys that a QSSP has drawn: the IDs of its two keys, a-to-b first."""

    generation: int
    key_ids: tuple[KeyId, ...]
    drawn_at: int


class LineReading(msgspec.Struct, frozen=True):
    """The newest generations that one QSSP has drawn for its end of a line, the oldest of them first.

    `km` is the key manager it draws them from, `rekey_interval_s` how often it does.
    """

    line: LineId
    end: End
    qssp: PartyId
    peer_qssp: PartyId
    km: PartyId
    rekey_interval_s: int
    drawn: tuple[HeldGeneration, ...]
    at: int = 0

    @property
    def key(self) -> str:
        """The key of its record."""
        return f"{self.line}/{self.end}"

    @property
    def newest(self) -> int:
        """The newest generation drawn, or 0."""
        return self.drawn[-1].generation if self.drawn else 0


@dataclass(frozen=True)
class Look:
    """What one round of questions brought: all that each party that answered has, and why the others did not."""

    answered: tuple[PartyId, ...] = ()
    silent: dict[PartyId, str] = field(default_factory=dict)
    links: tuple[LinkReading, ...] = ()
    pools: tuple[PoolReading, ...] = ()
    lines: tuple[LineReading, ...] = ()


# --- history --------------------------------------------------------------------------------------------------------


class Point(msgspec.Struct, frozen=True, array_like=True):
    """A moment of a link's end or a pool. `gained_bits` and `drawn_bits` only grow."""

    at: int
    available_bits: int
    gained_bits: int
    drawn_bits: int


class History(msgspec.Struct, frozen=True):
    """The points of one series, the oldest first: at most `MOST_POINTS`, as far back as its span says."""

    points: tuple[Point, ...] = ()

    def extended(self, point: Point, span_us: int) -> History:
        """Return the history with one more point, unless the last is too near for it.

        What grows and has shrunk is another series: a store that was restored or a pool begun anew. Its past is no
        guide, and is dropped.
        """
        kept = tuple(one for one in self.points if point.at - span_us <= one.at < point.at)
        if kept and (point.gained_bits < kept[-1].gained_bits or point.drawn_bits < kept[-1].drawn_bits):
            return History((point,))
        if kept and point.at - kept[-1].at < span_us // MOST_POINTS:
            return History(kept)
        return History((*kept, point)[-MOST_POINTS:])

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What was available, as a forecast reads it."""
        return tuple(Sample(one.at, one.available_bits) for one in self.points)

    @property
    def drawn_bits_s(self) -> float:
        """Bits drawn a second, over the whole history."""
        if len(self.points) < 2:
            return 0.0
        first, last = self.points[0], self.points[-1]
        return (last.drawn_bits - first.drawn_bits) * 1e6 / (last.at - first.at)

    def recent(self, window_us: int) -> tuple[float, float, float]:
        """Return the bits gained and drawn a second over at most the last `window_us`, and over how many seconds.

        All are 0 before there are two points so near.
        """
        kept = [one for one in self.points if self.points[-1].at - one.at <= window_us]
        if len(kept) < 2:
            return 0.0, 0.0, 0.0
        first, last = kept[0], kept[-1]
        seconds = (last.at - first.at) / 1e6
        return (
            (last.gained_bits - first.gained_bits) / seconds,
            (last.drawn_bits - first.drawn_bits) / seconds,
            seconds,
        )

    def busiest_bits_s(self, window_us: int) -> float:
        """Bits gained a second in the busiest time of at least `window_us`: what the source has shown it can give.

        A source that rests while it is full has gained less over the whole history than it could; a shorter time would
        take one block's arrival for a rate.
        """
        best, start = 0.0, 0
        for end in self.points:
            while start + 1 < len(self.points) and end.at - self.points[start + 1].at >= window_us:
                start += 1
            elapsed = end.at - self.points[start].at
            if elapsed >= window_us:
                best = max(best, (end.gained_bits - self.points[start].gained_bits) * 1e6 / elapsed)
        return best


def link_point(reading: LinkReading) -> Point:
    """Return a link end's point."""
    return Point(reading.at, reading.available_bits, reading.agreed_bits, reading.drawn_bits)


def pool_point(reading: PoolReading) -> Point:
    """Return a pool's point."""
    return Point(reading.at, reading.ready_bits, reading.all_bits, reading.gone_bits)
