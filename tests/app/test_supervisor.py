"""Real processes under the supervisor: started, watched, stopped in order, and never left behind."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from tests.app.stand_ins import command

from qsotn.app.addresses import check_free
from qsotn.app.installation import create_installation
from qsotn.app.plan import sample_file
from qsotn.app.processes import Program, is_ready
from qsotn.app.programs import programs
from qsotn.app.record import load_plan, load_record
from qsotn.app.running import LOCK, claimed, stop_running
from qsotn.app.supervisor import STARTS, Chore, Patience, Supervisor
from qsotn.console.up import run_down
from qsotn.errors import QsotnError, UsageError

QUICK = Patience(ready=10.0, stop=5.0, first_delay=0.02, longest_delay=0.1, pulse=0.02)
ROOT = Path(__file__).resolve().parent.parent.parent


class Stage:
    """Programs of one test, and what the supervisor said of them."""

    def __init__(self, folder: Path) -> None:
        self.order = folder / "order"
        self.said: list[str] = []
        self._folder = folder

    def supervisor(self, *behaviours: str, patience: Patience = QUICK, stages: tuple[int, ...] = ()) -> Supervisor:
        stages = stages or tuple(range(len(behaviours)))
        made = [self._program(n, *one) for n, one in enumerate(zip(behaviours, stages, strict=True))]
        return Supervisor(made, self.said.append, patience)

    def _program(self, number: int, behaviour: str, stage: int) -> Program:
        name, port = f"part/{number}", free_port()
        log = self._folder / "log" / f"{number}.log"
        run = command(port, behaviour, name, self.order)
        return Program(name, run, log, f"127.0.0.1:{port}", f"https://127.0.0.1:{port}", "sqlite", stage)

    def has_begun(self, number: int) -> bool:
        """Whether a program came as far as its first word: what is stopped before has no last one."""
        log = self._folder / "log" / f"{number}.log"
        return log.exists() and f"part/{number} begins" in log.read_text()

    def stopped(self) -> list[str]:
        """Who was asked to stop, in that order."""
        return self.order.read_text().splitlines() if self.order.exists() else []


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lives(pid: int) -> bool:
    """Whether a process is there; one that has ended and waits to be counted is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := holds()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return met


def quiet(ready: int, of: int) -> None:
    """Progress that nobody watches."""


def ask_to_stop(number: signal.Signals = signal.SIGTERM) -> None:
    """Send this thread a signal, as somebody outside would."""
    signal.pthread_kill(threading.get_ident(), number)


def when(holds: Callable[[], bool]) -> list[Chore]:
    """A chore that stops the supervisor once something holds, or after a while."""
    deadline = time.monotonic() + 10

    def look() -> None:
        if holds() or time.monotonic() > deadline:
            ask_to_stop()

    return [Chore(0.02, look)]


# --- start and stop -------------------------------------------------------------------------------------------------


def test_all_are_started_and_stopped_in_the_reverse_order(stage: Stage) -> None:
    progress: list[tuple[int, int]] = []
    with stage.supervisor("ready", "ready", "ready") as supervisor:
        assert supervisor.start(lambda ready, of: progress.append((ready, of)))
        status = supervisor.status()
        assert [one.party for one in status] == ["part/0", "part/1", "part/2"]
        assert [one.state for one in status] == ["ready"] * 3
        assert all(one.pid is not None and lives(one.pid) for one in status)
        assert all(os.getsid(one.pid or 0) == one.pid for one in status), "Ctrl-C would reach them too"
        assert progress[-1] == (3, 3)
    assert stage.stopped() == ["part/2", "part/1", "part/0"]
    assert not any(one.pid is not None and lives(one.pid) for one in status)
    assert stage.said == []


def test_an_error_while_they_run_stops_them_too(stage: Stage) -> None:
    pids: list[int | None] = []

    def run(supervisor: Supervisor) -> None:
        supervisor.start(quiet)
        pids.extend(one.pid for one in supervisor.status())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), stage.supervisor("ready", "ready") as supervisor:
        run(supervisor)
    assert len(pids) == 2
    assert not any(pid is not None and lives(pid) for pid in pids)
    assert stage.stopped() == ["part/1", "part/0"]


