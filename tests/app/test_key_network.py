"""`qsotn key network`, `key forecast`, `key admit`: what they print of a watched province, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import typer
from tests.app.served_world import as_operator
from tests.service.watch import Watch, distilled, ready
from tests.world import World
from typer.testing import CliRunner

from qsotn import verbs_key_network
from qsotn.app.operator import Operator
from qsotn.app.operator_network import qkmp_of
from qsotn.app.province import KM_A, KM_B, LINK_A, LINK_B
from qsotn.console import network as network_console
from qsotn.domain import PartyId
from qsotn.errors import Refusal, UsageError
from qsotn.keynetwork.delivery import Pool
from qsotn.verbs_common import sub_verbs

Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def watch(encrypted: World, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A province with a line, whose links made blocks in sight of its QKMP; the verbs reach it."""
    watch = Watch(encrypted)
    watch.pools = {KM_A: {Pool(KM_A, KM_B, 1): ready(100)}, KM_B: {Pool(KM_A, KM_B, 1): ready(90)}}
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
    assert any(
        line.split()[:7] == ["km/jinan", "km/qingdao", "1", "jinan", "25,600,", "qingdao", "23,040"] for line in lines
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


@pytest.mark.parametrize("verb", ["network", "forecast", "admit"])
def test_every_verb_has_help_with_an_example(typed: Typed, verb: str) -> None:
    code, printed = typed(verb, "--help")
    assert code == 0
    assert f"qsotn key {verb}" in printed
