"""docs/operations.md: its commands are run, its tables are those of the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.deployment.files import DEPLOY, ROOT, anywhere, read_yaml
from tests.deployment.test_patroni_and_prometheus import metric_names
from typer.main import get_command

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.app.addresses import assign
from qsotn.app.plan import Plan, read_plan
from qsotn.cli import app
from qsotn.service.config import ServiceConfiguration, load_configuration

TEXT = (ROOT / "docs" / "operations.md").read_text()
SERVICE = ROOT / "src" / "qsotn" / "service"
FILES = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
RUNS = re.findall(r"<!-- runs -->\n```sh\n(.*?)```", TEXT, re.DOTALL)
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)


def table(name: str) -> list[list[str]]:
    """The cells of a table that is marked by a comment of this name."""
    marked = re.search(rf"<!-- {name} -->\n\|[^\n]*\n\|[- |]+\|\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert marked, f"docs/operations.md has no table {name}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in marked[1].splitlines()]


@pytest.fixture(scope="module")
def province(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document's province file."""
    folder = tmp_path_factory.mktemp("operations")
    for name, content in FILES:
        (folder / name).write_text(content)
    return folder / "province.toml"


# --- commands -------------------------------------------------------------------------------------------------------


def test_the_commands_run_one_after_the_other(tmp_path: Path) -> None:
    """Each block in a shell of its own, in one folder. Only the ports differ: the document's may be in use."""
    for name, content in FILES:
        (tmp_path / name).write_text(anywhere(content))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CHECKOUT": str(ROOT),
        "HOME": str(tmp_path),
    }
    assert len(RUNS) > 5
    for block in RUNS:
        if "store.db" in block:
            SqliteStore(tmp_path / "province/parties/pomp-shandong/store.db").close()  # as the party's first start does
        shown = subprocess.run(
            ["/bin/sh", "-euc", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, f"{block}\n{shown.stdout[-500:]}{shown.stderr}"
    assert {"pomp.json", "targets.json", "pomp-shandong.backup.db", "qsotn-2@.service"} <= {
        path.name for path in tmp_path.iterdir()
    }


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "sh"])
def test_every_block_is_shell(block: str) -> None:
    subprocess.run(["/bin/sh", "-nc", block], check=True)


def verbs() -> dict[str, set[str]]:
    """Every verb of the command line, and its options."""
    found: dict[str, set[str]] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]  # it is a group
        for inner, one in getattr(command, "commands", {"": command}).items():
            found[f"{name} {inner}".strip()] = {option for parameter in one.params for option in parameter.opts}
    return found


def test_every_verb_and_option_in_the_document_exists() -> None:
    known, seen = verbs(), set()
    groups = {verb.partition(" ")[0] for verb in known if " " in verb}
    # Where a command is shown: behind a line's beginning, a path, a prompt of compose, or a backtick.
    for line in re.findall(r"(?:^|`|/bin/|run --rm operator |; )qsotn ([^`|>\n]+)", TEXT, re.MULTILINE):
        words = line.split()
        verb = " ".join(words[:2]) if words[0] in groups else words[0]
        if verb == "--version":
            continue
        assert verb in known, f"docs/operations.md names qsotn {verb}"
        for option in (word for word in words if word.startswith("--")):
            assert option in known[verb], f"docs/operations.md gives qsotn {verb} {option}"
        seen.add(verb)
    assert {"init", "up", "down", "pki renew", "cpe revoke", "line create", "key status", "openapi"} <= seen


def test_every_file_of_deploy_is_in_the_document_and_the_other_way_round() -> None:
    named = {ROOT / path for path in re.findall(r"deploy/[\w./@-]*\w", TEXT)}
    assert all(path.exists() for path in named)
    folders = {path for path in DEPLOY.iterdir() if path.is_dir()}
    assert folders == {folder for folder in folders if any(folder in (one, *one.parents) for one in named)}


# --- tables ---------------------------------------------------------------------------------------------------------


