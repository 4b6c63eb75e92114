"""The documents, held against the code: what they name exists, what they show is what runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from qsotn.console.paper_map import render
from qsotn.interfaces import Seat
from qsotn.procedures.catalogue import LADDERS

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "qsotn"
DOCUMENTS = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
WRITTEN = [path for path in DOCUMENTS if path.name != "paper-map.md"]
SPANS = re.compile(r"`([^`\n]+)`")
LINKS = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
PLACE = re.compile(r"(?P<file>[\w/.-]+\.(?:py|sh|md|toml))(?::(?P<name>[\w.]+))?")
STEP = re.compile(rf"(?P<ladder>{'|'.join(LADDERS)})/(?P<label>\d+[a-z]?)(?::(?P<function>\w+))?")
ELSEWHERE = {"received", "enc_keys", "dec_keys", "module.key", "python3-venv"}
"""Names that are files of a run, or another's: nothing to look up in the source."""

documents = pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))


def prose(path: Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)


def spans(path: Path) -> list[str]:
    return SPANS.findall(prose(path))


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
            yield from definitions(node, f"{prefix}{node.name}.")


@cache
def source_words() -> frozenset[str]:
    return frozenset(re.findall(r"\w+", "\n".join(file.read_text() for file in SOURCE.rglob("*.py"))))


def test_there_are_documents_to_check() -> None:
    assert {"README.md", "CHANGELOG.md", "architecture.md", "divergences.md", "photon-to-frame.md"} <= {
        path.name for path in WRITTEN
    }


def test_the_paper_map_is_what_the_ladders_say() -> None:
    assert (ROOT / "docs" / "paper-map.md").read_text() == render(), "renew: qsotn paper-map > docs/paper-map.md"


def test_the_paper_map_has_every_step_and_every_seat() -> None:
    text = render()
    for ladder in LADDERS.values():
        part = text.split(f"## {ladder.name}: ")[1].split("\n## ")[0]
        for step in ladder:
            assert f"| {step.label} | {step.message.__name__} |" in part
            assert f"`{step.act.__name__}` in `src/qsotn/procedures/" in part
            for seat in Seat:
                if senders := step.senders_to(seat):
                    assert re.search(rf"\| {seat} \|.*\b{step.label} ← {' and '.join(senders)}", part)


@pytest.mark.parametrize(
    ("ladder", "label", "codes"),
    [
        ("initialization", "1", ()),
        ("initialization", "3", ("AUTH_FAILED", "CLONE_SUSPECTED", "DEVICE_REVOKED")),
        ("initialization", "10a", ("DEVICE_REVOKED", "INJECT_FAILED", "SUPERSEDED")),
        ("leased-line", "6", ("KEY_RATE_INSUFFICIENT", "LINE_EXISTS", "NOT_HOME", "NOT_READY")),
        ("leased-line", "10g", ("KEY_REUSED",)),
        ("leased-line", "11b", ("DESYNC", "ONE_SIDED")),
        ("deletion", "1", ("UNKNOWN_LINE",)),
        ("rekey-order", "2", ("NOT_CONFIRMED", "REKEY_UNDER_WAY")),
        ("revocation", "1", ()),
    ],
)
def test_the_paper_map_finds_a_steps_refusals(ladder: str, label: str, codes: tuple[str, ...]) -> None:
    """Codes raised in the function itself, in a method of its party, and in what that method calls."""
    part = render().split(f"## {ladder}: ")[1].split("\n## ")[0]
    deed = next(line for line in part.splitlines() if line.startswith(f"- **{label}** "))
    named = re.search(r"\*Refuses with (.+)\.\*", deed)
    assert (tuple(named[1].split(", ")) if named else ()) == codes


@documents
def test_every_file_and_name_in_a_document_exists(path: Path) -> None:
    for span in spans(path):
        if place := PLACE.fullmatch(span):
            file = next((base / place["file"] for base in (SOURCE, ROOT) if (base / place["file"]).is_file()), None)
            assert file is not None, f"{path.name} names {span}: no such file"
            if place["name"]:
                names = set(definitions(ast.parse(file.read_text())))
                assert place["name"] in names, f"{path.name} names {span}: no such function or class"


