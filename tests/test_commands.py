"""The commands a newcomer types: help, versions, what importing the command line costs, and `boot.sh`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("numpy", "rich", "sqlite3", "cryptography", "msgspec", "cbor2")


def qsotn(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    command = [str(Path(sys.executable).parent / "qsotn"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_help_names_every_verb() -> None:
    shown = qsotn("--help")
    assert shown.returncode == 0
    for verb in ("demo", "trace", "paper-map"):
        assert verb in shown.stdout


@pytest.mark.parametrize(
    ("verb", "options"),
    [("demo", ("--state", "--resume", "--fresh", "--json")), ("trace", ("--state", "--json")), ("paper-map", ())],
)
def test_every_verb_explains_itself(verb: str, options: tuple[str, ...]) -> None:
    shown = qsotn(verb, "--help")
    assert shown.returncode == 0
    for option in options:
        assert option in shown.stdout


def test_the_version_is_the_packages() -> None:
    from qsotn import __version__

    assert qsotn("--version").stdout == f"qsotn {__version__}\n"


def test_paper_map_prints_the_document() -> None:
    assert qsotn("paper-map", PYTHONUTF8="1").stdout == (ROOT / "docs" / "paper-map.md").read_text()


def test_an_unknown_verb_ends_without_a_traceback() -> None:
    shown = qsotn("onboard")
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    """`qsotn --help` is instant because of this; a time limit would only measure the machine."""
    program = "import sys, qsotn.cli; print(' '.join(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in shown.stdout.split()}
    assert "qsotn" in imported
    assert imported.isdisjoint(HEAVY), sorted(imported.intersection(HEAVY))


STUB_PYTHON = """#!/bin/sh
case "$*" in
    *ensurepip*) [ -f "$STUBS/venv-installed" ] ;;
    *version_info*) exit 0 ;;
    "-m venv "*)
        mkdir -p "$3/bin"
        cp "$STUBS/environment-python" "$3/bin/python" ;;
esac
"""
STUB_ENVIRONMENT = """#!/bin/sh
[ -z "${BREAK_PIP:-}" ] || exit 1
cp "$STUBS/uv" "$(dirname "$0")/uv"
"""
STUB_APT = """#!/bin/sh
echo "$*" >> "$STUBS/apt.log"
[ "$1" != install ] || : > "$STUBS/venv-installed"
"""
STUB_SUDO = '#!/bin/sh\nexec env "$@"\n'
STUB_UV = '#!/bin/sh\nfor argument in "$@"; do echo "$argument"; done\n'


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with `boot.sh`, and programs in `stubs` that stand for a Debian without python3-venv."""
    shutil.copy(ROOT / "boot.sh", tmp_path)
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    programs = {
        "python3": STUB_PYTHON,
        "environment-python": STUB_ENVIRONMENT,
        "apt-get": STUB_APT,
        "sudo": STUB_SUDO,
        "uv": STUB_UV,
    }
    for name, text in programs.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    return tmp_path


def boot(machine: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    stubs = machine / "stubs"
    settings = {"PATH": f"{stubs}:/usr/bin:/bin", "STUBS": str(stubs), "HOME": "", **environment}
    command = ["/bin/sh", str(machine / "boot.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=settings, cwd="/")


def test_boot_installs_what_debian_keeps_apart_and_runs_the_command(machine: Path) -> None:
    shown = boot(machine, "qsotn", "demo", "a file")
    assert shown.stdout.splitlines() == ["run", "--project", str(machine), "--locked", "--", "qsotn", "demo", "a file"]
    assert (machine / "stubs" / "apt.log").read_text().splitlines() == [
        "update",
        "install --yes --no-install-recommends python3-venv",
    ]


def test_boot_leaves_a_machine_alone_that_has_what_it_needs(machine: Path) -> None:
    (machine / "stubs" / "venv-installed").touch()
    assert boot(machine, "qsotn").returncode == 0
    assert not (machine / "stubs" / "apt.log").exists()


def test_boot_begins_anew_after_an_interrupted_first_call(machine: Path) -> None:
    assert boot(machine, "qsotn", BREAK_PIP="1").returncode != 0
    assert not (machine / ".boot").exists()
    assert boot(machine, "qsotn").returncode == 0


def test_boot_without_a_command_says_what_it_wants(machine: Path) -> None:
    shown = boot(machine)
    assert shown.returncode == 1
    assert shown.stderr.startswith("boot.sh: say what to run")