def keys(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """The keys of a TOML file of this shape, those of its tables behind a dot."""
    hints = typing.get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        options = [hints[field.name], *typing.get_args(hints[field.name])]
        inner = next((one for one in options if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)
        if inner is None:
            yield prefix + field.encode_name
        else:
            yield from keys(inner, f"{prefix}{field.encode_name}.")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("keys of the province file", Plan), ("keys of a party's configuration", ServiceConfiguration)],
)
def test_the_table_has_every_key_and_no_other(name: str, kind: type[msgspec.Struct]) -> None:
    named = [key for row in table(name) for key in re.findall(r"`([\w.]+)`", row[0])]
    assert sorted(named) == sorted(keys(kind))


OF_STANDARD_TLS = {"certificate", "key", "client_ca", "client_list"}
"""Keys that a province with `tls = "post-quantum"` must not have."""
OF_THE_BORDER = {"port", "own_url", "certificate", "key", "authority", "authority_list", "saes"}
"""Keys that a province without other operators has not; theirs are in docs/interoperation.md."""


def test_the_documents_province_has_every_key_and_the_defaults_it_says(province: Path) -> None:
    plan = read_plan(province)
    written = {match[1] for match in re.finditer(r"^(\w+) = ", province.read_text(), re.MULTILINE)}
    assert written == {key.rpartition(".")[2] for key in keys(Plan)} - OF_STANDARD_TLS - OF_THE_BORDER
    minimal = msgspec.structs.replace(plan)
    for row in table("keys of the province file"):
        section, _, key = row[0].strip("`").partition(".")
        said = row[2].strip("`")
        if said and section in ("listen", "store", "replicas", "certificates", "keys"):
            default = getattr(type(getattr(minimal, section))(), key)
            assert said == f"{default:g}" if isinstance(default, float) else said == str(default), row


def test_the_ports_are_where_the_table_says(province: Path, tmp_path: Path) -> None:
    """Counted from whatever is free here, and moved to where the document's file begins."""
    plan = read_plan(province)
    first = 20_000
    while True:
        try:
            found = assign(msgspec.structs.replace(plan, listen=msgspec.structs.replace(plan.listen, first_port=first)))
            break
        except Exception:  # noqa: BLE001  (somebody else's port: look further up)
            first += 100
            assert first < 30_000

    def moved(address: str) -> str:
        return str(int(address.rpartition(":")[2]) - first + plan.listen.first_port)

    rows = dict(re.findall(r"^\| ((?:pomp|qkmp|pmp|qssp|km|cpe|twin)[^|]*) \|(.*)\|$", TEXT, re.MULTILINE))
    for one in found.services:
        parties = next(key for key in rows if one.party in key.split(", "))
        place = parties.split(", ").index(one.party)
        service, monitoring, _ = (cell.strip() for cell in rows[parties].split("|"))
        assert service.split(", ")[place] == moved(one.address)
        assert monitoring.split(", ")[place] == moved(one.monitoring)
    assert moved(found.twin_monitoring) in rows["twin"]
    for cpe, line in found.lines.items():
        assert f"{moved(line.local)}, {moved(line.client)} (UDP)" in rows[f"{cpe}: line, client"]


def test_every_metric_is_in_the_table_with_its_labels_and_its_alert() -> None:
    rules = {
        rule["alert"] for group in read_yaml(DEPLOY / "prometheus" / "alerts.yaml")["groups"] for rule in group["rules"]
    }
    rows = table("metrics")
    named = {re.sub(r"[`{].*", "", row[0].strip("`")) for row in rows}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metric_names()}
    assert named == families
    alerts = set(re.findall(r"Qsotn\w+", TEXT))
    assert alerts == rules


def events() -> dict[str, str]:
    """Every event that a service logs above debug, and its level."""
    found = {}
    for file in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name("_log"), attr=level), args=[ast.Constant(str() as event), *_]
                ) if level != "debug":
                    found[event] = level
                case ast.Call(
                    func=ast.Attribute(attr="tell"),
                    args=[ast.Attribute(value=ast.Name("_log"), attr=level), ast.Constant(str() as event), *_],
                ):
                    found[event] = level
    return found


def test_every_event_of_the_log_is_in_the_table_with_its_level() -> None:
    assert {row[0]: row[1] for row in table("events")} == events()


def test_configurations_that_init_makes_have_only_keys_of_the_table(composed: tuple[Path, object]) -> None:
    files = list(composed[0].glob("parties/*/service*.toml"))
    assert len(files) > 10
    for file in files:
        load_configuration(file)
