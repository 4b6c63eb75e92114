"""Who is served when a pool runs low: tables, and schedules of arrivals, losses and draws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsotn.errors import Refusal, UsageError
from qsotn.keynetwork.throttle import ServiceClass, Throttle

GOLD, SILVER, BRONZE = ServiceClass("gold", 50), ServiceClass("silver", 20), ServiceClass("bronze", 10)
CLASSES = (GOLD, SILVER, BRONZE)


def filled(units: int, mark: int = 300) -> Throttle:
    throttle = Throttle(CLASSES, mark)
    throttle.settle(units)
    return throttle


def everything(throttle: Throttle, name: str) -> int:
    """Draw all that a class may, and return how much that was."""
    allowed = throttle.allowance(name)
    if allowed:
        throttle.draw(name, allowed)
    return allowed


def test_what_arrives_is_credited_by_percent_and_the_rest_is_common() -> None:
    """Of 1000: 500, 200 and 100 are guaranteed, 200 are common; the mark of 300 keeps 100 and 200 of those."""
    throttle = filled(1000)
    assert {one.name: throttle.allowance(one.name) for one in CLASSES} == {
        "gold": 500 + 200,
        "silver": 200 + (200 - 100),
        "bronze": 100 + (200 - 200),
    }


def test_in_plenty_the_lowest_class_is_served_beyond_its_minimum() -> None:
    assert filled(3000).allowance("bronze") == 300 + (600 - 200)


def test_the_highest_priority_may_empty_the_common_part_and_leaves_the_others_their_own() -> None:
    throttle = filled(1000)
    assert everything(throttle, "gold") == 700
    assert (throttle.allowance("silver"), throttle.allowance("bronze")) == (200, 100)
    assert (everything(throttle, "bronze"), everything(throttle, "silver")) == (100, 200)
    assert throttle.units == 0


def test_the_common_part_goes_before_a_class_s_own() -> None:
    throttle = filled(1000)
    throttle.draw("gold", 200)
    assert throttle.allowance("silver") == 200  # nothing of the common part is left
    assert throttle.allowance("gold") == 500


def test_more_than_a_class_may_is_refused_and_nothing_is_taken() -> None:
    throttle = filled(1000)
    with pytest.raises(Refusal, match="KEY_SHORTAGE: class bronze may draw at most 100 units now, and asked for 101"):
        throttle.draw("bronze", 101)
    with pytest.raises(Refusal, match="asked for 0"):
        throttle.draw("bronze", 0)
    assert throttle.units == 1000
    throttle.draw("bronze", 100)
    assert throttle.units == 900


def test_a_class_that_does_not_ask_saves_up_to_its_percent_of_the_mark_and_the_others_get_the_rest() -> None:
    throttle = Throttle(CLASSES, mark=300)
    available = 0
    for _ in range(100):
        available += 10
        throttle.settle(available)
        available -= everything(throttle, "gold")
    assert throttle.allowance("bronze") == 30
    assert throttle.allowance("silver") == 60
    assert available == 90


def test_parts_of_a_unit_add_up() -> None:
    """One unit at a time, a tenth of each is bronze's: every tenth unit is its own, or the one after."""
    throttle, bronze = Throttle(CLASSES, mark=300), 0
    for _ in range(1000):
        throttle.settle(throttle.units + 1)
        everything(throttle, "gold")
        bronze += everything(throttle, "bronze")
    assert bronze in {99, 100}


def test_a_unit_that_two_classes_have_earned_by_halves_is_credited_once() -> None:
    throttle = Throttle((ServiceClass("gold", 50), ServiceClass("silver", 50)), mark=10)
    throttle.settle(1)
    assert everything(throttle, "gold") == 1  # nobody has earned a whole one yet
    throttle.settle(1)
    assert [throttle.allowance(name) for name in ("gold", "silver")] == [1, 0]
    everything(throttle, "gold")
    throttle.settle(1)
    assert [throttle.allowance(name) for name in ("gold", "silver")] == [0, 1]


