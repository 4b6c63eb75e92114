"""`qsotn key network`, `forecast`, `admit`, `provenance`: what they print of a province, and how they end."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import typer
from tests.app.served_world import as_operator
from tests.service.http.driver import DEPLOYMENT
from tests.service.key_way import supplied
from tests.service.watch import Watch, distilled, ready
from tests.world import World
from typer.testing import CliRunner

from qsotn import verbs_key_network
from qsotn.app.operator import Operator
from qsotn.app.operator_network import qkmp_of
from qsotn.app.province import KM_A, KM_B, KM_RELAY, LINK_A, LINK_B
from qsotn.console import network as network_console
from qsotn.console.operator import moment
from qsotn.domain import PartyId
from qsotn.errors import Refusal, UsageError
from qsotn.keynetwork.delivery import Pool
from qsotn.verbs_common import sub_verbs

Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def watch(encrypted: World, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A province with a line, whose links made blocks in sight of its QKMP; the verbs reach it."""
    watch = Watch(encrypted)
    watch.pools = {KM_A: {Pool(KM_A, KM_B, 1): ready(100)}, KM_B: {Pool(KM_A, KM_B, 1): ready(110)}}
    for number in range(2, 9):
        for link in (LINK_A, LINK_B):
            distilled(encrypted, link, number, error_rate=0.0123)
        watch.look()
    monkeypatch.setattr(network_console, "operate", lambda _, act: as_operator(encrypted, act, work=lambda: None))
    return watch


@pytest.fixture
def typed() -> Typed:
    """Type `qsotn key …`; return the exit code and what was printed. Errors are the command line's to tell."""
    key = sub_verbs("key", "Keys.")
    verbs_key_network.add_to(key)
    app = typer.Typer(rich_markup_mode=None)
    app.add_typer(key)

    def run(*arguments: str) -> tuple[int, str]:
        ended = CliRunner().invoke(app, ["key", *arguments])
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return ended.exit_code, ended.output

    return run


def test_a_network_without_alarms_is_shown_whole(watch: Watch, typed: Typed) -> None:
    code, printed = typed("network")
    assert code == 0
    lines = printed.splitlines()
    assert "No alarm." in lines
    (link,) = [line for line in lines if line.startswith(LINK_A)]
    bits = [f"{end['available_bits']:,}" for end in watch.link(LINK_A)["told"]]
    assert link.split()[:6] == [LINK_A, "UP", "jinan", f"{bits[0]},", "weifang", bits[1]]
    assert "1.23%" in link
    width, use = watch.link(LINK_A)["width_bits"], watch.link(LINK_A)["use"]
    assert f"{width:,}  {use}" in link
    assert (width > min(end["available_bits"] for end in watch.link(LINK_A)["told"]), use) == (True, "PREFERRED")
    assert any(
        line.split()[:7] == ["km/jinan", "km/qingdao", "1", "jinan", "25,600,", "qingdao", "28,160"] for line in lines
    )
    assert any(line.split() == ["line-1", "TOGETHER", "jinan", "1,", "qingdao", "1", "1"] for line in lines)


def test_an_alarm_is_shown_with_its_cause_and_ends_with_1(watch: Watch, typed: Typed) -> None:
    watch.silent = {KM_B}
    watch.look(2)
    code, printed = typed("network")
    assert code == 1
    assert any(line.startswith("CRITICAL") and "PARTY_SILENT" in line and KM_B in line for line in printed.splitlines())
    code, printed = typed("network", "--json")
    shown = json.loads(printed)
    assert code == 1
    assert [one["cause"] for one in shown["alarms"]] == ["PARTY_SILENT"]
    assert {one["link"]: one["state"] for one in shown["network"]["links"]} == {LINK_A: "UP", LINK_B: "SILENT"}


