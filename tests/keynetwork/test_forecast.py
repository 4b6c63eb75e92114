"""When a pool starves: lines with a known end, saws, and pools of which nothing can be said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsotn.keynetwork.forecast import WINDOW_US, Sample, forecast, soonest

S = 1_000_000
START = 1_800_000_000 * S


def falling(bits: int, per_s: int, seconds: Sequence[int]) -> list[Sample]:
    return [Sample(START + t * S, bits + per_s * t) for t in seconds]


def test_a_pool_that_falls_evenly_starves_when_its_line_says() -> None:
    told = forecast(falling(60_000, -100, range(0, 300, 10)))
    assert told is not None
    assert (told.bits_per_s, told.starves_at, told.samples) == (-100.0, START + 600 * S, 30)


def test_the_floor_is_met_earlier_than_zero() -> None:
    told = forecast(falling(60_000, -100, range(0, 300, 10)), floor_bits=20_000)
    assert told is not None
    assert told.starves_at == START + 400 * S


@pytest.mark.parametrize("per_s", [0, 1, 250])
def test_a_pool_that_does_not_fall_does_not_starve(per_s: int) -> None:
    told = forecast(falling(1000, per_s, range(60)))
    assert told is not None
    assert (told.bits_per_s, told.starves_at) == (per_s, None)


def test_a_pool_at_its_floor_starves_now_whatever_its_trend() -> None:
    for per_s in (-10, 10):
        samples = [Sample(START, 500 - 60 * per_s), Sample(START + 60 * S, 500)]
        told = forecast(samples, floor_bits=500)
        assert told is not None
        assert told.starves_at == START + 60 * S


def test_a_line_that_is_below_the_floor_already_starves_now_and_not_in_the_past() -> None:
    steep = [Sample(START, 10_000), Sample(START + S, 0), Sample(START + 2 * S, 0), Sample(START + 3 * S, 1)]
    told = forecast(steep)
    assert told is not None
    assert told.starves_at == START + 3 * S


@pytest.mark.parametrize(
    "samples", [[], [Sample(START, 5)], [Sample(START, 5), Sample(START, 3)]], ids=["none", "one", "one moment"]
)
def test_of_fewer_than_two_moments_nothing_is_said(samples: list[Sample]) -> None:
    assert forecast(samples) is None


def test_what_is_older_than_the_window_does_not_count() -> None:
    grew = falling(0, 1000, range(0, 600, 10))
    fell = [Sample(START + 600 * S + WINDOW_US + t * S, 90_000 - 10 * t) for t in range(0, 60, 10)]
    told = forecast(grew + fell)
    assert told is not None
    assert told.samples == 6
    assert told.bits_per_s == -10.0
    assert forecast(fell[:1] + grew) is None


def test_a_saw_of_blocks_and_keys_has_the_trend_of_its_teeth() -> None:
    """A block of 50 000 bits every 60 s, 1000 bits a second drawn: −167 bit/s from the middle of the first tooth."""
    saw = [Sample(START + t * S, 500_000 + 50_000 * (t // 60) - 1000 * t) for t in range(0, 900, 5)]
    told = forecast(saw)
    assert told is not None
    assert told.bits_per_s == pytest.approx(-50_000 / 300, rel=0.03)
    assert told.starves_at is not None
    assert (told.starves_at - START) / S == pytest.approx((500_000 - 30_000) / (50_000 / 300), rel=0.03)


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 10**9)), min_size=2, max_size=30, unique_by=lambda p: p[0])
)
def test_the_slope_is_numpy_s_and_the_order_of_samples_does_not_matter(points: list[tuple[int, int]]) -> None:
    samples = [Sample(START + t * S, bits) for t, bits in points]
    told = forecast(samples)
    assert told == forecast(samples[::-1])
    assert told is not None
    slope = np.polyfit([t for t, _ in points], [b for _, b in points], 1)[0]
    assert told.bits_per_s == pytest.approx(slope, rel=1e-6, abs=1e-3)


def test_pools_are_listed_by_who_starves_first_and_those_that_do_not_are_left_out() -> None:
    histories = {
        "slow": falling(60_000, -10, range(60)),
        "grows": falling(60_000, 10, range(60)),
        "fast": falling(60_000, -100, range(60)),
        "new": falling(60_000, -100, range(1)),
        "alike": falling(60_000, -100, range(60)),
    }
    assert [name for name, _ in soonest(histories)] == ["alike", "fast", "slow"]
    assert [one.starves_at for _, one in soonest(histories)] == [START + 600 * S, START + 600 * S, START + 6000 * S]
