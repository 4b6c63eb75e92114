"""Whether the two QSSPs of a line hold the same session keys: each one's own words, and what they agreed on before.

Key IDs are compared, never keys. A QSSP draws a generation a moment after the other, so one that is behind is only said
to lag when the newer generation is older than `LAG_US`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from qsotn.domain import End, KeyId, LineId, PartyId
from qsotn.parties.network_readings import LineReading

LAG_US: Final = 20_000_000
"""Longer than the second QSSP takes to draw what the first has drawn."""


class Step(StrEnum):
    """How the two QSSPs of a line stand to each other."""

    TOGETHER = "TOGETHER"
    LAGS = "LAGS"
    DIFFERS = "DIFFERS"


class LineEndState(msgspec.Struct, frozen=True):
    """One end of a line: its QSSP, the newest generation it has drawn, and when it was asked, or 0 if never."""

    end: End
    qssp: PartyId
    newest: int
    at: int


class LineComparison(msgspec.Struct, frozen=True):
    """A line's two QSSPs compared.

    `last_common` is the newest generation whose keys both have under the same IDs, or 0. `differing` are generations
    that they, or what they agreed on before, give other IDs; `behind` is the QSSP that lags, or empty.
    """

    line: LineId
    step: Step
    ends: tuple[LineEndState, ...]
    last_common: int
    differing: tuple[int, ...]
    behind: str


def compare(readings: Sequence[LineReading], agreed: Mapping[int, tuple[KeyId, ...]], now: int) -> LineComparison:
    """Compare the readings of one line, one or two of them; `agreed` are key IDs by generation, as both once proved."""
    ends = _ends(readings)
    told = [*({one.generation: one.key_ids for one in reading.drawn} for reading in readings), agreed]
    differing = tuple(sorted(number for number in set().union(*told) if len(_ids_of(number, told)) > 1))
    common = _common(told, differing)
    behind = _behind(readings, ends, now)
    step = Step.DIFFERS if differing else Step.LAGS if behind else Step.TOGETHER
    return LineComparison(readings[0].line, step, ends, common, differing, behind)


def _ends(readings: Sequence[LineReading]) -> tuple[LineEndState, ...]:
    found = {one.end: LineEndState(one.end, one.qssp, one.newest, one.at) for one in readings}
    if len(found) == 1:
        (only,) = readings
        found[only.end.other] = LineEndState(only.end.other, only.peer_qssp, 0, 0)
    return tuple(found[end] for end in End)


def _ids_of(number: int, told: Sequence[Mapping[int, tuple[KeyId, ...]]]) -> set[tuple[KeyId, ...]]:
    return {ids[number] for ids in told if number in ids}


def _common(told: Sequence[Mapping[int, tuple[KeyId, ...]]], differing: tuple[int, ...]) -> int:
    """What the QKMP was shown to be agreed on counts as common: both proved it then."""
    *readings, agreed = told
    both = set.intersection(*map(set, readings)) if len(readings) > 1 else set()
    return max((both | set(agreed)) - set(differing), default=0)


def _behind(readings: Sequence[LineReading], ends: tuple[LineEndState, ...], now: int) -> str:
    ahead = max(ends, key=lambda end: end.newest)
    other = next(end for end in ends if end is not ahead)
    if ahead.newest == other.newest:
        return ""
    newer = next(reading.drawn for reading in readings if reading.end is ahead.end)
    missed = next(one for one in newer if one.generation > other.newest)
    return other.qssp if now - missed.drawn_at > LAG_US else ""
