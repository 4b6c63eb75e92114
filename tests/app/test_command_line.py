"""`qsotn demo` as a person runs it, in a process of its own: the report, the trace, and every bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

RUN = (sys.executable, "-c", "from qsotn.cli import main; main()")
FILE = b"one client file, " * 20_000
FIELDS = {
    "traffic": {"bytes_in", "bytes_out", "sha256_in", "sha256_out", "frames", "multiframes", "rekeys", "seconds"},
    "leased_line": {"line_id", "steps", "state", "odu"},
}


def demo(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, "demo", *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def check(report: dict[str, Any], size: int) -> None:
    """What every finished run must show."""
    assert [[step["n"] for step in one["steps"]] for one in report["initialization"]] == [list(range(1, 11))] * 2
    assert {one["state"] for one in report["initialization"]} == {"READY"}
    assert [step["n"] for step in report["leased_line"]["steps"]] == list(range(1, 13))
    assert report["leased_line"]["state"] == "ENCRYPTED"
    for part, fields in FIELDS.items():
        assert fields <= set(report[part])
    traffic = report["traffic"]
    assert traffic["bytes_in"] == traffic["bytes_out"] == size
    assert traffic["sha256_in"] == traffic["sha256_out"]
    assert traffic["rekeys"] >= 2
    ids = [key["key_id"] for key in report["keys"]]
    assert len(ids) == len(set(ids)) >= 6
    assert {key["direction"] for key in report["keys"]} == {"a-to-b", "b-to-a"}
    assert all(key["source"].startswith("qkd:") for key in report["keys"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(FILE)
    return path


def test_the_whole_run_and_its_report(file: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    finished = demo(file, "--state", state, "--json")
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    check(report, len(FILE))
    assert sum(key["frames"] for key in report["keys"]) > 0
    assert (state / "received").read_bytes() == FILE
    again = demo("--state", state, "--resume", "--json")
    assert json.loads(again.stdout) == report
    key = report["keys"][0]["key_id"]
    traced = subprocess.run(
        [*RUN, "trace", key, "--state", str(state), "--json"], capture_output=True, text=True, timeout=60
    )
    layers = {hop["layer"] for hop in json.loads(traced.stdout)["hops"]}
    assert layers == {"quantum", "key network", "AK", "Iaq", "supervision", "module", "OPUk"}


def _missing(folder: Path) -> list[str]:
    return [str(folder / "nothing")]


def _directory(folder: Path) -> list[str]:
    return [str(folder)]


def _device(_folder: Path) -> list[str]:
    return ["/dev/zero"]


def _other_version(folder: Path) -> list[str]:
    (folder / "state").mkdir()
    (folder / "state" / "state.json").write_text('{"version": 99}')
    return []


def _no_state(folder: Path) -> list[str]:
    (folder / "state").mkdir()
    (folder / "state" / "state.json").write_text("not json")
    return []


def _strangers(folder: Path) -> list[str]:
    (folder / "state").mkdir()
    (folder / "state" / "thesis.tex").write_text("precious")
    return ["--fresh"]


def _both(_folder: Path) -> list[str]:
    return ["--fresh", "--resume"]


@pytest.mark.parametrize(
    ("prepare", "complaint"),
    [
        (_missing, "cannot be read: No such file"),
        (_directory, "cannot be read: Is a directory"),
        (_device, "not a regular file"),
        (_other_version, "is of version 99"),
        (_no_state, "is not a state of qsotn"),
        (_strangers, "holds 'thesis.tex'"),
        (_both, "give one of them"),
    ],
)
def test_bad_input_ends_in_one_clear_line(tmp_path: Path, prepare: Any, complaint: str) -> None:
    ended = demo(*prepare(tmp_path), "--state", tmp_path / "state")
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "state" / "parties").exists(), "nothing is half done"
    assert not (tmp_path / "state" / "thesis.tex").exists() or prepare is _strangers


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    import fcntl

    state = tmp_path / "state"
    state.mkdir()
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ended = demo("--state", state)
    os.close(lock)
    assert ended.returncode == 2
    assert "in use by another qsotn process" in ended.stderr


def test_an_unfinished_run_is_neither_lost_nor_mixed(file: Path, tmp_path: Path) -> None:
    state, other = tmp_path / "state", tmp_path / "other"
    other.write_bytes(b"other")
    with subprocess.Popen([*RUN, "demo", str(file), "--state", str(state)], stdout=subprocess.DEVNULL) as process:
        while not (state / "state.json").exists():
            time.sleep(0.02)
        process.kill()
    ended = demo(other, "--state", state)
    assert ended.returncode == 2
    assert "--resume" in ended.stderr
    assert "--fresh" in ended.stderr
    ended = demo(other, "--state", state, "--resume")
    assert ended.returncode == 2
    assert "takes no other file" in ended.stderr