@documents
def test_every_step_in_a_document_is_the_one_it_says(path: Path) -> None:
    for span in spans(path):
        if step := STEP.fullmatch(span):
            ladder = LADDERS[step["ladder"]]
            assert step["label"] in ladder, f"{path.name} names {span}: no such step"
            if step["function"]:
                assert ladder[step["label"]].act.__name__ == step["function"], f"{path.name} names {span}"


@documents
def test_every_other_code_word_in_a_document_is_in_the_source(path: Path) -> None:
    for span in spans(path):
        word = span.removesuffix("()")
        if re.fullmatch(r"[A-Za-z_][\w-]*", word) and word not in ELSEWHERE:
            assert set(word.split("-")) <= source_words(), f"{path.name} names {span}"


@documents
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in LINKS.findall(prose(path)):
        if not target.startswith("https://"):
            assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "adr"
    listed = re.findall(r"^(\d+)\. \[(.+)\]\((.+)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for _, _, name in listed) == sorted(path.name for path in folder.glob("0*.md"))
    for number, title, name in listed:
        assert name.startswith(f"{int(number):04}-")
        assert (folder / name).read_text().startswith(f"# {number}. {title}\n")


def commands() -> list[str]:
    """The README's shell blocks."""
    return re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_readmes_first_two_commands_are_one_line_each() -> None:
    blocks = commands()
    assert len(blocks) >= 2
    assert all("\n" not in block for block in blocks[:2])


def test_every_further_command_of_the_readme_is_one_that_the_command_line_takes() -> None:
    lines = [line for block in commands()[2:] for line in block.splitlines()]
    assert lines
    for line in lines:
        words = line.removeprefix("sh boot.sh qsotn ").split()
        verbs = [word for word in words[:2] if re.fullmatch("[a-z]+", word)]
        program = str(Path(sys.executable).parent / "qsotn")
        shown = subprocess.run([program, *verbs, "--help"], capture_output=True, text=True, check=False)
        assert shown.returncode == 0, line
        options = [word for word in words if word.startswith("--")]
        assert all(option in shown.stdout for option in options), line


def test_ci_runs_the_readmes_second_command_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."', commands()[1]]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_check_ends_with_the_tests() -> None:
    lines = (ROOT / "check.sh").read_text().splitlines()
    for check in ("ruff format --check .", "ruff check .", "mypy", "lint-imports"):
        assert check in lines
    assert lines[-1].startswith("pytest")


@pytest.mark.parametrize("script", ["boot.sh", "check.sh"])
def test_the_scripts_are_posix_shell(script: str) -> None:
    subprocess.run(["/bin/sh", "-n", str(ROOT / script)], check=True)


def pictured(title: str) -> Counter[tuple[str, ...]]:
    """The rows of one ladder in the README, without names and timings: label, message, roles, interface."""
    picture = (ROOT / "README.md").read_text().split("<!-- demo: begin -->")[1].split("<!-- demo: end -->")[0]
    table = picture.split(title)[1].split("\n\n")[0].splitlines()[2:]
    rows = [re.fullmatch(r" *(\w+) +(\w+) +(\w+)/\S+ → (\w+)/\S+ +(\w+) +[\d.]+", line) for line in table]
    assert all(rows), f"a row of {title} is none"
    return Counter(row.groups() for row in rows if row)


@pytest.mark.parametrize(("title", "ladder"), [("Figure 3", "initialization"), ("Figure 4", "leased-line")])
def test_the_readmes_picture_has_the_ladders_steps(title: str, ladder: str) -> None:
    declared = Counter(
        (step.label, step.message.__name__, sender.role.value, receiver.role.value, step.interface.name)
        for step in LADDERS[ladder]
        for sender, receiver in step.edges
    )
    assert pictured(title) == declared
