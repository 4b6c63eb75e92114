"""The verbs of a province and of its operator as they are typed: what they hand on, and how they end."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.app.served_world import as_operator
from tests.world import World

from qsotn.app.installation import create_installation
from qsotn.app.plan import sample_file
from qsotn.app.record import load_record
from qsotn.cli import main
from qsotn.console import cpe as cpe_console
from qsotn.console import line as line_console
from qsotn.domain import PartyId, Role
from qsotn.service import host, twin
from qsotn.service.http.application import rendered

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Type a command; return its exit code, and what it wrote to standard output and to standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qsotn", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A province that nobody started."""
    place = tmp_path_factory.mktemp("installed")
    file, state = place / "province.toml", place / "state"
    file.write_text(sample_file().read_text().replace("first_port = 7400", "first_port = 0"))
    create_installation(file, state, os.urandom, dt.datetime.now(dt.UTC))
    return state


# --- serving --------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations with which a process would have begun."""
    configurations: list[Any] = []
    monkeypatch.setattr(host, "run", configurations.append)
    monkeypatch.setattr(twin, "run", configurations.append)
    return configurations


@pytest.mark.parametrize("party", ["pomp/shandong", "pmp/shandong", "qkmp/shandong", "qssp/jinan", "km/weifang"])
def test_a_party_is_served_with_its_own_configuration(typed: Typed, folder: Path, begun: list[Any], party: str) -> None:
    role = party.partition("/")[0]
    file = folder / "parties" / party.replace("/", "-") / "service.toml"
    assert typed("serve", role, "--config", file)[0] == 0
    assert [one.party for one in begun] == [party]


def test_the_twin_is_served_as_the_role_of_the_qkd_modules(typed: Typed, folder: Path, begun: list[Any]) -> None:
    assert typed("serve", "qkd", "--config", folder / "twin" / "service.toml")[0] == 0
    assert [link.name for link in begun[0].links] == ["jinan-weifang", "weifang-qingdao"]


@pytest.mark.parametrize(
    ("role", "party", "complaint"),
    [
        ("pmp", "pomp-shandong", "configures pomp/shandong; serve it with: qsotn serve pomp --config"),
        ("operator", "pomp-shandong", "no party has the role 'operator'; there are pomp, pmp, qssp, km, qkmp, cpe"),
        ("pomp", "nobody", "nobody/service.toml"),
    ],
)
def test_a_role_that_is_not_the_files_is_refused(
    typed: Typed, folder: Path, begun: list[Any], role: str, party: str, complaint: str
) -> None:
    code, _, told = typed("serve", role, "--config", folder / "parties" / party / "service.toml")
    assert code == 2
    assert complaint in told
    assert not begun


def test_the_openapi_document_is_what_the_service_serves(typed: Typed) -> None:
    assert typed("openapi", "qkmp") == (0, rendered(Role.QKMP).decode(), "")
    assert typed("openapi", "qkd")[0] == 2


# --- operating ------------------------------------------------------------------------------------------------------

READING = [
    ("cpe", "list"),
    ("cpe", "show", "jinan-1"),
    ("line", "list"),
    ("line", "show", "line-1"),
    ("account", "list"),
]
ORDERING = [
    ("cpe", "add", "jinan-1"),
    ("line", "create", "--from", "jinan-1", "--to", "qingdao-1"),
    ("line", "rekey", "line-1"),
    ("line", "delete", "line-1"),
    ("account", "open", "bank"),
]


@pytest.mark.parametrize("command", [*READING, *ORDERING], ids=" ".join)
def test_a_province_that_is_down_ends_every_verb_with_the_url_and_what_to_check(
    typed: Typed, folder: Path, command: tuple[str, ...]
) -> None:
    url = load_record(folder).urls(PartyId("pomp/shandong"))[0]
    code, shown, told = typed(*command, "--state", folder, "--json")
    assert code == 1
    assert shown == ""
    advice = f"is it running? start it with: qsotn up --state {folder}, or look into {folder / 'log'}"
    assert told == f"qsotn: pomp/shandong is not reached at {url}: Connection refused; {advice}\n"


def test_key_status_of_a_province_that_is_down_names_everybody_and_fails(typed: Typed, folder: Path) -> None:
    code, shown, _ = typed("key", "status", "--state", folder, "--json")
    assert code == 1
    asked = {"km/jinan", "km/weifang", "km/qingdao", "qssp/jinan", "qssp/qingdao", "pomp/shandong"}
    assert {one["party"] for one in json.loads(shown)["unreached"]} == asked


@pytest.mark.parametrize("command", [*READING, *ORDERING, ("key", "status"), ("pki", "show"), ("down",)], ids=" ".join)
def test_a_folder_without_a_province_is_told_with_how_to_make_one(
    typed: Typed, tmp_path: Path, command: tuple[str, ...]
) -> None:
    code, _, told = typed(*command, "--state", tmp_path / "none")
    assert code == 2
    assert "none" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (("line", "create", "--from", "a b", "--to", "qingdao-1"), "'a b' names no cpe"),
        (("line", "create", "--from", "jinan-1", "--to", "qingdao-1", "--odu", "ODU9"), "ODU9"),
        (("cpe", "add", "x-7"), "give its --serial and its --home"),
        (("demo", "--against", "https://127.0.0.1:1"), "is not the POMP of the province shandong"),
        (("demo", "--against", "https://127.0.0.1:1", "--resume"), "leave --resume and --fresh out"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anybody_is(
    typed: Typed, folder: Path, command: tuple[str, ...], complaint: str
) -> None:
    code, _, told = typed(*command, "--state", folder)
    assert code == 2
    assert complaint in told


def test_a_refused_order_ends_with_its_code_and_its_detail(
    typed: Typed, ready: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_console, "operate", lambda _, act: as_operator(ready, act))
    ends = ("--from", "jinan-1", "--to", "qingdao-1", "--account", "nobody")
    assert typed("line", "create", *ends, "--state", folder, "--json") == (
        1,
        "",
        "qsotn: UNKNOWN_ACCOUNT: no account 'nobody'\n",
    )


def test_whoever_interrupts_the_waiting_is_told_that_the_order_goes_on(
    typed: Typed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cpe_console, "operate", interrupted)
    code, _, told = typed("cpe", "add", "jinan-1", "--state", folder)
    assert code == 130
    look = f"qsotn cpe show jinan-1 --state {folder}"
    assert told == f"qsotn: interrupted; what was ordered goes on all the same; look with: {look}\n"
