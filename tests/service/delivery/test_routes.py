"""The ways of supplies: the best that is known of, another one after a failure, and several that share nobody."""

from __future__ import annotations

from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from qsotn.domain import PartyId
from qsotn.errors import Refusal, UsageError
from qsotn.keynetwork.failures import AVOIDED_US, LONGEST_AVOIDED_US, REFUSED_US
from qsotn.keynetwork.relay import Mode, hindrance
from qsotn.keynetwork.widths import Avoided, Measured
from qsotn.service.delivery.routes import Routes

A, B, C, D, E = (PartyId(f"km/{name}") for name in "abcde")
RING = {"a-b": (A, B), "b-c": (B, C), "a-d": (A, D), "d-e": (D, E), "e-c": (E, C)}
SHORT, LONG = (A, B, C), (A, D, E, C)
FULL = Measured(pool_bits=512 * 256 * 4)
NOISY = Measured(pool_bits=FULL.pool_bits, qber=0.06, avoided=frozenset({Avoided.NOISY}))


def knowing(**links: Measured) -> Routes:
    """A's routes round the ring, whose links are full but for some."""
    routes = Routes(A, RING)
    routes.know({**dict.fromkeys(RING, FULL), **{name.replace("_", "-"): one for name, one in links.items()}})
    return routes


# --- what is known ----------------------------------------------------------------------------------------------------


def test_where_nothing_is_known_the_way_is_over_the_fewest_links() -> None:
    assert Routes(A, RING).ways(C, 0) == (SHORT,)


