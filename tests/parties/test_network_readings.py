"""Histories of links and pools, and the comparison of a line's two QSSPs, as plain calls."""

from __future__ import annotations

from itertools import pairwise

import pytest

from qsotn.domain import End, KeyId, LineId, PartyId
from qsotn.parties.line_comparison import LAG_US, Step, compare
from qsotn.parties.network_readings import MOST_POINTS, RECENT_US, HeldGeneration, History, LineReading, Point

S = 1_000_000
NOW = 1_780_000_000 * S
JINAN, QINGDAO = PartyId("qssp/jinan"), PartyId("qssp/qingdao")


def history(*points: tuple[int, int, int]) -> History:
    """Seconds, bits gained and bits drawn."""
    return History(tuple(Point(at * S, gained - drawn, gained, drawn) for at, gained, drawn in points))


# --- history --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "rate"),
    [
        ([], 0.0),
        ([(0, 500, 0)], 0.0),
        ([(0, 0, 0), (30, 600, 0)], 0.0),  # half a minute tells nothing
        ([(0, 0, 0), (60, 600, 0)], 10.0),
        ([(0, 0, 0), (60, 600, 0), (120, 600, 0), (600, 600, 0)], 10.0),  # it rests while it is full
        ([(0, 0, 0), (60, 0, 0), (90, 600, 0), (120, 600, 0)], 10.0),
        ([(0, 0, 0), (10, 6000, 0), (60, 6000, 0)], 100.0),  # one block is no rate
        ([(0, 0, 0), (60, 600, 0), (120, 3600, 0), (180, 3600, 0)], 50.0),
        ([(0, 0, 0), (600, 6000, 0)], 10.0),  # a gap is no reason to believe more
    ],
)
def test_a_source_is_believed_what_it_gave_in_its_busiest_minute(
    points: list[tuple[int, int, int]], rate: float
) -> None:
    assert history(*points).busiest_bits_s(60 * S) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("points", "rate"),
    [([], 0.0), ([(5, 9, 9)], 0.0), ([(0, 9, 0), (10, 9, 0), (20, 90, 40)], 2.0)],
)
def test_what_is_drawn_is_told_over_the_whole_history(points: list[tuple[int, int, int]], rate: float) -> None:
    assert history(*points).drawn_bits_s == pytest.approx(rate)


@pytest.mark.parametrize(
    ("points", "recent"),
    [
        ([], (0.0, 0.0, 0.0)),
        ([(5, 9, 9)], (0.0, 0.0, 0.0)),
        ([(0, 0, 0), (700, 7000, 700)], (0.0, 0.0, 0.0)),  # too far apart to tell of the last ten minutes
        ([(0, 0, 0), (300, 600, 60)], (2.0, 0.2, 300.0)),
        ([(0, 0, 0), (100, 9000, 900), (700, 9600, 960)], (1.0, 0.1, 600.0)),  # the burst before is forgotten
        ([(0, 0, 0), (100, 9000, 0), (300, 9000, 30)], (30.0, 0.1, 300.0)),  # and one within is no rate of its own
    ],
)
def test_a_recent_rate_is_an_average_over_at_most_ten_minutes(
    points: list[tuple[int, int, int]], recent: tuple[float, float, float]
) -> None:
    assert history(*points).recent(RECENT_US) == pytest.approx(recent)


