"""Who is served when a pool runs low: tables, and schedules of arrivals, losses and draws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsotn.errors import KeyShortage, UsageError
from qsotn.keynetwork.throttle import Account, ServiceClass, Throttle

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
    assert throttle.allowance(name) == 0
    return allowed


def allowances(throttle: Throttle) -> list[int]:
    return [throttle.allowance(one.name) for one in CLASSES]


def test_what_arrives_is_credited_by_percent_up_to_that_of_the_mark_and_the_rest_is_common() -> None:
    """Of 1000 and a mark of 300: 150, 60 and 30 are saved up, 760 are common: 20 and 40 of them kept from below."""
    assert allowances(filled(1000)) == [150 + 760, 60 + 760 - 20, 30 + 760 - 40]


def test_of_less_than_the_mark_each_class_has_its_percent() -> None:
    """Of 100: 50, 20 and 10 are guaranteed, and the other 20 are the highest's: the mark keeps 20 from silver."""
    assert allowances(filled(100)) == [50 + 20, 20, 10]


def test_when_the_pool_is_full_everybody_is_served() -> None:
    for name in ("gold", "silver", "bronze"):
        assert filled(1000).allowance(name) >= 1000 - 300


def test_below_the_mark_the_lower_priorities_stop_first() -> None:
    throttle, stopped = filled(1000), list[str]()
    while throttle.allowance("gold"):
        for one in reversed(CLASSES):
            if one.name not in stopped and not throttle.allowance(one.name):
                stopped.append(one.name)
            elif one.name not in stopped:
                throttle.draw(one.name, 1)
    assert stopped == ["bronze", "silver"]


def test_the_highest_priority_may_empty_the_common_part_and_leaves_the_others_their_own() -> None:
    throttle = filled(1000)
    assert everything(throttle, "gold") == 910
    assert (throttle.allowance("silver"), throttle.allowance("bronze")) == (60, 30)
    assert (everything(throttle, "bronze"), everything(throttle, "silver")) == (30, 60)
    assert throttle.units == 0


def test_the_common_part_goes_before_a_class_s_own() -> None:
    throttle = filled(1000)
    throttle.draw("gold", 760)
    assert allowances(throttle) == [150, 60, 30]


def test_more_than_a_class_may_is_refused_and_nothing_is_taken() -> None:
    throttle = filled(100)
    with pytest.raises(KeyShortage, match="bronze may have 10 units now, and 11 were asked for"):
        throttle.draw("bronze", 11)
    with pytest.raises(KeyShortage, match="0 were asked for"):
        throttle.draw("bronze", 0)
    assert throttle.units == 100
    throttle.draw("bronze", 10)
    assert throttle.units == 90


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


def test_what_was_saved_up_in_idleness_does_not_count_twice() -> None:
    """Full accounts hold no claim on more than the next unit."""
    throttle = filled(1000)
    for units in range(1001, 1201):
        throttle.settle(units)
        assert all(account.hundredths <= 100 for account in throttle.accounts.values())


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
    assert allowances(throttle)[0] == 150 + 610
    throttle.settle(120)
    assert allowances(throttle) == [75, 30, 15]
    throttle.settle(0)
    assert allowances(throttle) == [0, 0, 0]


def test_another_throttle_goes_on_from_what_one_has_come_to() -> None:
    one, other = filled(105), Throttle(CLASSES, 300)
    one.draw("gold", 30)
    other.resume(one.units, one.accounts)
    assert (other.units, other.accounts, allowances(other)) == (one.units, one.accounts, allowances(one))
    assert other.accounts["silver"] == Account(21, 0)


def test_accounts_of_more_than_there_is_or_may_be_are_cut() -> None:
    throttle = Throttle(CLASSES, mark=100)
    throttle.resume(70, {"gold": Account(60), "silver": Account(30), "another": Account(5)})
    assert throttle.accounts == {"gold": Account(50), "silver": Account(20), "bronze": Account()}
    assert throttle.units == 70


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(0, 60)),
        st.tuples(st.just("lose"), st.integers(0, 60)),
        st.tuples(st.just("resume"), st.just(0)),
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
def test_no_schedule_gives_out_a_unit_that_is_not_there_and_above_the_mark_all_are_for_everybody(
    events: list[tuple[str, int]], percents: tuple[int, int, int], mark: int
) -> None:
    throttle, available = Throttle(shared(percents), mark), 0
    for what, units in events:
        if what == "arrive":
            available += units
        elif what == "lose":
            available -= min(units, available)
        elif what == "resume":
            before, throttle = throttle, Throttle(shared(percents), mark)
            throttle.resume(before.units, before.accounts)
            assert (throttle.accounts, allowances(throttle)) == (before.accounts, allowances(before))
        elif units <= throttle.allowance(what):
            throttle.draw(what, units)
            available -= units
        else:
            with pytest.raises(KeyShortage):
                throttle.draw(what, units)
        throttle.settle(available)
        assert throttle.units == available
        assert all(max(0, available - mark) <= allowed <= available for allowed in allowances(throttle))
        for percent, account in zip(percents, throttle.accounts.values(), strict=True):
            assert 0 <= account.credit <= mark * percent // 100
            assert account.hundredths >= 0
    together = sum(everything(throttle, one.name) for one in reversed(CLASSES))
    assert 0 <= together <= available


ROUNDS = st.lists(st.tuples(st.integers(0, 500), st.permutations([0, 1, 2])), max_size=60)


@given(ROUNDS, PERCENTS, st.integers(1000, 2000))
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


@given(ROUNDS, PERCENTS, st.integers(0, 400))
def test_of_more_than_the_mark_at_once_it_gets_its_percent_of_the_mark(
    rounds: list[tuple[int, list[int]]], percents: tuple[int, int, int], mark: int
) -> None:
    throttle = Throttle(shared(percents), mark)
    promised, got = [0, 0, 0], [0, 0, 0]
    for units, order in rounds:
        throttle.settle(throttle.units + units)
        for place in order:
            got[place] += everything(throttle, CLASSES[place].name)
        for place, percent in enumerate(percents):
            promised[place] += min(units, mark) * percent // 100
            assert got[place] >= promised[place] - len(CLASSES)


@given(ROUNDS, PERCENTS, st.integers(1000, 2000))
def test_of_two_processes_that_share_a_pool_each_leaves_the_classes_at_the_other_something(
    rounds: list[tuple[int, list[int]]], percents: tuple[int, int, int], mark: int
) -> None:
    """Gold asks at one, the others press at the other: gold's percent, less what the others may have twice."""
    near, far = Throttle(shared(percents), mark), Throttle(shared(percents), mark)
    arrived, got, stock = 0, 0, 0
    for units, _ in rounds:
        arrived, stock = arrived + units, stock + units
        for throttle in (near, far):
            throttle.arrive(units)
            throttle.settle(stock)
        for name in ("bronze", "silver"):
            stock -= everything(far, name)
        near.settle(stock)
        taken = everything(near, "gold")
        got, stock = got + taken, stock - taken
        far.settle(stock)
    assert stock >= 0
    # Every `settle` may round each account up once.
    assert got >= arrived * (percents[0] - percents[1] - percents[2]) // 100 - len(CLASSES) * (2 * len(rounds) + 1)


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
