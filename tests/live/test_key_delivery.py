"""Keys for SAEs, delivered by real processes that are killed, restored and cut off: exactly once, or not at all.

Every key manager of a small province is a process with stores of its own, and the twin is one; SAEs at both ends draw
and collect keys over ETSI GS QKD 014 all the while. A few seconds each in the suite; longer with QSOTN_LIVE_SECONDS and
QSOTN_LIVE_SEED, as for the other loops. `key_delivery_quick` shortens the times that a service waits.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tests.faults.delivered_keys import Ended, violations
from tests.faults.killer import Killer, Plan
from tests.live.key_delivery_province import KeyProvince, KeyShape
from tests.live.key_delivery_saes import Saes, SaeThread
from tests.live.key_delivery_scan import KeyScan, forms_of
from tests.live.stores import Stores
from tests.live.test_kills import Victims

from qsotn.app.record import SAES
from qsotn.domain import PartyId
from qsotn.keynetwork.delivery import Pool
from qsotn.service.delivery.routes import Routes
from qsotn.service.delivery.server import KEYS_FILE

KILLS_A_SECOND = 0.8
LONGEST_DOWNTIME_S = 1.0
UNITS_A_SECOND = 400
SECONDS = {"sqlite": 6.0, "postgresql": 4.5}
JINAN, QINGDAO = PartyId("km/jinan"), PartyId("km/qingdao")
WAYS = ((JINAN, QINGDAO), (QINGDAO, JINAN))
RING = KeyShape(
    relays=("weifang", "dezhou"),
    links=(("jinan", "weifang"), ("weifang", "qingdao"), ("jinan", "dezhou"), ("dezhou", "qingdao")),
    saes=(("jinan-sae-1", "jinan"), ("qingdao-sae-1", "qingdao")),
    ready_keys=64,
    keys_an_end=4096,
)
GONE_ROUND_S = 45.0
"""Well above how long a supply may take (`key_delivery_quick.SUPPLY_US`), on a machine that is busy."""
_log = logging.getLogger(__name__)


def shape(seconds: float) -> KeyShape:
    return KeyShape(keys_an_end=int(UNITS_A_SECOND * (10 + seconds)))


def test_no_key_is_given_twice_or_lost_however_often_key_managers_are_killed(
    folder: Path, stores: Stores, live_seed: int
) -> None:
    kind = "sqlite" if stores.server is None else "postgresql"
    seconds = float(os.environ.get("QSOTN_LIVE_SECONDS", SECONDS[kind]))
    with KeyProvince(folder, stores, shape(seconds)) as province:
        province.begin()
        saes, victims = Saes(province, live_seed), Victims(province)
        with SaeThread(saes) as thread:
            thread.served_since(0.0, WAYS, 60)
            killer = Killer(
                victims.processes(), victims.start, Plan(live_seed, KILLS_A_SECOND, (0, LONGEST_DOWNTIME_S))
            )
            killer.run(seconds)
            killed = Counter(death.name for death in killer.kills)
            for name in killer.processes.keys() - killed.keys():
                kill_once(killer, name)
                killed[name] += 1
            died = Counter(death.name for death in killer.found_dead) + province.revive()
            thread.served_since(time.monotonic(), WAYS, 60)
            thread.finish()
        metrics = b"".join(province.metrics())
        province.come_to_rest()
        scan = KeyScan(saes.keys.values())
        folders = [province.state, *stores.folders]
        clear = [found for one in folders for found in scan.files(one, but=[province.state / SAES])]
        run = saes.delivered(province)
        found = violations(run)
        _log.info("%s, %g s: killed %s", kind, seconds, dict(killed))
        _log.info("%d draws, %d pickups, %d keys", len(run.draws), len(run.pickups), len(saes.keys))
        _log.info("SAEs were told: %s", dict(saes.told))
        for end in run.ends:
            _log.info("%s", end)
        _log.info("%d violations, %d keys in the clear", len(found), len(clear))
        assert found == []
        assert saes.wrong == []
        assert victims.unexplained(died) == []
        assert len(saes.keys) > 10 * seconds
        assert any(pickup.outcome is Ended.REFUSED for pickup in run.pickups)
        assert clear == []
        assert list(scan.places(metrics)) == []


def kill_once(killer: Killer, name: str) -> None:
    """Kill whom chance has left out, and start it again."""
    killer.processes[name].kill()
    killer.processes[name].wait(10)
    time.sleep(LONGEST_DOWNTIME_S / 2)
    killer.processes[name] = killer.start(name)


def test_the_search_finds_a_key_in_every_form(tmp_path: Path) -> None:
    keys = [os.urandom(size) for size in (16, 32, 48, 64)]
    scan = KeyScan(keys)
    for key in keys:
        for form in forms_of(key):
            for before in (0, 1, 5, 8, (1 << 22) - 3):
                content = bytes(before) + form + b"."
                assert list(scan.places(content)) == [before]
        altered = key[:-1] + bytes([key[-1] ^ 1])
        assert list(scan.places(altered)) == []
    (tmp_path / "log").write_bytes(b"the key is " + keys[0].hex().encode())
    assert scan.files(tmp_path) == [f"{tmp_path / 'log'} at 11"]


def test_a_restored_key_store_gives_nothing_again_and_its_saes_are_served_under_a_new_series(
    folder: Path, live_seed: int
) -> None:
    with KeyProvince(folder, Stores(), shape(8)) as province:
        province.begin()
        saes, copy = Saes(province, live_seed), folder / "older.db"
        with SaeThread(saes) as thread:
            thread.served_since(0.0, WAYS, 60)
            time.sleep(0.7)
            back_up(province.folder(JINAN) / KEYS_FILE, copy)
            thread.served_since(time.monotonic(), WAYS, 30)
            time.sleep(0.7)
            province.stop([JINAN])
            put_back(copy, province.folder(JINAN) / KEYS_FILE)
            province.start(JINAN)
            province.wait_ready()
            restored_at = time.time_ns() // 1000
            took = thread.served_since(time.monotonic(), WAYS, 60)
            time.sleep(1)
            thread.finish()
        province.come_to_rest()
        run = saes.delivered(province, frozenset({JINAN}), restored_at)
        _log.info("served again after %.1f s; %s", took, dict(saes.told))
        for end in run.ends:
            _log.info("%s", end)
        assert violations(run) == []
        assert saes.wrong == []
        pools = {(end.km, end.pool) for end in run.ends}
        for ends in WAYS:
            again = {(km, pool.series) for km, pool in pools if (pool.origin, pool.target) == ends and pool.series > 1}
            assert {km for km, _ in again} == set(ends)
            assert len({series for _, series in again}) == 1, again
        assert sum(end.count.burned for end in run.ends if end.pool == Pool(JINAN, QINGDAO, 1)) > 0


def back_up(database: Path, copy: Path) -> None:
    """Copy a database while it is in use, as an operator's backup does."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as made:
        source.backup(made)


