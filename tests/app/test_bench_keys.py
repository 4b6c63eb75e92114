"""`qsotn bench keys`: a run of a few seconds in all its parts. How fast anything is, is nobody's business here."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.app.bench import keys, relay
from qsotn.app.bench.keys_ground import HOST, KM, credentialed, make_certificates
from qsotn.app.bench.keys_load import Connect, Generator
from qsotn.app.bench.keys_servers import Tell, Told
from qsotn.app.bench.steered import Steered
from qsotn.errors import QsotnError

SIZES = keys.Sizes(
    connections=(1, 3),
    rounds=1,
    seconds=0.1,
    few=256,
    many=1024,
    connections_at_128=2,
    most_trips_s=4_000,
    most_keys_s=40_000,
    hops=(1, 3),
    relayed=relay.Amount(keys=16, batch=8, large_batch=16, rounds=1),
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground")
    make_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def told() -> list[tuple[str, float]]:
    return []


@pytest.fixture(scope="module")
def measured(told: list[tuple[str, float]]) -> keys.KeyBenchmark:
    return keys.run(SIZES, lambda phase, part: told.append((phase, part)))


def test_a_round_trip_is_compared_with_both_other_servers_at_every_number_of_connections(
    measured: keys.KeyBenchmark,
) -> None:
    assert [one.connections for one in measured.round_trips] == [1, 3]
    for one in measured.round_trips:
        assert one.ratio_to_memory_server == pytest.approx(one.per_cpu_s / one.memory_server_per_cpu_s, rel=0.01)
        assert one.ratio_to_naive == pytest.approx(one.per_cpu_s / one.naive_per_cpu_s, rel=0.01)
        assert 0 < one.median_ms <= one.p99_ms


def test_every_other_figure_is_one(measured: keys.KeyBenchmark) -> None:
    assert measured.consumed == (256, 1024)
    figures = (
        measured.keys_per_cpu_s_at_128,
        measured.memory_server_keys_per_cpu_s_at_128,
        measured.flatness,
        measured.consumed_per_cpu_s,
        measured.deposited_per_cpu_s,
        measured.plan_seconds,
        measured.sync_ms,
    )
    assert all(figure > 0 for figure in figures)
    assert [one.hops for one in measured.relay] == [1, 3]
    assert all(one.keys_per_s > 0 and one.keys_per_cpu_s_in_large_batches > 0 for one in measured.relay)


def test_it_says_how_far_it_is(measured: keys.KeyBenchmark, told: list[tuple[str, float]]) -> None:
    ends = dict(told)
    assert len(ends) >= 6
    assert {phase for phase, part in ends.items() if part != pytest.approx(1)} == {"certificates"}


def test_the_json_has_the_fields_that_are_promised(measured: keys.KeyBenchmark) -> None:
    document = msgspec.json.decode(msgspec.json.encode(measured))
    promised = {"round_trips", "keys_per_cpu_s_at_128", "flatness", "relay", "plan_seconds"}
    assert promised <= document.keys()
    assert {"connections", "per_cpu_s", "ratio_to_memory_server", "ratio_to_naive"} <= document["round_trips"][0].keys()
    assert {"hops", "keys_per_s"} <= document["relay"][0].keys()


# --- what would make a figure worthless -------------------------------------------------------------------------------


async def _against(ground: Path, application: web.Application) -> None:
    listener = socket.create_server((HOST, 0))
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, ssl_context=credentialed(ground, KM).server()).start()
        await Generator(ground).do(Connect(listener.getsockname()[1], 1))
    finally:
        await runner.cleanup()


def _answering(enc: web.Response, dec: web.Response) -> web.Application:
    async def enc_keys(_: web.Request) -> web.Response:
        return enc

    async def dec_keys(_: web.Request) -> web.Response:
        return dec

    application = web.Application()
    application.router.add_post(form.PREFIX + "{slave}/enc_keys", enc_keys)
    application.router.add_post(form.PREFIX + "{master}/dec_keys", dec_keys)
    return application


def _container(key: bytes) -> bytes:
    return msgspec.json.encode(form.KeyContainer((form.Key("00000000-0000-8000-8000-000000000001", key),)))


@pytest.mark.parametrize(
    ("dec", "complaint"),
    [
        (web.Response(body=_container(bytes(32))), "other keys"),
        (web.Response(status=503, text="busy"), "answered 503"),
    ],
)
def test_a_round_trip_that_failed_is_not_counted(ground: Path, dec: web.Response, complaint: str) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(_against(ground, _answering(web.Response(body=_container(b"k" * 32)), dec)))
    assert raised.group_contains(QsotnError, match=complaint)


def test_a_process_that_ends_is_reported_with_its_last_words(ground: Path, tmp_path: Path) -> None:
    arguments = ("no such kind", str(ground), str(tmp_path / "store"))
    with (
        Steered("qsotn.app.bench.keys_servers", *arguments, log=tmp_path / "log") as server,
        pytest.raises(QsotnError, match="'no such kind' is no server"),
    ):
        server.ask(Tell(), Told)


# --- ends -------------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    run = subprocess.Popen(
        (sys.executable, "-m", "qsotn", "bench", "keys"),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        children = _children_at_work(run.pid, tmp_path)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=20)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 130, errors
    assert list(tmp_path.iterdir()) == []
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []


def _children_at_work(parent: int, folder: Path) -> list[int]:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        if len(listed) >= 4 and list(folder.glob("*/store-grouped/keys.db")):
            return [int(child) for child in listed]
        time.sleep(0.05)
    raise AssertionError("the benchmark did not begin")
