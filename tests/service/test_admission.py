"""Can these two cities carry more lines? Asked of a QKMP that has watched the real key managers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.service.watch import Watch, distilled, ready
from tests.world import BLOCK_BYTES, World

from qsotn.app.province import KM_A, KM_B, KM_RELAY, LINK_A, LINK_B, QKMP
from qsotn.keynetwork.delivery import Pool
from qsotn.service.config import SupervisionSection

PER_LINE = 2 * 256 / 60
"""Bits a second of a line that changes its two keys every minute."""
BLOCK_BITS = BLOCK_BYTES * 8


@pytest.fixture
def watch(open_world: Callable[..., World]) -> Watch:
    """Both links made two blocks in a minute and a half, in sight of the QKMP."""
    return at_work(Watch(open_world("provisioned")))


def at_work(watch: Watch, **blocks: int) -> Watch:
    """Let each link make blocks while the QKMP looks: as many as named, or two."""
    watch.look()
    for number in range(8):
        for link in (LINK_A, LINK_B):
            if number < blocks.get(link.replace("-", "_"), 2):
                distilled(watch.world, link, number + 2)
        watch.look()
    return watch


def rate(watch: Watch, link: str) -> float:
    shown = watch.link(link)
    assert shown["rate_from"] == "SEEN"
    return float(shown["rate_bits_s"])


def test_a_yes_has_ways_for_all_lines(watch: Watch) -> None:
    told = watch.admission(lines=20).json()
    assert (told["admitted"], told["lines_asked"]) == (True, 20)
    assert told["bits_s_per_line"] == pytest.approx(PER_LINE)
    assert told["ways"] == [{"path": [KM_A, KM_RELAY, KM_B], "lines": 20}]
    assert told["lines_fit"] == int(min(rate(watch, LINK_A), rate(watch, LINK_B)) / 2 / PER_LINE)


def test_a_rate_is_what_both_ends_agreed_on_over_the_time_it_took(watch: Watch) -> None:
    assert rate(watch, LINK_A) == pytest.approx(2 * BLOCK_BITS / 60, rel=0.01)


def test_of_two_ends_that_saw_other_rates_the_lower_one_counts(open_world: Callable[..., World]) -> None:
    watch = Watch(open_world("provisioned"))
    watch.look(2)
    watch.silent = {KM_A}
    for number in range(2, 6):
        distilled(watch.world, LINK_A, number)
        watch.look(3)
    watch.silent = set()
    watch.look(12)
    with watch.world.desk(QKMP) as qkmp:
        told = [qkmp.history(one).busiest_bits_s(60_000_000) for one in qkmp.by_link()[LINK_A]]
    assert told[0] < told[1], "one end knows only what came of it in a longer time"
    assert rate(watch, LINK_A) == told[0]


def test_a_no_names_the_links_that_limit_and_how_many_would_fit(open_world: Callable[..., World]) -> None:
    watch = at_work(Watch(open_world("provisioned")), jinan_weifang=4, weifang_qingdao=1)
    fit = int(rate(watch, LINK_B) / 2 / PER_LINE)
    told = watch.admission(lines=fit + 1).json()
    assert (told["admitted"], told["lines_fit"], told["limiting_links"]) == (False, fit, [LINK_B])
    assert f"{LINK_B} let no more than {fit} more lines through" in told["reasons"]
    assert any(reason.startswith(f"twice the rate of {LINK_B} would add") for reason in told["reasons"])
    assert watch.admission(lines=fit).json()["admitted"]


def test_slower_rekeying_makes_room(watch: Watch) -> None:
    every_minute = watch.admission(rekey_interval_s=60).json()["lines_fit"]
    every_hour = watch.admission(rekey_interval_s=3600).json()["lines_fit"]
    assert every_hour // 60 == every_minute


def test_lines_in_service_are_counted_first(encrypted: World) -> None:
    watch = at_work(Watch(encrypted))
    fit = watch.admission().json()["lines_fit"]
    half = min(rate(watch, LINK_A), rate(watch, LINK_B)) / 2
    assert fit == int((half - PER_LINE) / PER_LINE), "one line is there, with keys every minute"
    assert "1 lines and pools take keys already" in watch.admission().json()["reasons"]


def test_what_saes_take_of_the_pools_is_counted_too(watch: Watch) -> None:
    before = watch.admission().json()["lines_fit"]
    pool = Pool(KM_A, KM_B, 1)
    for look in range(4):
        watch.pools = {KM_A: {pool: ready(400, delivered=100 * look)}}
        watch.look(3)
    with watch.world.desk(QKMP) as qkmp:
        (reading,) = qkmp.pools.values()
        taken = qkmp.history(reading).drawn_bits_s
    assert taken > 0
    after = watch.admission().json()["lines_fit"]
    assert before - after == pytest.approx(taken / PER_LINE, abs=1.1)


def test_over_a_link_that_does_not_count_nothing_is_carried(watch: Watch) -> None:
    distilled(watch.world, LINK_B, 9, error_rate=0.09)
    watch.look()
    told = watch.admission().json()
    assert (told["admitted"], told["lines_fit"]) == (False, 0)
    assert f"{LINK_B} does not count: it is NOISY" in told["reasons"]
    watch.silent = {KM_RELAY}
    watch.look()
    told = watch.admission().json()
    assert f"{LINK_A} does not count: it is SILENT" in told["reasons"]


@pytest.mark.parametrize("looks", [1, 4, 6])
def test_within_the_first_minute_it_cannot_be_said_yet(open_world: Callable[..., World], looks: int) -> None:
    watch = Watch(open_world("provisioned"))
    watch.look()
    first = watch.world.clock()
    for number in range(looks - 1):
        for link in (LINK_A, LINK_B):
            distilled(watch.world, link, number + 2, link_seconds=0.001)
        watch.look()
    told = watch.admission(lines=20).json()
    assert (told["verdict"], told["admitted"], told["lines_fit"]) == ("NOT_YET", False, 0)
    assert told["told_from"] == first + 60_000_000
    assert (told["ways"], told["limiting_links"]) == ([], [])
    seconds, bits = 10 * (looks - 1), BLOCK_BITS * (looks - 1)
    for link in (LINK_A, LINK_B):
        (reason,) = [one for one in told["reasons"] if one.startswith(f"the rate of {link} cannot be said before ")]
        assert reason.endswith(f" UTC: it was watched for {seconds} s and made {bits} bits")


def test_when_it_can_be_said_it_is_said(open_world: Callable[..., World]) -> None:
    watch = at_work(Watch(open_world("provisioned")))
    told = watch.admission().json()
    assert (told["verdict"], told["told_from"]) == ("YES", None)
    told = watch.admission(lines=told["lines_fit"] + 1).json()
    assert (told["verdict"], told["told_from"]) == ("NO", None)


def test_a_link_that_has_shown_too_little_makes_a_no_whatever_the_other_gives(
    open_world: Callable[..., World],
) -> None:
    watch = at_work(Watch(open_world("provisioned")), weifang_qingdao=0)
    fit = int(rate(watch, LINK_A) / 2 / PER_LINE)
    assert watch.admission(lines=fit).json()["verdict"] == "NOT_YET"
    told = watch.admission(lines=fit + 1).json()
    assert (told["verdict"], told["lines_fit"], told["limiting_links"]) == ("NO", 0, [LINK_A])
    assert f"{LINK_A} let no more than {fit} more lines through" in told["reasons"]


def test_a_link_that_rests_counts_by_its_busiest_minute_and_the_answer_says_so(watch: Watch) -> None:
    before = watch.admission().json()
    watch.look(40)
    told = watch.admission().json()
    assert (told["verdict"], told["lines_fit"]) == ("YES", before["lines_fit"])
    rests = "made nothing in the last two minutes; it counts by the busiest minute that is remembered of it"
    assert {f"{link} {rests}" for link in (LINK_A, LINK_B)} <= {*told["reasons"]}
    assert not any(rests in reason for reason in before["reasons"])
    watch.look(361)
    assert watch.admission().json()["verdict"] == "NOT_YET", "what is forgotten is shown no more"


def test_a_short_memory_is_long_enough_to_show_a_rate(open_world: Callable[..., World]) -> None:
    told = at_work(Watch(open_world("provisioned"), SupervisionSection(history_s=10.0)))
    assert told.admission().json()["verdict"] == "YES"


@pytest.mark.parametrize("question", [{"target": KM_RELAY}, {"origin": KM_RELAY}])
def test_a_line_ends_in_no_relay(watch: Watch, question: dict[str, str]) -> None:
    reply = watch.admission(**question)
    assert (reply.status, reply.json()["code"]) == (409, "NO_CITY")
    assert f"{KM_RELAY} is a relay; a line ends in cities: {KM_A}, {KM_B}" in reply.json()["detail"]


def test_its_blocks_own_account_admits_no_line_and_routes_supplies(open_world: Callable[..., World]) -> None:
    watch = Watch(open_world("provisioned"))
    for link in (LINK_A, LINK_B):
        distilled(watch.world, link, 2, link_seconds=10.0)
    watch.look(9)
    shown = watch.link(LINK_A)
    assert (shown["rate_from"], shown["rate_bits_s"]) == ("BLOCKS", BLOCK_BITS / 10)
    assert shown["width_bits"] > min(end["available_bits"] for end in shown["told"])
    told = watch.admission(lines=10).json()
    assert (told["verdict"], told["admitted"], told["told_from"]) == ("NOT_YET", False, None)
    assert (
        f"the rate of {LINK_A} cannot be said until it makes keys in sight: it was watched for 80 s and made 0 bits"
        in told["reasons"]
    )


def test_over_links_of_which_nothing_is_known_nothing_is_promised(open_world: Callable[..., World]) -> None:
    watch = Watch(open_world("provisioned"))
    watch.look(9)
    assert watch.link(LINK_A)["rate_from"] == "NONE"
    told = watch.admission().json()
    assert (told["verdict"], told["lines_fit"]) == ("NOT_YET", 0)


def test_cities_that_no_link_joins_carry_nothing(watch: Watch) -> None:
    watch.watched = (KM_A, KM_B)
    watch.silent = {KM_RELAY}
    watch.look()
    with watch.world.desk(QKMP) as qkmp:
        for key in [key for key, _ in qkmp.links.items(f"{LINK_A}/")]:
            qkmp.links.delete(key)
        lonely = next(iter(qkmp.links.values()))
        qkmp.links.put("spur/km/jinan", type(lonely)("spur", KM_A, QKMP, 1, 1, 0, 0, None, None))
    told = watch.admission().json()
    assert (told["admitted"], told["reasons"]) == (False, [f"no links lead from {KM_A} to {KM_B}"])


@pytest.mark.parametrize(
    ("question", "status", "said"),
    [
        ({"target": "km/yantai"}, 409, "UNKNOWN_KM"),
        ({"target": "km/jinan"}, 409, "SAME_KM"),
        ({"target": "qssp/jinan"}, 422, "$.target"),
        ({"lines": 0}, 422, "$.lines"),
        ({"lines": 10**7}, 422, "$.lines"),
        ({"lines": 1.5}, 422, "$.lines"),
        ({"rekey_interval_s": 0}, 422, "$.rekey_interval_s"),
        ({"key_bits": 100}, 422, "$.key_bits"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
def test_a_question_that_cannot_be_is_refused(
    watch: Watch, question: dict[str, object], status: int, said: str
) -> None:
    reply = watch.admission(**question)
    assert (reply.status, bool(reply.problem)) == (status, True)
    assert said in reply.json()["detail"] + reply.json().get("code", "")


def test_a_question_changes_nothing(watch: Watch) -> None:
    before = watch.world.dump(QKMP)
    assert watch.admission(lines=5).json() == watch.admission(lines=5).json()
    assert watch.world.dump(QKMP) == before