def put_back(copy: Path, database: Path) -> None:
    """Restore a database whose process has stopped."""
    for beside in database.parent.glob(f"{database.name}*"):
        beside.unlink()
    shutil.copyfile(copy, database)


def test_when_the_relay_in_use_falls_silent_supplies_go_over_the_other_way(folder: Path, live_seed: int) -> None:
    with KeyProvince(folder, Stores(), RING) as province:
        province.begin()
        saes = Saes(province, live_seed)
        with SaeThread(saes) as thread:
            thread.served_since(0.0, WAYS, 60)
            relay = relay_of(province, Pool(JINAN, QINGDAO, 1))
            before = {batch for batch, _ in province.ways(JINAN)}
            province.processes[relay].send_signal(signal.SIGSTOP)
            gone = time.monotonic()
            while not arrived_over(province, other_than(relay), before):
                assert time.monotonic() < gone + GONE_ROUND_S, f"nothing came round {relay}: {saes.told}"
                time.sleep(0.2)
            took = time.monotonic() - gone
            served = thread.served_since(time.monotonic(), WAYS, 30)
            thread.finish()
        _log.info("the other way after %.1f s, served %.1f s later; %s", took, served, dict(saes.told))
        assert saes.wrong == []
        assert not any("enc_keys without" in told or "unknown" in told for told in saes.told)
        province.kill([relay])
        province.come_to_rest()
        assert violations(saes.delivered(province)) == []


def test_a_relay_that_never_ran_is_gone_round_though_every_first_supply_failed_at_it(
    folder: Path, live_seed: int
) -> None:
    with KeyProvince(folder, Stores(), replace(RING, ready_keys=512)) as province:
        relay = first_relay(province)
        for name in province.commands.keys() - {relay}:
            province.start(name)
        saes = Saes(province, live_seed)
        with SaeThread(saes) as thread:
            took = thread.served_since(time.monotonic(), WAYS, GONE_ROUND_S)
            thread.finish()
        _log.info("served after %.1f s; %s", took, dict(saes.told))
        assert arrived_over(province, other_than(relay), set())
        assert saes.wrong == []


def relay_of(province: KeyProvince, pool: Pool) -> str:
    """The key manager between the ends of a pool that its last supply came over."""
    (*_, way) = (way for _, way in province.ways(pool.target) if f"from {pool.origin} to {pool.target}" in way)
    (relay,) = (km for km in province.plan.kms if f"–{km}–" in way)
    return relay


def first_relay(province: KeyProvince) -> str:
    """The key manager that supplies between the two ends go over when all links are believed to work."""
    (way,) = Routes(JINAN, province.plan.links).ways(QINGDAO, 0)
    return way[1]


def other_than(relay: str) -> str:
    """The other relay of the ring."""
    return next(km for km in ("km/weifang", "km/dezhou") if km != relay)


def arrived_over(province: KeyProvince, relay: str, before: set[str]) -> bool:
    """Whether supplies in both directions have come over a relay since."""
    new = [way for batch, way in province.ways(JINAN) if batch not in before and f"–{relay}–" in way]
    return all(any(f"from {origin} to {target}" in way for way in new) for origin, target in WAYS)