def test_lost_units_come_from_the_common_part_first_and_then_from_every_credit_alike() -> None:
    throttle = filled(1000)
    throttle.settle(850)
    assert throttle.allowance("gold") == 500 + 50
    throttle.settle(400)
    assert [throttle.allowance(one.name) for one in CLASSES] == [250, 100, 50]
    throttle.settle(0)
    assert [throttle.allowance(one.name) for one in CLASSES] == [0, 0, 0]


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(0, 60)),
        st.tuples(st.just("lose"), st.integers(0, 60)),
        st.tuples(st.sampled_from([one.name for one in CLASSES]), st.integers(1, 60)),
    ),
    max_size=80,
)
PERCENTS = st.one_of(
    st.sampled_from([(50, 30, 20), (34, 33, 33), (0, 0, 100)]),
    st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(0, 30)),
)


def shared(percents: tuple[int, int, int]) -> tuple[ServiceClass, ...]:
    return tuple(ServiceClass(one.name, percent) for one, percent in zip(CLASSES, percents, strict=True))


@given(EVENTS, PERCENTS, st.integers(0, 100))
def test_no_schedule_gives_out_a_unit_that_is_not_there(
    events: list[tuple[str, int]], percents: tuple[int, int, int], mark: int
) -> None:
    throttle, available = Throttle(shared(percents), mark), 0
    for what, units in events:
        if what == "arrive":
            available += units
        elif what == "lose":
            available -= min(units, available)
        elif units <= throttle.allowance(what):
            throttle.draw(what, units)
            available -= units
        else:
            with pytest.raises(Refusal, match="KEY_SHORTAGE"):
                throttle.draw(what, units)
        throttle.settle(available)
        assert throttle.units == available
        assert all(0 <= throttle.allowance(one.name) <= available for one in CLASSES)
    together = sum(everything(throttle, one.name) for one in reversed(CLASSES))
    assert 0 <= together <= available


@given(st.lists(st.tuples(st.integers(0, 500), st.permutations([0, 1, 2])), max_size=60), PERCENTS, st.integers(0, 400))
def test_a_class_that_keeps_asking_gets_its_percent_however_hard_the_others_press(
    rounds: list[tuple[int, list[int]]], percents: tuple[int, int, int], mark: int
) -> None:
    """All classes draw all they may in every round, in any order: each still has its minimum, less whole units."""
    throttle = Throttle(shared(percents), mark)
    arrived, got = 0, [0, 0, 0]
    for units, order in rounds:
        arrived += units
        throttle.settle(throttle.units + units)
        for place in order:
            got[place] += everything(throttle, CLASSES[place].name)
        for place, percent in enumerate(percents):
            assert got[place] >= arrived * percent // 100 - len(CLASSES)
    assert sum(got) <= arrived


@pytest.mark.parametrize(
    ("classes", "mark", "complaint"),
    [
        ((), 10, "expected at least one, each with a name of its own"),
        ((GOLD, GOLD), 10, "expected at least one, each with a name of its own"),
        ((ServiceClass("gold", 101),), 10, "class gold is guaranteed 101 %: expected 0 to 100"),
        ((ServiceClass("gold", -1),), 10, "class gold is guaranteed -1 %: expected 0 to 100"),
        ((GOLD, ServiceClass("other", 51)), 10, "the classes are guaranteed 101 % in all: expected at most 100"),
        ((GOLD,), -1, "a pool is low below -1 units: expected zero or more"),
    ],
)
def test_classes_that_cannot_be_served_are_refused(
    classes: tuple[ServiceClass, ...], mark: int, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        Throttle(classes, mark)


def test_an_unknown_class_and_an_impossible_pool_are_refused() -> None:
    throttle = filled(10)
    with pytest.raises(UsageError, match="there is no class 'lead'; there are gold, silver, bronze"):
        throttle.draw("lead", 1)
    with pytest.raises(UsageError, match="a pool cannot hold -1 units"):
        throttle.settle(-1)
