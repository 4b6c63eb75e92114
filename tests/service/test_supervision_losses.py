"""The QKMP says at once where keys are lost: bits of a link that one end has alone, pools whose ends contradict."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.service.watch import LOOK_US, Watch, ready
from tests.world import World

from qsotn.app.province import KM_A, KM_B, KM_RELAY, LINK_A
from qsotn.domain import Secret
from qsotn.keynetwork.delivery import Pool, PoolCount
from qsotn.parties.network_alarms import LONGEST_WAIT_S, LOSS_SHOWN_US
from qsotn.procedures.block_account import EXPIRES_US, look_after_blocks

ONE, TWO = Pool(KM_A, KM_B, 1), Pool(KM_A, KM_B, 2)
SUBJECT = "pool km/jinan>km/qingdao"
AT_A = f"link {LINK_A} at {KM_A}"


@pytest.fixture
def watch(open_world: Callable[..., World]) -> Watch:
    return Watch(open_world("provisioned"))


def counts(watch: Watch, origin: PoolCount | None, target: PoolCount | None, pool: Pool = ONE) -> None:
    """Let both ends of the pool count so from now on; None for an end that knows no such pool."""
    watch.pools = {
        KM_A: {} if origin is None else {pool: origin},
        KM_B: {} if target is None else {pool: target},
    }


def gone(ready: int, *, delivered: int = 0, burned: int = 0, waiting: int = 0) -> PoolCount:
    return PoolCount(ready, waiting, delivered, 0, 0, burned)


def disagreement(watch: Watch) -> str:
    found = watch.alarms().get((SUBJECT, "ENDS_DISAGREE"))
    return "" if found is None else str(found["detail"])


# --- pools ------------------------------------------------------------------------------------------------------------


def test_a_target_that_lost_its_key_store_is_named_and_the_alarm_clears_when_both_have_the_next_series(
    watch: Watch,
) -> None:
    counts(watch, ready(100), ready(100))
    watch.look(3)
    assert watch.alarms() == {}
    counts(watch, ready(100), None)
    watch.look(2)
    assert disagreement(watch) == "km/jinan promises 25600 bits; km/qingdao knows no such pool"
    watch.pools = {KM_A: {ONE: gone(0, burned=100), TWO: ready(40)}, KM_B: {TWO: ready(40)}}
    watch.look()
    assert disagreement(watch) == ""
    lost = watch.alarms()[SUBJECT, "KEYS_LOST"]
    assert lost["detail"] == "series 1 ended, and what was ready of it was destroyed: one end had lost it"
    watch.look(LOSS_SHOWN_US // LOOK_US)
    assert (SUBJECT, "KEYS_LOST") not in watch.alarms()
    assert (SUBJECT, "KEYS_LOST") in watch.alarms(cleared=True)


def test_a_pool_whose_origin_heals_it_between_two_looks_alarms_all_the_same(watch: Watch) -> None:
    counts(watch, ready(100), ready(100))
    watch.look(2)
    watch.pools = {KM_A: {ONE: gone(0, burned=100), TWO: ready(90)}, KM_B: {TWO: ready(90)}}
    watch.look()
    assert watch.alarms()[SUBJECT, "KEYS_LOST"]["severity"] == "MAJOR"


@pytest.mark.parametrize(
    ("origin", "target", "detail"),
    [
        (
            ready(100),
            gone(60, delivered=30),
            "km/jinan had laid in 25600 bits by the look before, km/qingdao has only ever had 23040",
        ),
        (
            ready(100),
            gone(0, burned=100),
            "25600 bits were ready no more at km/qingdao by the look before, and only 0 are at km/jinan",
        ),
        (
            gone(90, delivered=10),
            gone(80, delivered=20),
            "5120 bits were ready no more at km/qingdao by the look before, and only 2560 are at km/jinan",
        ),
    ],
)
def test_ends_that_contradict_each_other_alarm_while_they_do(
    watch: Watch, origin: PoolCount, target: PoolCount, detail: str
) -> None:
    counts(watch, origin, target)
    watch.look(3)
    assert disagreement(watch) == detail
    counts(watch, gone(100, delivered=50), gone(100, delivered=50))
    watch.look(2)
    assert disagreement(watch) == ""


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([(gone(100), gone(60)), (gone(100), gone(100)), (gone(150), gone(100))], id="on its way"),
        pytest.param([(gone(100), gone(50, waiting=50)), (gone(50, delivered=50), gone(0, waiting=100))], id="busy"),
        pytest.param([(gone(50, waiting=50), gone(100)), (gone(0, waiting=100), gone(50, waiting=50))], id="held"),
        pytest.param([(gone(100), gone(140)), (gone(100), gone(140)), (gone(100), gone(140))], id="not confirmed"),
        pytest.param([(gone(0), None), (gone(0), None), (gone(40), None), (gone(40), gone(40))], id="begins"),
    ],
)
def test_what_is_under_way_between_two_ends_that_are_not_asked_at_once_is_no_contradiction(
    watch: Watch, looks: list[tuple[PoolCount, PoolCount | None]]
) -> None:
    for origin, target in looks:
        counts(watch, origin, target)
        watch.look()
    watch.look()
    assert not any(cause == "ENDS_DISAGREE" for _, cause in [*watch.alarms(), *watch.alarms(cleared=True)])


def test_of_a_silent_end_nothing_is_said_and_what_was_said_stays(watch: Watch) -> None:
    counts(watch, ready(100), ready(100))
    watch.look(2)
    watch.silent = {KM_B}
    counts(watch, ready(200), ready(200))
    watch.look(3)
    assert disagreement(watch) == "", "it may well have what is new, and cannot say so"
    watch.silent = set()
    counts(watch, ready(200), None)
    watch.look(3)
    assert disagreement(watch)
    watch.silent = {KM_B}
    watch.look(3)
    assert disagreement(watch)


def test_a_pool_of_one_key_manager_has_no_other_end(watch: Watch) -> None:
    own = Pool(KM_A, KM_A, 1)
    watch.pools = {KM_A: {own: ready(50)}}
    watch.look(4)
    assert not any(cause == "ENDS_DISAGREE" for _, cause in watch.alarms())


# --- links ------------------------------------------------------------------------------------------------------------


def deposited_at_one_end(watch: Watch) -> None:
    with watch.world.desk(KM_A) as km:
        km.deposit(LINK_A, 2, Secret(bytes(1024)), {"pulses": 0})


def test_a_block_that_waits_for_long_and_is_written_off_at_last_alarms_both_times(watch: Watch) -> None:
    watch.look()
    deposited_at_one_end(watch)
    watch.look()
    assert (AT_A, "BLOCK_WAITS") not in watch.alarms(), "it takes a moment to agree"
    watch.look(int(LONGEST_WAIT_S * 1e6) // LOOK_US)
    assert watch.alarms()[AT_A, "BLOCK_WAITS"]["detail"] == (
        f"1 blocks wait for {KM_RELAY} to agree, the oldest for {LONGEST_WAIT_S + 10:.0f} s"
    )
    watch.world.clock.advance(EXPIRES_US)
    watch.world.begin(KM_A, look_after_blocks)
    watch.look()
    assert (AT_A, "BLOCK_WAITS") not in watch.alarms()
    assert watch.alarms()[AT_A, "KEYS_LOST"]["detail"] == "8192 bits were written off so far, the newest lately"
    watch.look(LOSS_SHOWN_US // LOOK_US)
    assert (AT_A, "KEYS_LOST") not in watch.alarms()
    assert (f"link {LINK_A}", "ENDS_DISAGREE") not in watch.alarms()


def test_prometheus_is_shown_what_waits_and_what_was_lost(watch: Watch) -> None:
    deposited_at_one_end(watch)
    watch.look()
    labels = f'{{km="{KM_A}",link="{LINK_A}"}}'
    assert f"qsotn_link_pending_seconds{labels} 10.0" in watch.scraped()
    watch.world.clock.advance(EXPIRES_US)
    watch.world.begin(KM_A, look_after_blocks)
    watch.look()
    assert f"qsotn_link_pending_seconds{labels} 0.0" in watch.scraped()
    assert f"qsotn_link_lost_bits{labels} 8192.0" in watch.scraped()