def test_the_forecast_puts_what_starves_first_at_the_top(watch: Watch, typed: Typed) -> None:
    pool = Pool(KM_A, KM_B, 1)
    for left in range(4):
        watch.pools = {KM_A: {pool: ready(100 - 20 * left, delivered=20 * left)}}
        watch.look(3)
    code, printed = typed("forecast", "--json")
    first, *others = json.loads(printed)
    assert (code, first["what"]) == (0, "pool km/jinan>km/qingdao")
    assert first["bits_per_s"] < 0 < first["starves_in_s"]
    assert all(one["starves_in_s"] is None for one in others)
    row = typed("forecast")[1].splitlines()[2]
    assert row.startswith("pool km/jinan>km/qingdao")
    assert " s  " in row or " min  " in row


def test_room_is_a_yes_and_no_room_is_exit_code_3(watch: Watch, typed: Typed) -> None:
    code, printed = typed("admit", "jinan", "km/qingdao", "--lines", "5", "--every", "60")
    assert code == 0
    assert printed.startswith("Yes: 5 more lines can be carried; ")
    assert "jinan–weifang–qingdao  5" in printed
    code, printed = typed("admit", "jinan", "qingdao", "--lines", "900000")
    assert code == 3
    assert printed.startswith("No: of 900000 more lines, ")
    code, printed = typed("admit", "jinan", "qingdao", "--lines", "900000", "--json")
    told = json.loads(printed)
    assert (code, told["admitted"], told["lines_asked"]) == (3, False, 900_000)
    assert told["limiting_links"]


