"""How wide a link is, why it is avoided, and how ranks make the ways of one origin."""

from __future__ import annotations

from fractions import Fraction

import pytest
from tests.keynetwork.networks import km, network, path

from qsotn.keynetwork.routing import widest_path
from qsotn.keynetwork.widths import (
    BARRED_QBER,
    NOISY_QBER,
    UNKNOWN,
    Avoided,
    Measured,
    Needs,
    Wanted,
    own_factor,
    rank,
    ranked,
    reasons,
    width_bits,
)
from qsotn.quantum.parameters import DecoyProtocol

WANTED = Wanted(least_bits=100, full_bits=1600)
BEST = len(Avoided) + 3


@pytest.mark.parametrize(
    ("pool_bits", "rate_bits_s", "width"),
    [
        (0, 0.0, 0),
        (0, 1e9, 0),  # what will be made serves no supply that is signed now
        (1000, 0.0, 1000),
        (1000, 10.0, 1600),  # 60 s of 10 bit/s
        (1000, 1e9, 2000),  # at most as much again
        (2000, 0.0, 2000),
    ],
)
def test_a_width_is_the_pool_and_what_replaces_it_within_a_minute(
    pool_bits: int, rate_bits_s: float, width: int
) -> None:
    assert width_bits(pool_bits, rate_bits_s) == width


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (UNKNOWN, BEST),
        (Measured(1600), BEST),
        (Measured(10_000_000), BEST),
        (Measured(1599), BEST - 1),
        (Measured(800, rate_bits_s=27.0), BEST),  # half a pool, and as much within a minute: a half of 27 bit/s an end
        (Measured(400), BEST - 1),
        (Measured(399), BEST - 2),
        (Measured(100), BEST - 2),
        (Measured(99), Avoided.DRY),
        (Measured(99, rate_bits_s=1e9), Avoided.DRY),
        (Measured(1600, avoided=frozenset({Avoided.NOISY})), Avoided.NOISY),
        (Measured(10, avoided=frozenset({Avoided.NOISY})), Avoided.DRY),
        (UNKNOWN.also(Avoided.UNSEEN).also(Avoided.FAILED), Avoided.FAILED),
    ],
)
def test_ranks_go_by_steps_of_four_and_below_them_by_the_gravest_reason(link: Measured, expected: int) -> None:
    assert rank(link, WANTED) == expected


def test_every_reason_is_told() -> None:
    link = Measured(10, avoided=frozenset({Avoided.NOISY}))
    assert reasons(link, WANTED) == {Avoided.NOISY, Avoided.DRY}
    assert reasons(Measured(1600), WANTED) == frozenset()


def test_the_limit_of_use_is_where_a_block_is_abandoned_and_above_that_of_caution() -> None:
    assert DecoyProtocol().max_error_rate == BARRED_QBER > NOISY_QBER
    assert Measured(qber=BARRED_QBER + 1e-9).barred
    assert not Measured(qber=BARRED_QBER).barred
    assert not UNKNOWN.barred


def test_an_origin_sees_a_link_up_to_half_narrower_and_always_the_same() -> None:
    factors = [own_factor(km(f"o{number}"), "a-b") for number in range(200)]
    assert all(Fraction(1, 2) <= factor < 1 for factor in factors)
    assert factors == [own_factor(km(f"o{number}"), "a-b") for number in range(200)]
    assert len(set(factors)) > 60, "they hardly ever agree"


def test_ranks_make_the_way_and_a_barred_link_is_down() -> None:
    ring = network("a-b b-c a-d d-e c-e")
    needs = Needs(km("a"), WANTED, WANTED)

    def way(**known: Measured) -> tuple[str, ...]:
        links = {name.replace("_", "-"): one for name, one in known.items()}
        return widest_path(ranked(ring, links, needs), km("a"), km("c"), horizon_s=0).managers

    assert way() == path("abc")
    assert way(b_c=Measured(99)) == path("adec")
    assert way(b_c=Measured(99), d_e=Measured(1600, avoided=frozenset({Avoided.FAILED}))) == path("abc")
    assert [link.up for link in ranked(ring, {"b-c": Measured(qber=0.1)}, needs).links].count(False) == 1
