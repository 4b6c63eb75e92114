"""deploy/compose: each command, path, role and reference in it, held against what `qsotn init` makes."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.deployment.files import COMPOSE, ROOT, read_yaml

from qsotn.app.plan import read_plan
from qsotn.app.record import ProvinceRecord
from qsotn.domain import Role, role_of
from qsotn.service.config import load_configuration, load_twin
from qsotn.service.host import GRACE_S

COMPOSED = read_yaml(COMPOSE / "compose.yaml")
CONTAINERS: dict[str, dict[str, Any]] = COMPOSED["services"]
SERVING = {name: one for name, one in CONTAINERS.items() if one.get("command", [""])[0] == "serve"}
KNOWN_KEYS = {
    "build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image", "init",
    "logging", "network_mode", "pids_limit", "profiles", "read_only", "restart", "secrets", "security_opt", "shm_size",
    "stop_grace_period", "tmpfs", "ulimits", "user", "volumes",
}  # fmt: skip


def mounts(container: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """What is mounted where: by the path inside, the path outside, and whether it may be written to."""
    parts = [volume.split(":") for volume in container["volumes"]]
    return {inside: (outside, mode == []) for outside, inside, *mode in parts}


def outside(container: dict[str, Any], inside: str) -> str:
    """The path beside compose.yaml of a path inside a container."""
    folder = next(place for place in mounts(container) if inside.startswith(f"{place}/"))
    return str(Path(mounts(container)[folder][0]) / inside.removeprefix(f"{folder}/"))


def test_the_file_has_keys_of_the_specification_and_every_reference_is_met() -> None:
    assert {key for key in COMPOSED if not key.startswith("x-")} == {"name", "services", "secrets", "volumes"}
    for name, one in CONTAINERS.items():
        assert set(one) <= KNOWN_KEYS, name
        assert set(one.get("depends_on", {})) <= set(CONTAINERS), name
        assert set(one.get("secrets", ())) <= set(COMPOSED["secrets"]), name
        for source, _ in mounts(one).values():
            assert source.startswith("./province") or source in COMPOSED["volumes"], name


def test_there_is_one_container_for_each_process_of_the_province(composed: tuple[Path, ProvinceRecord]) -> None:
    _, record = composed
    expected = {f"./{Path('province') / one.configuration}" for one in record.services}
    expected.add(f"./province/{record.twin.configuration}")
    found = [f"./{outside(one, one['command'][3])}" for one in SERVING.values()]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("name", SERVING)
def test_a_container_serves_the_party_whose_folder_it_has(name: str, composed: tuple[Path, ProvinceRecord]) -> None:
    state, _ = composed
    one = SERVING[name]
    verb, role, option, file = one["command"]
    assert (verb, option, one["environment"]["CONFIGURATION"]) == ("serve", "--config", file)
    path = state.parent / outside(one, file)
    if role == Role.QKD:
        assert load_twin(path).links
        return
    configuration = load_configuration(path)
    party = str(configuration.party)
    assert (role, re.sub(r"-\d$", "", name) if role != Role.CPE else name) == (
        role_of(configuration.party),
        party.replace("/", "-"),
    )
    own_store = configuration.store.url == "sqlite"
    assert mounts(one) == {"/party": (f"./province/parties/{party.replace('/', '-')}", own_store)}
    assert ("PGPASSFILE" in one["environment"]) is not own_store


def test_the_parties_find_the_database_where_it_listens(composed: tuple[Path, ProvinceRecord]) -> None:
    state, record = composed
    database = CONTAINERS["database"]
    port = database["environment"]["PGPORT"]
    assert f"--port={port}" in database["healthcheck"]["test"]
    assert "listen_addresses=127.0.0.1" in database["command"]
    urls = {load_configuration(state / one.configuration).store.url for one in record.services}
    names = [str(party).replace("/", "_") for party in read_plan(state / "province.toml").platform]
    assert urls == {"sqlite", *(f"postgresql://{name}@127.0.0.1:{port}/{name}" for name in names)}


def test_only_the_renewal_sees_the_keys_of_the_roots() -> None:
    sees = {name for name, one in CONTAINERS.items() for source, _ in mounts(one).values() if source == "./province"}
    assert sees == {"renewal"}
    assert "qsotn pki renew --state /province" in CONTAINERS["renewal"]["entrypoint"][-1]
    assert CONTAINERS["operator"]["profiles"] == ["operator"]


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "database"])
def test_every_container_of_ours_is_confined(name: str) -> None:
    one = CONTAINERS[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert one["user"].startswith("${QSOTN_USER:?")
    assert int(one["stop_grace_period"].removesuffix("s")) > 2 * GRACE_S


@pytest.fixture
def listener() -> Iterator[http.server.ThreadingHTTPServer]:
    """A monitoring listener that says whether it is `ready`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready = self.path == "/readyz" and getattr(self.server, "ready", False)
            self.send_response(200 if ready else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_health_check_asks_the_listener_that_the_configuration_names(
    listener: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    checks = {tuple(one["healthcheck"]["test"]) for one in SERVING.values()}
    ((kind, program, *arguments),) = checks
    assert (kind, program) == ("CMD", "python")
    file = tmp_path / "service.toml"
    file.write_text(f'[listen]\nmonitoring = "127.0.0.1:{listener.server_port}"\n')

    def healthy() -> bool:
        environment = {**os.environ, "CONFIGURATION": str(file)}
        shown = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
        return shown.returncode == 0

    assert not healthy()
    listener.ready = True  # type: ignore[attr-defined]  # read by the handler above
    assert healthy()


def test_the_image_is_made_of_what_its_build_may_see() -> None:
    lines = (COMPOSE / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if re.match(r"COPY (?!--from)", line) for word in line.split()[1:-1]]
    ignored = (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert sorted(copied) == sorted(line.removeprefix("!") for line in ignored if line.startswith("!"))
    assert all((ROOT / name).exists() for name in copied)
    built = COMPOSED["x-container"]["build"]
    assert (COMPOSE / built["context"]).resolve() == ROOT
    assert (ROOT / built["dockerfile"]) == COMPOSE / "Dockerfile"
    assert 'ENTRYPOINT ["qsotn"]' in lines
