"""When a pool starves if its present trend goes on: a straight line through its last samples.

The assumption is in the word "trend". The bits of a pool are taken to change by the same number every second as they
did, on average, over the window: least squares, each sample weighing the same. A pool that is filled in blocks and
emptied in keys is a saw, so a window holds several blocks or it sees one tooth. Nothing is said about why a trend is
what it is, nor of a fibre that is cut tomorrow. The arithmetic is exact, in whole numbers and fractions of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

WINDOW_US: Final = 15 * 60 * 1_000_000
"""Fifteen minutes: the shorter bin of OTN performance monitoring."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a pool held at a moment: microseconds since the epoch, and bits."""

    at: int
    available_bits: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """A pool's trend, and when it meets the floor: None if it does not fall."""

    bits_per_s: float
    starves_at: int | None
    """Microseconds since the epoch, never before the last sample."""
    samples: int
    """How many the window held."""


def forecast(samples: Sequence[Sample], floor_bits: int = 0, window_us: int = WINDOW_US) -> Forecast | None:
    """Forecast from the samples of the last `window_us` before the newest, in any order.

    None means that nothing can be said: fewer than two moments in the window.
    """
    newest = max(samples, key=lambda sample: sample.at, default=None)
    if newest is None:
        return None
    # Times count from the newest sample, so that the line's value there is its constant term.
    points = [(s.at - newest.at, s.available_bits) for s in samples if s.at >= newest.at - window_us]
    slope = _slope(points)
    if slope is None:
        return None
    starves_at = newest.at if newest.available_bits <= floor_bits else _meets(points, slope, floor_bits, newest.at)
    return Forecast(float(slope * 1_000_000), starves_at, len(points))


def _slope(points: Sequence[tuple[int, int]]) -> Fraction | None:
    """Return the least-squares slope in bits a microsecond: (n·Σtb − Σt·Σb)/(n·Σt² − (Σt)²)."""
    number, times, bits = len(points), sum(t for t, _ in points), sum(b for _, b in points)
    spread = number * sum(t * t for t, _ in points) - times * times
    if not spread:
        return None
    return Fraction(number * sum(t * b for t, b in points) - times * bits, spread)


def _meets(points: Sequence[tuple[int, int]], slope: Fraction, floor_bits: int, newest: int) -> int | None:
    """Return when the line through the points' mean meets the floor, if it falls."""
    if slope >= 0:
        return None
    number = len(points)
    now = Fraction(sum(b for _, b in points), number) - slope * Fraction(sum(t for t, _ in points), number)
    return newest + max(0, int((floor_bits - now) / slope))


def soonest(histories: Mapping[str, Sequence[Sample]], floor_bits: int = 0) -> list[tuple[str, Forecast]]:
    """Return the pools that will starve, by name, the soonest first."""
    told = ((name, forecast(samples, floor_bits)) for name, samples in histories.items())
    found = [(one.starves_at, name, one) for name, one in told if one is not None and one.starves_at is not None]
    return [(name, one) for _, name, one in sorted(found, key=lambda row: row[:2])]
