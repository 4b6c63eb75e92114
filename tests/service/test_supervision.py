"""The QKMP looks at the key network: what it sees, what alarms it, and how that clears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.service.desks import run
from tests.service.http.driver import Client, application_of
from tests.service.watch import LOOK_US, WATCHED, Watch, distilled, ready
from tests.world import BLOCK_BYTES, World, deposit, drain

from qsotn.app.province import KM_A, KM_B, KM_RELAY, LINE, LINK_A, LINK_B, QKMP, QSSP_A, QSSP_B
from qsotn.domain import End, KeyId
from qsotn.errors import StoreError, UsageError
from qsotn.keynetwork.delivery import Pool
from qsotn.parties.network_alarms import Cause
from qsotn.service import supervision
from qsotn.service.config import SupervisionSection, load_configuration

JINAN_TO_QINGDAO = Pool(KM_A, KM_B, 1)


@pytest.fixture
def watch(open_world: Callable[..., World]) -> Watch:
    """A province with a block on each link, and nothing begun."""
    return Watch(open_world("provisioned"))


@pytest.fixture
def watched_line(encrypted: World) -> Watch:
    """A province with one encrypted line."""
    return Watch(encrypted)


# --- what is seen ---------------------------------------------------------------------------------------------------


def test_before_the_first_look_nothing_is_known_and_nothing_is_wrong(watch: Watch) -> None:
    assert watch.read("network") == {"at": 0, "parties": [], "links": []}
    for path in ("pools", "lines", "forecast", "alarms"):
        assert watch.read(f"network/{path}") == {"items": [], "next_cursor": None}


def test_a_look_shows_every_party_and_both_ends_of_every_link(watch: Watch) -> None:
    watch.look()
    seen = watch.read("network")
    assert [one["party"] for one in seen["parties"]] == sorted(WATCHED)
    assert not any(one["silent_since"] for one in seen["parties"])
    assert [(one["link"], one["state"]) for one in seen["links"]] == [(LINK_A, "UP"), (LINK_B, "UP")]
    link = watch.link(LINK_A)
    assert link["ends"] == [KM_A, KM_RELAY]
    for end in link["told"]:
        with watch.world.desk(end["km"]) as km:
            assert end["available_bits"] == km.available_bits(LINK_A) > 0
        assert (end["agreed_bits"], end["drawn_bits"]) == (BLOCK_BYTES * 8, 0)
    assert watch.alarms() == {}


def test_a_reading_says_how_old_it_is(watch: Watch) -> None:
    watch.look()
    watch.world.clock.advance(2_500_000)
    assert [end["age_s"] for end in watch.link(LINK_A)["told"]] == [2.5, 2.5]


def test_what_is_drawn_is_counted_at_the_end_that_drew_it(watch: Watch) -> None:
    watch.look()
    with watch.world.desk(KM_A) as km:
        km.allocate(LINK_A, 4, 256)
    watch.look()
    drawn = {end["km"]: end["drawn_bits"] for end in watch.link(LINK_A)["told"]}
    assert drawn == {KM_A: 1024, KM_RELAY: 0}
    assert watch.link(LINK_A)["drawn_bits_s"] == 0, "two looks too near for two points"
    watch.look(3)
    assert watch.link(LINK_A)["drawn_bits_s"] == pytest.approx(1024 / 30)


def test_counts_of_spent_blocks_are_kept_and_do_not_change(watch: Watch) -> None:
    drain(watch.world, KM_A, LINK_A)
    distilled(watch.world, LINK_A, 2)
    watch.look()
    drain(watch.world, KM_A, LINK_A)
    distilled(watch.world, LINK_A, 3)
    watch.look(2)
    (told,) = (end for end in watch.link(LINK_A)["told"] if end["km"] == KM_A)
    assert (told["agreed_bits"], told["drawn_bits"]) == (3 * BLOCK_BYTES * 8, 2 * BLOCK_BYTES * 8 // 2)
    with watch.world.desk(KM_A) as km:
        counted = km.desk.collection("link-totals", dict[str, Any]).get(LINK_A)
    assert (counted["number"], counted["blocks"]) == (2, 2), "the third is open"


def test_a_block_that_the_ends_did_not_agree_on_counts_as_nothing(watch: Watch) -> None:
    deposit(watch.world, LINK_A, 2, blocks=(bytes(BLOCK_BYTES), b"\1" * BLOCK_BYTES))
    watch.world.settle()
    watch.look()
    told = {end["km"]: (end["agreed_bits"], end["pending_blocks"]) for end in watch.link(LINK_A)["told"]}
    assert told == dict.fromkeys((KM_A, KM_RELAY), (BLOCK_BYTES * 8, 0))


def test_pools_are_shown_as_both_ends_count_them(watch: Watch) -> None:
    old = Pool(KM_A, KM_B, 1)
    new = Pool(KM_A, KM_B, 2)
    watch.pools = {KM_A: {old: ready(0), new: ready(100, delivered=3)}, KM_B: {new: ready(99), old: ready(0)}}
    watch.look()
    (pool,) = watch.read("network/pools")["items"]
    assert (pool["origin"], pool["target"], pool["series"]) == (KM_A, KM_B, 2)
    assert {end["km"]: (end["ready_bits"], end["delivered_bits"]) for end in pool["told"]} == {
        KM_A: (25_600, 768),
        KM_B: (99 * 256, 0),
    }


def test_a_long_list_is_read_page_by_page(watch: Watch) -> None:
    watch.pools = {KM_A: {Pool(KM_A, KM_B, number): ready(40) for number in range(1, 206)}}
    watch.look()
    assert watch.asked.count((KM_A, "/pools")) == 2
    assert watch.read("network/pools")["items"][0]["series"] == 205


def test_of_two_replicas_one_looks(watch: Watch) -> None:
    watch.look()
    asked = len(watch.asked)
    run(watch.supervision().look())
    assert len(watch.asked) == asked, "the other one just did"
    watch.look()
    assert len(watch.asked) == 2 * asked


def test_a_process_that_begins_again_goes_on_from_its_store(watch: Watch) -> None:
    watch.silent = {KM_B}
    watch.look(2)
    watch.world.restart(QKMP)
    assert (KM_B, "PARTY_SILENT") in watch.alarms()
    watch.look()
    assert watch.alarms()[KM_B, "PARTY_SILENT"]["raised_at"] == watch.world.clock() - LOOK_US


def test_who_is_not_asked_any_more_is_forgotten(watch: Watch) -> None:
    watch.pools = {KM_B: {JINAN_TO_QINGDAO: ready(1)}}
    watch.look(2)
    assert ("pool km/jinan>km/qingdao", "POOL_LOW") not in watch.alarms(), "its origin says nothing of it"
    watch.watched = tuple(party for party in WATCHED if party not in (KM_B, QSSP_B))
    watch.look()
    seen = watch.read("network")
    assert [one["party"] for one in seen["parties"]] == sorted(watch.watched)
    assert [end["km"] for end in watch.link(LINK_B)["told"]] == [KM_RELAY]
    assert watch.link(LINK_B)["state"] == "SILENT"
    assert watch.read("network/pools")["items"] == []
    with watch.world.desk(QKMP) as qkmp:
        assert not [key for key, _ in qkmp.histories.items() if key.endswith(KM_B)]


# --- who does not answer --------------------------------------------------------------------------------------------


def test_a_key_manager_that_falls_silent_is_named_and_its_alarm_clears_by_itself(watch: Watch) -> None:
    watch.look()
    watch.silent = {KM_RELAY}
    watch.look()
    first = watch.world.clock()
    assert watch.alarms() == {}, "once is no alarm"
    assert watch.link(LINK_A)["state"] == "SILENT", "but nothing is expected of its links"
    watch.look(2)
    alarm = watch.alarms()[KM_RELAY, "PARTY_SILENT"]
    assert (alarm["severity"], alarm["detail"]) == ("CRITICAL", f"{KM_RELAY} gave no answer")
    assert (alarm["since"], alarm["raised_at"]) == (first, first + LOOK_US)
    watch.silent = set()
    watch.look()
    assert watch.alarms() == {}
    assert watch.alarms(cleared=True)[KM_RELAY, "PARTY_SILENT"]["cleared_at"] == watch.world.clock()
    assert watch.link(LINK_A)["state"] == "UP"


def test_a_suspicion_that_was_none_leaves_no_trace(watch: Watch) -> None:
    watch.silent = {KM_A}
    watch.look()
    watch.silent = set()
    watch.look(2)
    assert watch.read("network/alarms")["items"] == []


def test_what_a_silent_party_would_know_stays_as_it_was(watch: Watch) -> None:
    drain(watch.world, KM_A, LINK_A)
    watch.look(2)
    low = (f"link {LINK_A} at {KM_A}", "LINK_LOW")
    assert low in watch.alarms()
    watch.silent = {KM_A}
    watch.look(3)
    assert low in watch.alarms(), "nobody says that it is better"
    distilled(watch.world, LINK_A, 2)
    watch.silent = set()
    watch.look()
    assert low not in watch.alarms()


def test_blocks_that_arrive_while_one_end_is_silent_are_no_disagreement(watch: Watch) -> None:
    watch.look()
    watch.silent = {KM_A}
    for number in (2, 3, 4):
        distilled(watch.world, LINK_A, number)
        watch.look()
    watch.silent = set()
    watch.look(3)
    assert not any(cause == "ENDS_DISAGREE" for _, cause in [*watch.alarms(), *watch.alarms(cleared=True)])


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (b"\xff", "something else than it should"),
        (b'{"items": [{"link": 1}], "next_cursor": null}', "something else than it should"),
        (b'{"items": [], "next_cursor": "again"}', "more than 100 pages"),
    ],
)
def test_an_answer_that_is_none_counts_as_silence(watch: Watch, lie: bytes, why: str) -> None:
    watch.lies = {(KM_A, "/links"): lie}
    watch.look(2)
    assert why in watch.alarms()[KM_A, "PARTY_SILENT"]["detail"]
    assert watch.link(LINK_B)["state"] == "UP", "the others were heard"


def test_a_key_manager_cannot_tell_of_a_pool_of_others(watch: Watch) -> None:
    watch.pools = {KM_RELAY: {Pool(KM_A, KM_B, 9): ready(1)}}
    watch.look(2)
    assert "which is not its own" in watch.alarms()[KM_RELAY, "PARTY_SILENT"]["detail"]
    assert watch.read("network/pools")["items"] == []


def test_one_that_hangs_keeps_nobody_waiting(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "LONGEST_ANSWER_S", 0.05)
    asking = watch.supervision()
    reach = asking._reach

    class Hangs:
        async def ask(self, *_: Any) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

    asking._reach = lambda party: Hangs() if party == KM_B else reach(party)
    watch.world.clock.advance(LOOK_US)
    run(asking.look())
    parties = {one["party"]: one["reason"] for one in watch.read("network")["parties"]}
    assert parties[KM_B] == f"{KM_B} did not answer within 0.05 s"
    assert parties[KM_A] == ""


def test_silence_is_logged_once_and_so_is_its_end(watch: Watch) -> None:
    asking = watch.supervision()
    with capture_logs() as logs:
        for silent in ({KM_A}, {KM_A}, set()):
            watch.silent = silent
            watch.world.clock.advance(LOOK_US)
            run(asking.look())
    assert [(one["event"], one["asked"]) for one in logs] == [("no answer", KM_A), ("answers again", KM_A)]


def test_a_look_that_cannot_be_noted_is_told_and_the_next_one_comes(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, looks = watch.supervision(), list[int]()

    async def look() -> None:
        looks.append(len(looks))
        if len(looks) == 1:
            raise StoreError("the disk is full")

    async def story() -> None:
        task = asyncio.create_task(asking.run())
        while len(looks) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    monkeypatch.setattr(asking, "look", look)
    asking._section = SupervisionSection(interval_s=0.001)
    with capture_logs() as logs:
        run(story())
    assert [one["reason"] for one in logs] == ["the disk is full"]


# --- links and pools ------------------------------------------------------------------------------------------------


def test_an_error_rate_above_the_limit_alarms_at_once_until_a_better_block(watch: Watch) -> None:
    watch.look()
    distilled(watch.world, LINK_A, 2, error_rate=0.071)
    watch.look()
    alarm = watch.alarms()[f"link {LINK_A}", "QBER_HIGH"]
    assert alarm["detail"] == f"QBER 7.10% at {KM_A}; the limit is 5.00%"
    assert watch.link(LINK_A)["state"] == "NOISY"
    assert watch.link(LINK_B)["state"] == "UP"
    distilled(watch.world, LINK_A, 3, error_rate=0.02)
    watch.look()
    assert watch.alarms() == {}
    assert (watch.link(LINK_A)["state"], watch.link(LINK_A)["qber"]) == ("UP", 0.02)


def test_ends_that_do_not_have_the_same_blocks_disagree(watch: Watch) -> None:
    watch.look()
    with watch.world.desk(KM_RELAY) as km:
        km.blocks.delete(f"{LINK_A}/00000001")
    watch.look(2)
    alarm = watch.alarms()[f"link {LINK_A}", "ENDS_DISAGREE"]
    assert alarm["detail"] == (f"{KM_A} had agreed on {BLOCK_BYTES * 8} bits by the look before, {KM_RELAY} has only 0")
    assert watch.link(LINK_A)["state"] == "DISAGREES"


def test_a_block_that_one_end_has_agreed_on_a_moment_earlier_is_no_disagreement(watch: Watch) -> None:
    """A link that distils at every look, whose far end is asked a moment too early each time."""
    for number in range(2, 8):
        answer = Client(application_of(watch.world, KM_RELAY), QKMP)("GET", "/operations/v1/links")
        watch.lies = {(KM_RELAY, "/links"): answer.body}
        distilled(watch.world, LINK_A, number)
        watch.look()
    agreed = {end["km"]: end["agreed_bits"] for end in watch.link(LINK_A)["told"]}
    assert agreed[KM_A] - agreed[KM_RELAY] == BLOCK_BYTES * 8
    assert watch.alarms() == {}


def test_a_far_end_that_knows_no_such_link_disagrees(watch: Watch) -> None:
    with watch.world.desk(KM_RELAY) as km:
        known = km.configuration
        links = {name: far for name, far in known.links.items() if name != LINK_A}
        changed = msgspec.structs.replace(known, links=links)
        km.desk.collection("configuration", type(known)).put("km", changed)
    watch.look(2)
    alarm = watch.alarms()[f"link {LINK_A}", "ENDS_DISAGREE"]
    assert alarm["detail"] == f"{KM_A} says that {KM_RELAY} is its far end, which knows no such link"


def test_a_link_and_a_pool_below_their_marks_are_told_apart(watch: Watch) -> None:
    watch.pools = {KM_A: {JINAN_TO_QINGDAO: ready(31)}, KM_B: {JINAN_TO_QINGDAO: ready(31)}}
    drain(watch.world, KM_RELAY, LINK_A)
    watch.look(2)
    found = watch.alarms()
    assert found.pop((f"link {LINK_A} at {KM_RELAY}", "LINK_LOW"))["detail"] == "0 bits are left; the mark is 8192"
    assert found.pop(("pool km/jinan>km/qingdao", "POOL_LOW"))["detail"] == "7936 bits are ready; the mark is 8192"
    assert {cause for _, cause in found} <= {"STARVES_SOON"}
    watch.pools = {KM_A: {JINAN_TO_QINGDAO: ready(32)}}
    watch.look()
    assert ("pool km/jinan>km/qingdao", "POOL_LOW") not in watch.alarms()


def test_a_link_that_runs_dry_is_foreseen(watch: Watch) -> None:
    watch.section = SupervisionSection(link_bits=0)

    def draw() -> None:
        with watch.world.desk(KM_A) as km:
            km.allocate(LINK_A, 2, 256)

    watch.look(19, draw)
    (outlook,) = [
        one for one in watch.read("network/forecast")["items"] if (one["what"], one["km"]) == (f"link {LINK_A}", KM_A)
    ]
    assert outlook["bits_per_s"] == pytest.approx(-51.2)
    rates = {(one["what"], one["km"]): one for one in watch.read("network/rates")["items"]}
    drawn = rates[f"link {LINK_A}", KM_A]
    assert drawn["drawn_bits_s"] == pytest.approx(51.2, rel=0.05)
    assert (drawn["gained_bits_s"], rates[f"link {LINK_A}", KM_RELAY]["drawn_bits_s"]) == (0.0, 0.0)
    assert 0 < drawn["over_s"] <= 600
    expected = outlook["available_bits"] / 51.2
    assert outlook["starves_in_s"] == pytest.approx(expected, abs=11), "its last point may be a look old"
    assert (f"link {LINK_A} at {KM_A}", "STARVES_SOON") in watch.alarms()
    assert (f"link {LINK_A} at {KM_RELAY}", "STARVES_SOON") not in watch.alarms()
    before = watch.alarms()[f"link {LINK_A} at {KM_A}", "STARVES_SOON"]
    watch.silent = {KM_A}
    watch.look(2)
    after = watch.alarms()[f"link {LINK_A} at {KM_A}", "STARVES_SOON"]
    assert after == before, "nobody says otherwise, and nothing is made up"


# --- lines ----------------------------------------------------------------------------------------------------------


def test_two_qssps_with_the_same_keys_are_together(watched_line: Watch) -> None:
    watched_line.look()
    (line,) = watched_line.read("network/lines")["items"]
    assert (line["line"], line["step"], line["last_common"], line["behind"]) == (LINE, "TOGETHER", 1, "")
    assert [(end["qssp"], end["newest"]) for end in line["ends"]] == [(QSSP_A, 1), (QSSP_B, 1)]


def draw(watch: Watch, qssp: Any, end: End, generation: int, first: str = "0") -> None:
    """One QSSP draws a generation, and nobody else."""
    with watch.world.desk(qssp) as party:
        ids = tuple(KeyId(f"{first}{number}000000-0000-4000-8000-{generation:012}") for number in (1, 2))
        party.announce(LINE, end, generation, ids)
        kept = party.generations.require(f"{LINE}/{end}/{generation:08}")
        drawn = msgspec.structs.replace(kept, drawn_at=watch.world.clock())
        party.generations.put(f"{LINE}/{end}/{generation:08}", drawn)
        party.next_generation(party.services.require(f"{LINE}/{end}"), generation)


def test_a_qssp_that_lags_is_named_with_the_last_common_generation(watched_line: Watch) -> None:
    watch = watched_line
    watch.look()
    draw(watch, QSSP_A, End.A, 2)
    watch.look(2)
    assert watch.alarms() == {}, "the other one may be drawing it now"
    watch.look(2)
    alarm = watch.alarms()[f"line {LINE}", "QSSP_LAGS"]
    assert alarm["detail"] == (f"{QSSP_B} lags: {QSSP_A} has 2, {QSSP_B} has 1; the last that both have is 1")
    assert watch.read("network/lines")["items"][0]["behind"] == QSSP_B
    draw(watch, QSSP_B, End.B, 2)
    watch.look()
    assert watch.alarms() == {}
    assert watch.read("network/lines")["items"][0]["last_common"] == 2


def test_a_generation_that_was_announced_and_never_drawn_does_not_count(watched_line: Watch) -> None:
    watch = watched_line
    draw(watch, QSSP_A, End.A, 2)
    draw(watch, QSSP_B, End.B, 2)
    with watch.world.desk(QSSP_B) as party:
        kept = party.generations.require(f"{LINE}/b/00000002")
        party.generations.put(f"{LINE}/b/00000002", msgspec.structs.replace(kept, drawn_at=0))
    watch.look(4)
    (line,) = watch.read("network/lines")["items"]
    assert (line["last_common"], line["behind"]) == (1, QSSP_B)


def test_two_qssps_with_other_key_ids_are_named(watched_line: Watch) -> None:
    watch = watched_line
    draw(watch, QSSP_A, End.A, 2, first="a")
    draw(watch, QSSP_B, End.B, 2, first="b")
    watch.look()
    alarm = watch.alarms()[f"line {LINE}", "KEYS_DIFFER"]
    assert alarm["severity"] == "CRITICAL"
    assert alarm["detail"] == (f"{QSSP_A} and {QSSP_B} give generation 2 other key IDs; the last that both have is 1")
    draw(watch, QSSP_A, End.A, 3)
    draw(watch, QSSP_B, End.B, 3)
    watch.look()
    (line,) = watch.read("network/lines")["items"]
    assert (line["step"], line["last_common"], line["differing"]) == ("DIFFERS", 3, [2])


def test_a_qssp_that_changed_what_was_agreed_on_is_found_even_if_both_did(watched_line: Watch) -> None:
    watch = watched_line
    for qssp, end in ((QSSP_A, End.A), (QSSP_B, End.B)):
        with watch.world.desk(qssp) as party:
            kept = party.generations.require(f"{LINE}/{end}/00000001")
            other = msgspec.structs.replace(kept, key_id_a_to_b=KeyId("01000000-0000-4000-8000-000000000000"))
            party.generations.put(f"{LINE}/{end}/00000001", other)
    watch.look()
    (line,) = watch.read("network/lines")["items"]
    assert (line["step"], line["differing"], line["last_common"]) == ("DIFFERS", [1], 0)


def test_while_one_qssp_is_silent_nothing_is_said_of_its_lines(watched_line: Watch) -> None:
    watch = watched_line
    watch.look()
    watch.silent = {QSSP_B}
    draw(watch, QSSP_A, End.A, 2)
    watch.look(5)
    assert {cause for _, cause in watch.alarms()} == {"PARTY_SILENT"}


def test_a_rekeyed_line_is_together_again(watched_line: Watch) -> None:
    watched_line.world.rekey()
    watched_line.look()
    (line,) = watched_line.read("network/lines")["items"]
    assert (line["step"], line["last_common"]) == ("TOGETHER", 2)


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_the_store_does_not_grow_with_time(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsotn.parties.qkmp.MOST_CLEARED", 3)
    watch.section = SupervisionSection(history_s=120.0)

    def size() -> int:
        return sum(len(rows) for rows in watch.world.dump(QKMP).values())

    sizes = list[int]()
    for _ in range(6):
        watch.silent = {KM_A, KM_B}
        watch.look(2)
        watch.silent = set()
        watch.look(2)
        sizes.append(size())
    assert sizes[-1] == sizes[-3]
    cleared = watch.alarms(cleared=True)
    assert len(watch.read("network/alarms")["items"]) == 3
    assert max(one["cleared_at"] for one in cleared.values()) == watch.world.clock() - LOOK_US
    with watch.world.desk(QKMP) as qkmp:
        points = [len(history.points) for history in qkmp.histories.values()]
    assert max(points) <= 13


def test_every_cause_has_a_rule() -> None:
    from qsotn.parties.network_alarms import RULES

    assert set(RULES) == set(Cause)


# --- metrics --------------------------------------------------------------------------------------------------------


def test_prometheus_is_shown_pools_links_and_how_old_the_samples_are(watch: Watch) -> None:
    watch.pools = {KM_A: {JINAN_TO_QINGDAO: ready(100)}}
    distilled(watch.world, LINK_A, 2, error_rate=0.02)
    watch.look()
    watch.world.clock.advance(3_000_000)
    shown = watch.scraped()
    for line in (
        'qsotn_link_available_bits{km="km/jinan",link="jinan-weifang"} 65536.0',
        'qsotn_link_qber_ratio{link="jinan-weifang"} 0.02',
        'qsotn_link_up{link="jinan-weifang"} 1.0',
        'qsotn_link_rate_bits{link="jinan-weifang"} 0.0',
        'qsotn_link_sample_age_seconds{km="km/jinan",link="jinan-weifang"} 3.0',
        'qsotn_pool_ready_bits{km="km/jinan",origin="km/jinan",series="1",target="km/qingdao"} 25600.0',
        'qsotn_pool_sample_age_seconds{km="km/jinan",origin="km/jinan",series="1",target="km/qingdao"} 3.0',
        "qsotn_network_alarms 0.0",
    ):
        assert line in shown, shown
    watch.pools, watch.silent = {}, {KM_B}
    watch.look(2)
    shown = watch.scraped()
    assert "qsotn_network_alarms 1.0" in shown
    assert 'qsotn_link_up{link="weifang-qingdao"} 0.0' in shown
    assert not any("qsotn_pool_ready_bits{" in line for line in shown), "what is gone leaves nothing"


def test_a_restored_link_is_not_believed_to_have_its_old_history(watch: Watch) -> None:
    watch.look(7)
    with watch.world.desk(QKMP) as qkmp:
        before = {one.km: len(qkmp.history(one).points) for one in qkmp.links.values() if one.link == LINK_A}
    with watch.world.desk(KM_A) as km:
        km.blocks.delete(f"{LINK_A}/00000001")
    watch.look()
    with watch.world.desk(QKMP) as qkmp:
        after = {one.km: len(qkmp.history(one).points) for one in qkmp.links.values() if one.link == LINK_A}
    assert before[KM_A] > 1
    assert after == {KM_A: 1, KM_RELAY: before[KM_RELAY]}


# --- configuration --------------------------------------------------------------------------------------------------


def configured(tmp_path: Path, section: str, party: str = "qkmp/shandong") -> SupervisionSection:
    """Read a `service.toml` with a section of supervision."""
    names = ("certificate", "key", "operator_root", "manufacturer_root", "operator_list", "manufacturer_list")
    tls = "\n".join(f'{name} = "{name}.pem"' for name in names)
    listen = '[listen]\naddress = "127.0.0.1:7401"'
    file = tmp_path / "service.toml"
    file.write_text(f'party = "{party}"\nstate = "."\n{listen}\n[tls]\n{tls}\n[supervision]\n{section}\n')
    return load_configuration(file).supervision


def test_limits_are_configured(tmp_path: Path) -> None:
    told = configured(tmp_path, "interval_s = 5\nqber = 0.03\npool_bits = 4096")
    assert told == SupervisionSection(interval_s=5.0, qber=0.03, pool_bits=4096)


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("interval_s = 0", r"\[supervision\] interval_s: 0 is not 0.1 to 3600 s"),
        ("interval_s = nan", r"\[supervision\] interval_s: nan is not"),
        ("history_s = 5", r"\[supervision\] history_s: 5 is not interval_s to 604800 s"),
        ("history_s = inf", r"\[supervision\] history_s: inf is not"),
        ("qber = 5", r"\[supervision\] qber: 5 is no fraction; expected 0 to 1, for example 0.05"),
        ("link_bits = -1", r"\[supervision\] link_bits: -1 is too little; expected 0 or more"),
        ("starves_s = nan", r"\[supervision\] starves_s: nan is too little"),
        ("limit = 1", r"unknown key 'limit'"),
    ],
)
def test_a_section_that_is_wrong_is_refused_with_what_would_be_right(
    tmp_path: Path, section: str, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        configured(tmp_path, section)


def test_only_a_qkmp_supervises(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\[supervision\]: a pomp supervises nothing; leave it out"):
        configured(tmp_path, "interval_s = 5", party="pomp/shandong")