def test_what_does_not_start_is_given_up_with_its_last_words(stage: Stage) -> None:
    with stage.supervisor("ready", "dies") as supervisor, pytest.raises(QsotnError) as caught:
        supervisor.start(quiet)
    assert re.match(r"part/1 does not start: the last lines of .*1\.log:\n", str(caught.value))
    assert str(caught.value).endswith("part/1 begins\n  no store to be had")
    assert len(stage.said) == STARTS
    assert stage.said[0].startswith("part/1 ended with exit code 1 after ")
    assert "starts again in 0.02 s; the last lines of" in stage.said[0]
    assert "starts again in 0.04 s" in stage.said[1]
    assert stage.stopped() == ["part/0"]


def test_what_is_never_ready_is_named_in_the_end(stage: Stage) -> None:
    patience = Patience(ready=0.4, stop=5.0)
    told = r"not ready within 0\.4 s: part/1; the last lines of .*1\.log:\n  part/1 begins"
    with stage.supervisor("ready", "unready", patience=patience) as supervisor, pytest.raises(QsotnError, match=told):
        supervisor.start(quiet)
    assert stage.stopped() == ["part/1", "part/0"]


def test_a_wish_to_stop_ends_the_start(stage: Stage) -> None:
    with stage.supervisor("ready", "unready") as supervisor:
        assert not supervisor.start(lambda ready, _: ask_to_stop() if ready and stage.has_begun(1) else None)
    assert stage.stopped() == ["part/1", "part/0"]


def test_what_does_not_stop_is_killed_after_a_while(stage: Stage) -> None:
    patience = Patience(ready=10.0, stop=0.2)
    with stage.supervisor("ready", "deaf", patience=patience) as supervisor:
        supervisor.start(quiet)
        pids = [one.pid for one in supervisor.status()]
    assert stage.said == ["part/1 did not stop and was killed"]
    assert stage.stopped() == ["part/0"]
    assert not any(pid is not None and lives(pid) for pid in pids)


def test_those_of_one_stage_are_stopped_together(stage: Stage) -> None:
    patience = Patience(ready=10.0, stop=0.7)
    with stage.supervisor("ready", "deaf", "deaf", "deaf", patience=patience, stages=(0, 1, 1, 1)) as supervisor:
        supervisor.start(quiet)
        begun = time.monotonic()
    assert time.monotonic() - begun < 2 * 0.7
    assert len(stage.said) == 3
    assert stage.stopped() == ["part/0"]


def test_whoever_insists_need_not_wait(stage: Stage) -> None:
    patience = Patience(ready=10.0, stop=20.0)
    begun = time.monotonic()
    with stage.supervisor("ready", "deaf", patience=patience) as supervisor:
        supervisor.start(quiet)
        threading.Timer(0.2, signal.pthread_kill, (threading.get_ident(), signal.SIGINT)).start()
    assert time.monotonic() - begun < 15
    assert stage.said[0] == "part/1 did not stop and was killed"


def test_signals_are_as_before_when_it_has_ended(stage: Stage) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with stage.supervisor("ready") as supervisor:
        supervisor.start(quiet)
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert signal.SIGTERM not in before


# --- watch ----------------------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_is_told_and_started_again(stage: Stage) -> None:
    with stage.supervisor("ready", "ready") as supervisor:
        supervisor.start(quiet)
        before = supervisor.status()[0].pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        supervisor.watch(when(lambda: any("ready again" in line for line in stage.said)))
        after = supervisor.status()[0]
    told, again = stage.said
    assert told.startswith("part/0 was ended by SIGKILL after ")
    assert told.endswith("0.log:\n  part/0 begins")
    assert again == f"part/0 is ready again (process {after.pid})"
    assert after.pid != before
    assert after.state == "ready"
    assert stage.stopped() == ["part/1", "part/0"]


def test_one_that_dies_again_and_again_is_tried_less_and_less_often(stage: Stage) -> None:
    with stage.supervisor("once") as supervisor:
        supervisor.start(quiet)
        os.kill(supervisor.status()[0].pid or 0, signal.SIGKILL)
        supervisor.watch(when(lambda: len(stage.said) >= 5))
        assert supervisor.status()[0].state in ("down", "starting")
    delays = [line.partition(" starts again in ")[2].partition(" s;")[0] for line in stage.said[:5]]
    assert delays == ["0.02", "0.04", "0.08", "0.1", "0.1"]