@pytest.mark.parametrize(
    ("link", "way"),
    [
        (FULL, SHORT),
        (Measured(pool_bits=512 * 256 // 64), LONG),  # a sixty-fourth of a pool: narrower by steps
        (Measured(pool_bits=0, rate_bits_s=1e9), LONG),  # a rate is no pool
        (Measured(pool_bits=FULL.pool_bits, avoided=frozenset({Avoided.NOISY})), LONG),
        (Measured(pool_bits=FULL.pool_bits, avoided=frozenset({Avoided.UNSEEN})), LONG),
        (Measured(pool_bits=FULL.pool_bits, qber=0.081), LONG),
        (Measured(pool_bits=FULL.pool_bits, qber=0.079), SHORT),  # whoever knows the limit says whether that is noisy
        (Measured(), SHORT),  # nothing is known of it: the best is believed
    ],
)
def test_one_link_on_the_shorter_way_decides(link: Measured, way: tuple[PartyId, ...]) -> None:
    assert knowing(b_c=link).ways(C, 0) == (way,)


@pytest.mark.parametrize(
    ("short", "long", "way"),
    [
        (Avoided.NOISY, Avoided.DRY, SHORT),  # its bits are good; the other has none
        (Avoided.DRY, Avoided.NOISY, LONG),
        (Avoided.FAILED, Avoided.NOISY, LONG),
        (Avoided.NOISY, Avoided.UNSEEN, LONG),
        (Avoided.NOISY, Avoided.NOISY, SHORT),
    ],
)
def test_where_every_way_has_a_link_to_avoid_the_least_evil_is_taken_and_told_once(
    short: Avoided, long: Avoided, way: tuple[PartyId, ...]
) -> None:
    routes = knowing(b_c=FULL.also(short), d_e=FULL.also(long))
    with capture_logs() as logs:
        assert routes.ways(C, 0) == routes.ways(C, 0) == (way,)
        routes.know({})
        assert routes.ways(C, 0) == routes.ways(C, 0) == (SHORT,)
    link, why = ("b-c", short) if way == SHORT else ("d-e", long)
    assert [(one["event"], one["log_level"], one.get("links")) for one in logs] == [
        ("supplies cross links that are to be avoided", "warning", f"{link} ({why.name})"),
        ("supplies cross no link that is to be avoided", "info", None),
    ]


def test_a_barred_link_is_on_no_way_though_there_is_no_other() -> None:
    barred = Measured(pool_bits=FULL.pool_bits, qber=0.09)
    with pytest.raises(Refusal, match=r"NO_ROUTE.*barred for their error rates are b-c, d-e"):
        knowing(b_c=barred, d_e=barred).ways(C, 0)


def test_a_noisy_link_is_left_at_once_and_taken_again_when_it_has_recovered() -> None:
    routes = knowing()
    assert routes.ways(C, 0) == (SHORT,)
    routes.know({**dict.fromkeys(RING, FULL), "a-b": NOISY})
    assert routes.ways(C, 1) == (LONG,)
    routes.know(dict.fromkeys(RING, FULL))
    assert routes.ways(C, 2) == (SHORT,)


def test_of_two_ways_of_one_length_that_in_use_is_kept_until_it_is_clearly_worse() -> None:
    square = {"a-b": (A, B), "b-c": (B, C), "a-d": (A, D), "d-c": (D, C)}
    routes = Routes(A, square)
    full = 512 * 256

    def with_width(bits: int) -> tuple[PartyId, ...]:
        routes.know({**dict.fromkeys(square, Measured(pool_bits=2 * full)), "b-c": Measured(pool_bits=bits)})
        return routes.ways(C, 0)[0]

    over_d = (A, D, C)
    seen = [(bits, with_width(bits)) for bits in range(2 * full, 0, -2048)]
    left = next(bits for bits, way in seen if way == over_d)
    assert with_width(left * 3 // 2) == over_d, "the other way is the one in use now"
    again = Routes(A, square)
    again.know({**dict.fromkeys(square, Measured(pool_bits=2 * full)), "b-c": Measured(pool_bits=left * 3 // 2)})
    assert again.ways(C, 0) == (over_d,), "who had not used it would not have begun to at half as much again"
    assert full // 4 < left < full


def test_origins_leave_a_link_that_runs_low_one_after_the_other() -> None:
    links = {"x-y": (PartyId("km/x"), PartyId("km/y")), "y-z": (PartyId("km/y"), PartyId("km/z"))}
    links["x-z"] = (PartyId("km/x"), PartyId("km/z"))
    origins = [PartyId(f"km/o{number}") for number in range(24)]
    links |= {f"{one}+x".replace("/", "."): (one, PartyId("km/x")) for one in origins}

    def on_it(bits: int) -> int:
        count = 0
        for one in origins:
            routes = Routes(one, links)
            routes.know({**dict.fromkeys(links, FULL), "x-z": Measured(pool_bits=bits)})
            count += routes.ways(PartyId("km/z"), 0) == ((one, PartyId("km/x"), PartyId("km/z")),)
        return count

    counts = [on_it(bits) for bits in range(2 * 512 * 256, 512 * 256, -8192)]
    assert counts == sorted(counts, reverse=True)
    assert max(a - b for a, b in pairwise(counts)) <= len(origins) // 2
    assert (counts[0], counts[-1] < len(origins) // 3) == (len(origins), True)


def test_relays_of_a_wrapped_batch_are_asked_for_one_unit_only() -> None:
    little = Measured(pool_bits=2047)
    for mode, way in ((Mode.ONE_TIME_PAD, LONG), (Mode.AES_WRAPPED, SHORT)):
        routes = Routes(A, RING, mode=mode)
        routes.know({**dict.fromkeys(RING, FULL), "b-c": little})
        assert routes.ways(C, 0) == (way,)
    routes.know({**dict.fromkeys(RING, FULL), "a-b": little})
    assert routes.ways(C, 0) == (LONG,), "units themselves are drawn from the origin's own link"


# --- what failed ------------------------------------------------------------------------------------------------------


def test_a_link_at_which_a_supply_failed_is_left_out_for_a_while() -> None:
    routes = Routes(A, RING)
    routes.failed("b-c", 0)
    assert routes.ways(C, 1) == (LONG,)
    assert routes.hindered(1) == {"b-c": ("FAILED",)}
    assert routes.ways(C, AVOIDED_US) == (SHORT,), "then it is tried again"
    assert routes.hindered(AVOIDED_US) == {}


@pytest.mark.parametrize(
    ("way", "link", "party", "held"),
    [
        (SHORT, "b-c", B, "b-c"),
        (SHORT, "b-c", C, "b-c"),
        (SHORT, "a-b", A, "a-b"),
        (LONG, "e-c", E, "e-c"),
        (SHORT, "a-d", A, "a-b"),
        (SHORT, "e-c", C, "a-b"),
        (SHORT, "x-y", B, "a-b"),
        (LONG, "e-c", D, "a-d"),
        ((A, D), "d-e", D, "a-d"),
    ],
)
def test_a_refusal_counts_against_the_link_it_names_or_the_first_of_its_way(
    way: tuple[PartyId, ...], link: str, party: PartyId, held: str
) -> None:
    assert Routes(A, RING).held_against(way, hindrance(link, party, "too few")) == held


def test_a_link_that_is_not_in_the_network_is_not_remembered() -> None:
    routes = Routes(A, RING)
    for link in ("x-y", "b-c"):
        routes.failed(link, 0)
        routes.refused(link, 0)
    assert set(routes._failures) == {"b-c"}


def pauses(routes: Routes, times: int) -> list[int]:
    """How many seconds a link is left out that fails each time it is tried again."""
    found, now = [], 0
    for _ in range(times):
        routes.failed("b-c", now)
        begun = now
        while routes.hindered(now):
            now += 1_000_000
        found.append((now - begun) // 1_000_000)
    return found


def test_a_link_that_fails_again_and_again_is_left_out_for_twice_as_long_up_to_a_quarter_of_an_hour() -> None:
    assert pauses(Routes(A, RING), 7) == [60, 120, 240, 480, 900, 900, 900]
    assert LONGEST_AVOIDED_US == 900 * 1_000_000


def test_supplies_that_fail_together_count_once() -> None:
    routes = Routes(A, RING)
    for now in range(4):
        routes.failed("b-c", now)
    assert routes.hindered(AVOIDED_US) == {}
    routes.failed("b-c", AVOIDED_US)
    assert routes.hindered(3 * AVOIDED_US - 1) == {"b-c": ("FAILED",)}
    assert routes.hindered(3 * AVOIDED_US) == {}, "the second pause is two minutes"


def test_a_supply_that_crosses_a_link_sets_its_pauses_back() -> None:
    routes = Routes(A, RING)
    pauses(routes, 3)
    routes.crossed([SHORT])
    assert pauses(routes, 2) == [60, 120]
    routes.crossed([LONG])
    assert routes.hindered(AVOIDED_US) == {"b-c": ("FAILED",)}, "another way says nothing of it"


def test_a_link_that_a_relay_refused_for_is_left_out_only_until_the_qkmp_can_have_told_of_it() -> None:
    routes = Routes(A, RING)
    routes.refused("b-c", 0)
    assert routes.ways(C, 1) == (LONG,)
    assert routes.ways(C, REFUSED_US) == (SHORT,)
    routes.failed("b-c", REFUSED_US)
    routes.refused("b-c", REFUSED_US)
    assert routes.hindered(AVOIDED_US) == {"b-c": ("FAILED",)}, "it makes no other pause shorter"
    assert routes.hindered(AVOIDED_US + REFUSED_US) == {}


def test_where_every_way_has_failed_the_first_is_tried_again() -> None:
    routes = Routes(A, RING)
    for link in ("b-c", "d-e"):
        routes.failed(link, 0)
    assert routes.ways(C, 1) == (SHORT,)


# --- several ways, and none -------------------------------------------------------------------------------------------


def test_shares_go_over_ways_that_share_nobody() -> None:
    assert Routes(A, RING, shares=2).ways(C, 0) == (SHORT, LONG)
    with pytest.raises(Refusal, match="TOO_FEW_PATHS"):
        Routes(A, RING, shares=3).ways(C, 0)


def test_shares_go_round_what_is_to_be_avoided_if_they_can_and_round_what_is_barred_in_any_case() -> None:
    third = {**RING, "a-f": (A, PartyId("km/f")), "f-c": (PartyId("km/f"), C)}
    routes = Routes(A, third, shares=2)
    assert routes.ways(C, 0) == (SHORT, (A, PartyId("km/f"), C))
    routes.know({"b-c": NOISY})
    assert routes.ways(C, 0) == ((A, PartyId("km/f"), C), LONG)
    routes.know({"b-c": NOISY, "d-e": NOISY})
    assert routes.ways(C, 0) == (SHORT, (A, PartyId("km/f"), C))
    routes.know({"b-c": Measured(qber=0.2), "d-e": Measured(qber=0.2)})
    with pytest.raises(Refusal, match=r"TOO_FEW_PATHS.*barred for their error rates are b-c, d-e"):
        routes.ways(C, 0)


def test_a_pool_of_ones_own_takes_its_bits_of_the_best_link() -> None:
    assert knowing(a_b=NOISY).ways(A, 0) == ((A, D),)
    assert knowing(a_d=Measured(pool_bits=4096)).ways(A, 0) == ((A, B),)
    barred = Measured(pool_bits=FULL.pool_bits, qber=0.09)
    with pytest.raises(Refusal, match=r"NO_ROUTE.*barred"):
        knowing(a_b=barred, a_d=barred).ways(A, 0)


def test_without_a_network_and_for_a_pool_of_ones_own_of_which_nothing_is_known_no_way_is_named() -> None:
    assert Routes(A, {}).ways(C, 0) == ()
    assert Routes(A, RING).ways(A, 0) == ()


def test_who_is_not_in_the_network_has_no_way() -> None:
    with pytest.raises(UsageError, match="km/x"):
        Routes(A, RING).ways(PartyId("km/x"), 0)
