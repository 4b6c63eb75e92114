"""The units of deploy/systemd: confined as they should be, and started for every party of a province."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.deployment.files import DEPLOY, ROOT

from qsotn.app.record import ProvinceRecord
from qsotn.domain import Role, role_of
from qsotn.service.config import load_configuration, load_twin
from qsotn.service.host import GRACE_S
from qsotn.service.source_config import load_sources
from qsotn.service.sources import STOP_S

SYSTEMD = DEPLOY / "systemd"
PROGRAM, STATE = "/opt/qsotn/bin/qsotn", "/var/lib/qsotn/province"
UNITS = sorted(path.name for path in SYSTEMD.iterdir())
SERVICES = [name for name in UNITS if name.endswith(".service")]
LONG_LIVED = ["qsotn-source.service", "qsotn-twin.service", "qsotn@.service"]

REQUIRED: Final = {
    "User": "qsotn",
    "NoNewPrivileges": "true",
    "ProtectSystem": "strict",
    "ProtectHome": "true",
    "PrivateTmp": "true",
    "PrivateDevices": "true",
    "CapabilityBoundingSet": "",
    "RestrictSUIDSGID": "true",
    "SystemCallArchitectures": "native",
    "LimitCORE": "0",
    "MemorySwapMax": "0",
    "UMask": "0077",
}


def unit(name: str) -> list[tuple[str, str, str]]:
    """A unit's settings: section, key, value. systemd's format, without its line continuations."""
    settings, section = [], ""
    for line in (SYSTEMD / name).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
            continue
        key, equals, value = line.partition("=")
        assert equals, f"{name}: {line!r} is no setting"
        assert re.fullmatch(r"[A-Z]\w+", key), f"{name}: {line!r} is no setting"
        assert not value.endswith("\\"), f"{name}: {line!r} goes on in the next line"
        settings.append((section, key, value))
    return settings


def service(name: str) -> dict[str, str]:
    return {key: value for section, key, value in unit(name) if section == "Service"}


def test_there_are_the_units_that_the_documents_name() -> None:
    assert UNITS == [
        "qsotn-renew.service",
        "qsotn-renew.timer",
        "qsotn-source.service",
        "qsotn-twin.service",
        "qsotn.target",
        "qsotn@.service",
    ]


@pytest.mark.parametrize("name", UNITS)
def test_every_section_of_a_unit_is_one_of_its_kind(name: str) -> None:
    kinds = {"service": {"Service"}, "timer": {"Timer"}, "target": set[str]()}
    sections = {section for section, _, _ in unit(name)}
    assert sections - {"Unit", "Install"} == kinds[name.rpartition(".")[2]]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    assert REQUIRED.items() <= service(name).items()


@pytest.mark.parametrize("name", LONG_LIVED)
def test_a_service_has_longer_to_stop_than_its_requests_have_to_end(name: str) -> None:
    settings = service(name)
    assert int(settings["TimeoutStopSec"]) > 2 * GRACE_S
    assert settings["Restart"] == "always"
    assert settings["RestartPreventExitStatus"] == "2"


@pytest.mark.parametrize("name", LONG_LIVED)
def test_a_service_sees_one_folder_of_the_province(name: str) -> None:
    settings = service(name)
    assert settings["TemporaryFileSystem"].split(":")[0] == STATE
    own = settings["BindPaths"].replace("%i", "pomp-shandong")
    assert own in (f"{STATE}/parties/pomp-shandong", f"{STATE}/twin", f"{STATE}/sources")


def test_the_renewal_is_the_only_one_that_sees_the_roots() -> None:
    hidden = {name for name in SERVICES if "TemporaryFileSystem" in service(name)}
    assert set(SERVICES) - hidden == {"qsotn-renew.service"}


def started(name: str, instance: str, program: Path, state: Path) -> list[str]:
    """What a unit's command is for an instance: systemd's quoting and specifiers, then the shell that it names."""
    line = service(name)["ExecStart"].replace("%%", "\0").replace("%i", instance).replace("\0", "%").replace("$$", "$")
    words = shlex.split(line.replace(PROGRAM, str(program)).replace(STATE, str(state)))
    shown = subprocess.run(words, capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A program that prints its arguments."""
    path = tmp_path / "qsotn"
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


def test_the_template_serves_every_party_of_a_province(composed: tuple[Path, ProvinceRecord], echo: Path) -> None:
    state, record = composed
    for one in record.services:
        if one.replica == 1:
            verb, role, option, file = started("qsotn@.service", Path(one.folder).name, echo, state)
            assert (verb, role, option) == ("serve", role_of(one.party), "--config")
            assert load_configuration(Path(file)).party == one.party


def test_the_units_of_twin_and_renewal_do_what_they_say(composed: tuple[Path, ProvinceRecord], echo: Path) -> None:
    state, _ = composed
    verb, role, _, file = started("qsotn-twin.service", "", echo, state)
    assert (verb, role) == ("serve", Role.QKD)
    assert load_twin(Path(file)).links
    assert started("qsotn-renew.service", "", echo, state) == ["pki", "renew", "--state", str(state)]


def test_the_unit_of_sources_serves_those_of_its_folder_and_outlasts_what_is_under_way(
    echo: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sources" / "service.toml"
    assert started("qsotn-source.service", "", echo, tmp_path) == ["serve", "source", "--config", str(file)]
    file.parent.mkdir()
    document = (ROOT / "docs" / "interoperation.md").read_text()
    file.write_text(
        document.partition("<!-- configuration of a process of sources -->\n```toml\n")[2].partition("```")[0]
    )
    settings, configuration = service("qsotn-source.service"), load_sources(file)
    assert configuration.state == Path(settings["BindPaths"].replace(STATE, str(tmp_path)))
    assert int(settings["TimeoutStopSec"]) > STOP_S


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd's own verifier is not installed")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    for one in UNITS:
        text = (SYSTEMD / one).read_text().replace(PROGRAM, sys.executable)
        (tmp_path / one.replace("@", "@pomp-shandong")).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name.replace("@", "@pomp-shandong"))]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    )
    # Whatever else is installed here may be at fault, too: what counts is what is said of ours.
    assert [line for line in shown.stderr.splitlines() if "qsotn" in line] == []


def test_the_parser_of_this_file_is_as_strict_as_it_says() -> None:
    """The standard library's own reads the units, too, where no key stands twice."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    parser.read_string((SYSTEMD / "qsotn-renew.timer").read_text())
    assert [(section, *item) for section in parser.sections() for item in parser[section].items()] == unit(
        "qsotn-renew.timer"
    )