def test_a_long_life_is_forgiven(stage: Stage) -> None:
    patience = Patience(ready=10.0, stop=5.0, first_delay=0.02, longest_delay=1.0, settled=0.0, pulse=0.02)
    with stage.supervisor("once", patience=patience) as supervisor:
        supervisor.start(quiet)
        os.kill(supervisor.status()[0].pid or 0, signal.SIGKILL)
        supervisor.watch(when(lambda: len(stage.said) >= 3))
    assert all("starts again in 0.02 s" in line for line in stage.said[:3])


def test_a_chore_that_fails_is_told_and_done_again(stage: Stage) -> None:
    done: list[str] = []

    def chore() -> None:
        done.append("again")
        raise QsotnError("the roots are locked")

    with stage.supervisor("ready") as supervisor:
        supervisor.start(quiet)
        supervisor.watch([Chore(0.01, chore), *when(lambda: len(done) > 2)])
    assert stage.said[0] == "the roots are locked; the next attempt is in 0.01 s"
    assert supervisor.stopping


def test_a_terminal_that_closes_stops_it_unless_that_is_to_be_ignored(stage: Stage) -> None:
    was = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    looks: list[int] = []

    def close_terminal() -> None:
        looks.append(1)
        ask_to_stop(signal.SIGHUP)

    try:
        with stage.supervisor("ready") as supervisor:
            supervisor.start(quiet)
            supervisor.watch([Chore(0.01, close_terminal), *when(lambda: len(looks) > 2)])
    finally:
        signal.signal(signal.SIGHUP, was)
    assert len(looks) > 2
    with stage.supervisor("ready") as supervisor:
        supervisor.start(quiet)
        supervisor.watch([Chore(0.01, close_terminal)])
    assert stage.stopped() == ["part/0", "part/0"]


# --- readiness ------------------------------------------------------------------------------------------------------