def test_what_cannot_be_said_yet_is_exit_code_4(
    open_world: Callable[..., World], typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world("provisioned")
    fresh = Watch(world)
    monkeypatch.setattr(network_console, "operate", lambda _, act: as_operator(world, act, work=lambda: None))
    fresh.look(3)
    code, printed = typed("admit", "jinan", "qingdao", "--lines", "5")
    assert code == 4
    first = printed.splitlines()[0]
    assert first.startswith("Not known yet: of 5 more lines, 0 would surely fit; more can be said from ")
    code, printed = typed("admit", "jinan", "qingdao", "--json")
    told = json.loads(printed)
    assert (code, told["verdict"], told["admitted"]) == (4, "NOT_YET", False)
    assert moment(told["told_from"]) in first
    assert any(line.startswith(LINK_A) and "not yet" in line for line in typed("network")[1].splitlines())
    fresh.look(9)
    code, printed = typed("admit", "jinan", "qingdao")
    assert (code, "once its links make keys in sight" in printed) == (4, True)


def test_a_relay_is_no_end_of_a_line(watch: Watch, typed: Typed) -> None:
    with pytest.raises(Refusal, match="NO_CITY: km/weifang is a relay; a line ends in cities: km/jinan, km/qingdao"):
        typed("admit", "jinan", "weifang")


def test_a_city_that_is_none_is_an_error_and_no_answer(watch: Watch, typed: Typed) -> None:
    with pytest.raises(Refusal, match=r"UNKNOWN_KM: nobody told of km/yantai yet; known are km/jinan, km/qingdao"):
        typed("admit", "jinan", "yantai")
    assert typed("admit", "jinan", "qingdao", "--lines", "0")[0] == 2


def test_before_the_first_look_the_tables_say_so(
    open_world: Callable[..., World], typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world("provisioned")
    monkeypatch.setattr(network_console, "operate", lambda _, act: as_operator(world, act))
    code, printed = typed("network")
    assert (code, printed.splitlines()[0]) == (0, "The key network, as the QKMP saw it last: never")
    assert "(none was asked yet)" in printed
    assert "(the QKMP has seen nothing yet)" in typed("forecast")[1]


def test_a_province_without_a_qkmp_is_told() -> None:
    operator = Operator({PartyId("pomp/shandong"): ("http://127.0.0.1:1",)}, lambda _: True)
    with pytest.raises(UsageError, match="has no QKMP"):
        qkmp_of(operator)


# --- the way of one key ---------------------------------------------------------------------------------------------

KEY_ID = "f02d0743-5956-43e3-9aec-35e959c5fdbd"
Reach = Callable[..., None]


def knowing(encoded: bytes) -> Callable[[str], Awaitable[bytes | None]]:
    """What a key manager's key store tells that has one key."""

    async def provenance(key_id: str) -> bytes | None:
        return encoded if key_id == KEY_ID else None

    return provenance


@pytest.fixture
def supplied_world(open_world: Callable[..., World]) -> World:
    return open_world("provisioned")


@pytest.fixture
def known(supplied_world: World, monkeypatch: pytest.MonkeyPatch) -> Reach:
    """Have both ends know the key, and the verbs reach all key managers but those of `without`."""
    deposits = supplied(supplied_world)
    deployments = {km: replace(DEPLOYMENT, provenance=knowing(deposit.provenance)) for km, deposit in deposits.items()}

    def reach(*without: PartyId) -> None:
        how = {"without": without, "work": lambda: None, "deployments": deployments}
        monkeypatch.setattr(network_console, "operate", lambda _, act: as_operator(supplied_world, act, **how))

    reach()
    return reach


def test_the_way_of_a_key_is_printed_as_both_ends_know_it(known: Reach, typed: Typed) -> None:
    code, printed = typed("provenance", KEY_ID)
    assert code == 0
    lines = printed.splitlines()
    assert [line for line in lines if line.startswith("The key ")] == [
        f"The key {KEY_ID}, as {km} knows it" for km in (KM_A, KM_B)
    ]
    assert "km/jinan–km/weifang–km/qingdao, one-time-pad, secrecy of each relayed hop information-theoretic" in printed
    assert f"of {LINK_A} and passed it on to km/qingdao under" in printed
    signers = [line.split()[3] for line in lines if line.startswith("1 of 1") and line.split()[-2] != "NOT"]
    assert signers == [KM_A, KM_RELAY, KM_B] * 2


def test_the_way_of_a_key_as_json(known: Reach, typed: Typed) -> None:
    code, printed = typed("provenance", KEY_ID, "--json")
    shown = json.loads(printed)
    assert (code, shown["key_id"], shown["unreached"]) == (0, KEY_ID, [])
    assert [(one["km"], one["verified"], one["mode"]) for one in shown["told"]] == [
        (KM_A, True, "one-time-pad"),
        (KM_B, True, "one-time-pad"),
    ]


@pytest.mark.parametrize("key_id", ["00000000-5956-43e3-9aec-35e959c5fdbd", "no key/../at all?"])
def test_a_key_that_nobody_knows_ends_with_1(known: Reach, typed: Typed, key_id: str) -> None:
    code, printed = typed("provenance", key_id)
    assert (code, printed) == (1, f"No key manager that could be asked knows the key {key_id}.\n")
    code, printed = typed("provenance", key_id, "--json")
    assert (code, json.loads(printed)) == (1, {"key_id": key_id, "told": [], "unreached": []})


def test_one_end_is_enough_and_who_was_not_reached_is_named(known: Reach, typed: Typed) -> None:
    known(KM_B)
    code, printed = typed("provenance", KEY_ID)
    assert code == 0
    assert "km/jinan knows it" in printed
    assert "km/qingdao could not be asked: km/qingdao is not reached at " in printed


def test_a_signature_that_does_not_hold_ends_with_3(known: Reach, supplied_world: World, typed: Typed) -> None:
    with supplied_world.desk(KM_B) as km:
        km.desk.certificates.delete(KM_RELAY)
    code, printed = typed("provenance", KEY_ID)
    assert code == 3
    assert f"NOT verified: {KM_B} has no certificate of {KM_RELAY}" in printed
    assert f"The whole is NOT verified: {KM_B} has no certificate of {KM_RELAY}" in printed


@pytest.mark.parametrize("verb", ["network", "forecast", "admit", "provenance"])
def test_every_verb_has_help_with_an_example(typed: Typed, verb: str) -> None:
    code, printed = typed(verb, "--help")
    assert code == 0
    assert f"qsotn key {verb}" in printed