def test_a_history_is_bounded_in_time_and_in_number() -> None:
    grown = History()
    for second in range(10_000):
        grown = grown.extended(Point(second * S, 0, second, 0), 3600 * S)
    times = [point.at // S for point in grown.points]
    assert MOST_POINTS // 2 < len(times) <= MOST_POINTS
    assert times[0] >= 9_999 - 3600
    assert max(later - earlier for earlier, later in pairwise(times)) == 3600 // MOST_POINTS


def test_a_history_has_its_bound_whatever_its_span() -> None:
    grown = History()
    for microsecond in range(1000):
        grown = grown.extended(Point(microsecond, 0, 0, 0), 2 * MOST_POINTS - 1)
    assert len(grown.points) == MOST_POINTS


@pytest.mark.parametrize("shrunk", [Point(60 * S, 9, 99, 10), Point(60 * S, 9, 100, 9)])
def test_totals_that_shrink_are_another_series(shrunk: Point) -> None:
    known = history((0, 50, 5), (30, 100, 10))
    assert known.extended(shrunk, 3600 * S).points == (shrunk,)


def test_a_clock_that_was_set_back_leaves_no_point_in_the_future() -> None:
    known = history((0, 1, 0), (100, 1, 0))
    assert [point.at // S for point in known.extended(Point(50 * S, 1, 1, 0), 3600 * S).points] == [0, 50]


# --- lines ----------------------------------------------------------------------------------------------------------


def ids(text: str) -> tuple[KeyId, ...]:
    return KeyId(f"{text}-ab"), KeyId(f"{text}-ba")


def end(which: End, *drawn: tuple[int, str], seconds_ago: int = 3600) -> LineReading:
    """What one end's QSSP told: generations and a word for their key IDs."""
    own, far = (JINAN, QINGDAO) if which is End.A else (QINGDAO, JINAN)
    held = tuple(HeldGeneration(number, ids(word), NOW - seconds_ago * S) for number, word in drawn)
    return LineReading(LineId("line-1"), which, own, far, PartyId("km/x"), 60, held, NOW)


ONE, TWO, OTHER = (1, "one"), (2, "two"), (2, "other")


@pytest.mark.parametrize(
    ("a", "b", "agreed", "step", "common", "behind"),
    [
        (end(End.A), end(End.B), {}, Step.TOGETHER, 0, ""),
        (end(End.A, ONE), end(End.B, ONE), {}, Step.TOGETHER, 1, ""),
        (end(End.A, ONE, TWO), end(End.B, ONE, TWO), {1: "one"}, Step.TOGETHER, 2, ""),
        (end(End.A, ONE, TWO), end(End.B, ONE), {}, Step.LAGS, 1, QINGDAO),
        (end(End.A, ONE), end(End.B, ONE, TWO), {}, Step.LAGS, 1, JINAN),
        (end(End.A, ONE, TWO, seconds_ago=5), end(End.B, ONE), {}, Step.TOGETHER, 1, ""),
        (end(End.A, TWO), end(End.B, OTHER), {1: "one"}, Step.DIFFERS, 1, ""),
        (end(End.A, TWO), end(End.B, TWO), {2: "other"}, Step.DIFFERS, 0, ""),
        (end(End.A, ONE, (3, "x")), end(End.B, ONE, TWO, (3, "x")), {}, Step.TOGETHER, 3, ""),
        (end(End.A, ONE), None, {1: "one"}, Step.LAGS, 1, QINGDAO),
        (None, end(End.B, ONE), {}, Step.LAGS, 0, JINAN),
    ],
)
def test_two_ends_of_a_line_are_compared(
    a: LineReading | None, b: LineReading | None, agreed: dict[int, str], step: Step, common: int, behind: str
) -> None:
    readings = [one for one in (a, b) if one is not None]
    told = compare(readings, {number: ids(word) for number, word in agreed.items()}, NOW)
    assert (told.step, told.last_common, told.behind) == (step, common, behind)
    assert [one.qssp for one in told.ends] == [JINAN, QINGDAO]
    assert told.differing == ((2,) if step is Step.DIFFERS else ())


def test_an_end_lags_from_the_first_generation_it_missed() -> None:
    """The newest may be a moment old: a rekey that comes every second hides no QSSP that stopped long ago."""
    missed = HeldGeneration(2, ids("two"), NOW - LAG_US - 1)
    newest = HeldGeneration(3, ids("three"), NOW)
    a = LineReading(LineId("line-1"), End.A, JINAN, QINGDAO, PartyId("km/x"), 1, (missed, newest), NOW)
    assert compare([a, end(End.B, ONE)], {}, NOW).behind == QINGDAO