def test_nobody_there_a_refusal_and_rubbish_are_all_not_ready() -> None:
    assert not is_ready(f"127.0.0.1:{free_port()}", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not is_ready(f"127.0.0.1:{silent.getsockname()[1]}", 0.1)
    for answer, ready in (
        (b"HTTP/1.1 503 No\r\n\r\n", False),
        (b"hello\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
    ):
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=answer_once, args=(server, answer))
            thread.start()
            assert is_ready(f"127.0.0.1:{server.getsockname()[1]}", 5.0) is ready
            thread.join()


def answer_once(server: socket.socket, answer: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        assert connection.recv(1000).startswith(b"GET /readyz HTTP/1.1\r\n")
        connection.sendall(answer)


# --- one supervisor at a time ---------------------------------------------------------------------------------------


def test_a_folder_is_run_by_one(tmp_path: Path) -> None:
    told = rf"runs already, as process {os.getpid()}; stop it with: qsotn down --state {tmp_path}"
    with claimed(tmp_path), pytest.raises(UsageError, match=told), claimed(tmp_path):
        pytest.fail("claimed twice")
    with claimed(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_what_does_not_run_cannot_be_stopped(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not run: nobody ever started it there"):
        stop_running(tmp_path, 1.0)
    with claimed(tmp_path):
        pass
    with pytest.raises(UsageError, match="does not run; start it with: qsotn up --state"):
        stop_running(tmp_path, 1.0)


def test_one_that_does_not_stop_is_told(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time; from pathlib import Path; from qsotn.app.running import claimed\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "with claimed(Path(sys.argv[1])): print('claimed', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout is not None
        assert deaf.stdout.readline() == b"claimed\n"
        with pytest.raises(QsotnError, match=rf"still runs after 0\.2 s, as process {deaf.pid}"):
            stop_running(tmp_path, 0.2)
        deaf.kill()


# --- a whole province -----------------------------------------------------------------------------------------------


@pytest.fixture
def province(tmp_path: Path) -> Path:
    """The sample on free ports, made so long ago that its certificates are due."""
    file = tmp_path / "file.toml"
    file.write_text(sample_file().read_text().replace("first_port = 7400", "first_port = 0"))
    create_installation(file, tmp_path / "state", os.urandom, dt.datetime.now(dt.UTC) - dt.timedelta(days=70))
    return tmp_path / "state"


Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(province: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "tests.app.stand_ins", str(province)]
        up = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(up)
        return up

    yield begin
    for up in started:
        up.kill()
        up.communicate()


def first_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_up_runs_a_province_until_down(province: Path, start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    up = start()
    shown = json.loads(first_line(up.stdout))
    record = load_record(province)
    assert (shown["province"], shown["supervisor"], shown["state"]) == ("shandong", up.pid, str(province))
    assert shown["client_ports"] == dict(record.client_ports)
    by_name = {one["party"]: one for one in shown["processes"]}
    assert set(by_name) == {*(one.party for one in record.services), "qkd twin"}
    assert by_name["km/jinan"]["url"] == record.urls(load_plan(province).kms[0])[0]
    assert {one["state"] for one in shown["processes"]} == {"ready"}
    assert all(lives(one["pid"]) for one in shown["processes"])
    assert (province / "log" / "km-jinan.log").read_text() == "km/jinan begins\n"

    second = start()
    told = second.communicate(timeout=30)[1]
    assert second.returncode == 2
    assert f"{province} runs already, as process {up.pid}; stop it with: qsotn down" in told
    with pytest.raises(UsageError, match="cannot be used: Address already in use"):
        check_free([by_name["km/jinan"]["monitoring"]])

    run_down(province, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"province": "shandong", "supervisor": up.pid}
    rest, errors = up.communicate(timeout=30)
    assert (up.returncode, rest) == (0, "")
    assert "Renewed for TLS, and taken up by running services: pomp/shandong" in errors
    assert errors.endswith("The province shandong is down.\n")
    assert not any(lives(one["pid"]) for one in shown["processes"])
    stopped = [name.partition("/")[0] for name in (province / "order").read_text().splitlines()]
    stages = [sorted(stopped[first:end]) for first, end in ((0, 3), (3, 5), (5, 8), (8, 11))]
    assert stages == [["cpe", "cpe", "qkd twin"], ["pmp", "pomp"], ["qkmp", "qssp", "qssp"], ["km", "km", "km"]]


def test_ctrl_c_stops_all_and_a_killed_party_is_told_on_the_way(province: Path, start: Start) -> None:
    up = start()
    shown = json.loads(first_line(up.stdout))
    victim = next(one for one in shown["processes"] if one["party"] == "qssp/jinan")
    os.kill(victim["pid"], signal.SIGKILL)
    assert up.stderr is not None
    seen = ""
    for line in up.stderr:
        seen += line
        if "is ready again" in line:
            break
    assert "qssp/jinan was ended by SIGKILL" in seen
    up.send_signal(signal.SIGINT)
    errors = up.communicate(timeout=30)[1]
    assert up.returncode == 0
    assert "Traceback" not in seen + errors
    assert not any(lives(one["pid"]) for one in shown["processes"])


def test_nothing_is_left_of_a_supervisor_that_is_killed(province: Path, start: Start) -> None:
    up = start()
    shown = json.loads(first_line(up.stdout))
    up.kill()
    up.wait()
    left = [one["pid"] for one in shown["processes"]]
    if not eventually(lambda: not any(map(lives, left))):
        for pid in filter(lives, left):
            os.kill(pid, signal.SIGKILL)
        pytest.fail("processes outlived their supervisor")
    again = start()
    assert json.loads(first_line(again.stdout))["supervisor"] == again.pid
    stop_running(province, 30.0)
    assert again.wait(30) == 0


def test_without_its_authority_a_province_runs_and_says_that_nothing_is_renewed(province: Path, start: Start) -> None:
    (province / "pki").rename(province.parent / "safe")
    up = start()
    assert json.loads(first_line(up.stdout))["province"] == "shandong"
    stop_running(province, 30.0)
    assert "pki is not here, so no certificate is renewed" in up.communicate(timeout=30)[1]
    assert up.returncode == 0


def test_the_programs_of_a_province_serve_every_party_and_the_twin(province: Path) -> None:
    record, plan = load_record(province), load_plan(province)
    made = programs(province, record, plan)
    assert [one.name for one in made] == [
        *("km/jinan", "km/qingdao", "km/weifang", "qkmp/shandong", "qssp/jinan", "qssp/qingdao"),
        *("pmp/shandong", "pomp/shandong", "cpe/jinan-1", "cpe/qingdao-1", "qkd twin"),
    ]
    serve = (sys.executable, "-m", "qsotn", "serve")
    assert made[0].command == (*serve, "km", "--config", str(province / "parties" / "km-jinan" / "service.toml"))
    assert made[-1].command == (*serve, "qkd", "--config", str(province / "twin" / "service.toml"))
    assert len({one.log for one in made}) == len(made)
    assert {one.store for one in made[:-1]} == {"sqlite"}
