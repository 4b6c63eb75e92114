"""Keys for SAEs while PostgreSQL fails over and replicas are killed: exactly once, or not at all.

Two processes of every key manager share one database, and SAEs ask any of them. A few seconds each in the suite; longer
with QSOTN_LIVE_SECONDS and QSOTN_LIVE_SEED:

    QSOTN_LIVE_SECONDS=300 pytest --log-cli-level=INFO tests/live/test_key_failover.py

A standby is what `synchronous_commit` is for: before the primary is killed, the standby hears nothing more of it for a
while. What is acknowledged meanwhile is lost with the primary; with a synchronous standby that is nothing.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path

from tests.faults.delivered_keys import Delivered, Draw, Ended, violations
from tests.live.key_delivery_province import KeyProvince, KeyShape
from tests.live.key_delivery_saes import Saes, SaeThread
from tests.live.key_delivery_scan import KeyScan
from tests.live.postgres_pair import PostgresPair
from tests.live.stores import DATABASE, Stores, postgresql_stores
from tests.live.test_key_delivery import JINAN, QINGDAO, UNITS_A_SECOND, WAYS, shape

from qsotn.app.record import SAES
from qsotn.domain import PartyId

STAR = KeyShape(
    cities=("jinan", "qingdao", "yantai"),
    links=(("jinan", "weifang"), ("qingdao", "weifang"), ("yantai", "weifang")),
    saes=(
        ("jinan-sae-1", "jinan"),
        ("qingdao-sae-1", "qingdao"),
        ("yantai-sae-1", "yantai"),
        ("yantai-sae-2", "yantai"),
    ),
)
"""Three key managers with SAEs, all over one relay."""
EVERY_WAY = tuple(permutations([PartyId(f"km/{city}") for city in STAR.cities], 2))
SECONDS = 5.0
REPLICAS = 2
FAILED_OVER_S = 20.0
"""How long SAEs may go without a key after a primary was killed, of which it is down for up to `LONGEST_DOWNTIME_S`."""
SERVED_S = 5.0
"""How long they may go without one after a replica was killed, on a machine that is busy."""
LONGEST_DOWNTIME_S = 2.0
CUT_S = 0.5
LAGGING_S = 1.0
ENDED_S = 20.0
"""How long a process may take to see that its key store is an older copy; it looks every second."""
_log = logging.getLogger(__name__)


def live_seconds() -> float:
    return float(os.environ.get("QSOTN_LIVE_SECONDS", SECONDS))


@contextmanager
def replicated(folder: Path, stores: Stores, seconds: float) -> Iterator[KeyProvince]:
    with KeyProvince(folder, stores, replace(shape(seconds), replicas=REPLICAS)) as province:
        province.begin()
        yield province


@contextmanager
def pair(*, synchronous: bool = True) -> Iterator[tuple[PostgresPair, Stores]]:
    with PostgresPair(synchronous=synchronous) as servers:
        servers.database(DATABASE)
        yield servers, Stores(servers)


@dataclass
class Failovers:
    """Primaries that were killed while SAEs worked, and for how long nobody was given keys after that."""

    servers: PostgresPair
    chance: random.Random
    waits: list[float] = field(default_factory=list)
    cut: int = 0

    def once(self, thread: SaeThread) -> None:
        """Kill the primary, perhaps while its standby lags behind; wait until SAEs are served again."""
        if self.chance.random() < 0.5:
            self.servers.cut()
            self.cut += 1
            time.sleep(self.chance.uniform(0, CUT_S))
        self.servers.kill()
        killed = time.monotonic()
        time.sleep(self.chance.uniform(0, LONGEST_DOWNTIME_S))
        self.servers.start()
        self.waits.append(thread.served_since(killed, WAYS, FAILED_OVER_S))


def test_no_key_is_given_twice_or_lost_when_the_primary_of_postgresql_is_killed(folder: Path, live_seed: int) -> None:
    seconds = live_seconds()
    with pair() as (servers, stores), replicated(folder, stores, seconds) as province:
        saes, failovers = Saes(province, live_seed), Failovers(servers, random.Random(live_seed))
        with SaeThread(saes) as thread:
            thread.served_since(0.0, WAYS, 60)
            end = time.monotonic() + seconds
            while time.monotonic() < end or not failovers.cut or len(failovers.waits) < 2:
                time.sleep(failovers.chance.uniform(0.3, 1.5))
                failovers.once(thread)
            assert province.revive() == Counter(), "a failover ended a process"
            thread.finish()
        province.come_to_rest()
        run = told(saes, province, f"{len(failovers.waits)} primaries killed in {seconds:g} s, {failovers.cut} cut off")
        _log.info("the longest wait for keys %.1f s, the mean %.1f s", max(failovers.waits), mean(failovers.waits))
        assert violations(run) == []
        assert saes.wrong == []
        assert len(saes.keys) > 10 * len(failovers.waits)
        scan = KeyScan(saes.keys.values())
        clear = [
            found for one in (province.state, *stores.folders) for found in scan.files(one, but=[province.state / SAES])
        ]
        assert clear == []


def told(saes: Saes, province: KeyProvince, what: str) -> Delivered:
    """Return the history of a run, and log what happened."""
    run = saes.delivered(province)
    _log.info("%s: %d draws, %d pickups, %d keys", what, len(run.draws), len(run.pickups), len(saes.keys))
    _log.info("SAEs were told: %s", dict(saes.told))
    for end in run.ends:
        _log.info("%s", end)
    return run


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# --- replicas ---------------------------------------------------------------------------------------------------------


def test_no_key_is_given_twice_or_lost_when_replicas_are_killed_and_the_others_serve_on(
    folder: Path, live_seed: int
) -> None:
    seconds, chance, waits = live_seconds(), random.Random(live_seed), list[float]()
    with postgresql_stores() as stores, replicated(folder, stores, seconds) as province:
        saes, killed = Saes(province, live_seed), Counter[str]()
        replicas = [name for km in (JINAN, QINGDAO) for name in province.replicas(km)]
        with SaeThread(saes) as thread:
            thread.served_since(0.0, WAYS, 60)
            end = time.monotonic() + seconds
            while time.monotonic() < end or len(killed) < len(replicas):
                victim = min(chance.sample(replicas, len(replicas)), key=lambda name: killed[name])
                province.kill([victim])
                died = time.monotonic()
                killed[victim] += 1
                waits.append(thread.served_since(died, WAYS, SERVED_S))
                time.sleep(chance.uniform(0, 1.5))
                assert province.revive() == Counter(), "a process ended that nobody had killed"
                province.start(victim)
                province.wait_ready()
            thread.finish()
        province.come_to_rest()
        run = told(saes, province, f"replicas killed in {seconds:g} s: {dict(killed)}")
        _log.info("the longest wait for keys %.2f s, the mean %.2f s", max(waits), mean(waits))
        assert violations(run) == []
        assert saes.wrong == []
        assert len(saes.keys) > 10 * killed.total()


# --- one key for many -------------------------------------------------------------------------------------------------


def test_saes_at_three_key_managers_get_the_same_key_though_one_of_these_is_killed(
    folder: Path, live_seed: int
) -> None:
    seconds, chance = live_seconds(), random.Random(live_seed)
    with KeyProvince(folder, Stores(), replace(STAR, keys_an_end=int(UNITS_A_SECOND * (30 + seconds)))) as province:
        province.begin()
        saes, kills = Saes(province, live_seed, several=0.8, most_slaves=len(STAR.saes) - 1), 0
        with SaeThread(saes) as thread:
            thread.served_since(0.0, EVERY_WAY, 60)
            end = time.monotonic() + seconds
            while time.monotonic() < end or not kills:
                victim = chance.choice(province.serving)
                time.sleep(chance.uniform(0.2, 1.0))
                province.kill([victim])
                kills += 1
                time.sleep(chance.uniform(0, LONGEST_DOWNTIME_S))
                province.start(victim)
                province.wait_ready()
                thread.served_since(time.monotonic(), EVERY_WAY, 60)
            thread.finish()
        province.come_to_rest()
        run = told(saes, province, f"{kills} key managers killed in {seconds:g} s")
        many = [
            draw for draw in run.draws if draw.outcome is Ended.GIVEN and len(homes_of(run, draw)) == len(STAR.cities)
        ]
        got = {(pickup.slave, value.key_id) for pickup in run.pickups for value in pickup.keys}
        unheard = {(one.slave, key_id) for one in run.pickups if one.outcome is Ended.UNKNOWN for key_id in one.key_ids}
        lacking = [
            (slave, value.key_id)
            for draw in many
            for slave in draw.slaves
            for value in draw.keys
            if (slave, value.key_id) not in got | unheard
        ]
        _log.info("%d of %d draws were for SAEs at three key managers", len(many), len(run.draws))
        assert violations(run) == []
        assert lacking == []
        assert saes.wrong == []
        assert len(many) > 5 * kills


def homes_of(run: Delivered, draw: Draw) -> set[PartyId]:
    """The key managers of all who share a draw's keys."""
    return {run.homes[sae] for sae in (draw.master, *draw.slaves)}


# --- what must not be ------------------------------------------------------------------------------------------------


def test_with_a_standby_that_may_lag_acknowledged_keys_are_lost_and_found_missing(folder: Path, live_seed: int) -> None:
    """The same suffering as above, and asynchronous replication: the checks above would see what they look for."""
    with pair(synchronous=False) as (servers, stores), replicated(folder, stores, LAGGING_S) as province:
        saes = Saes(province, live_seed, later_s=2 * LAGGING_S)
        with SaeThread(saes) as thread:
            thread.served_since(0.0, WAYS, 60)
            servers.cut()
            thread.served_since(time.monotonic(), WAYS, 10)
            time.sleep(LAGGING_S)
            servers.kill()
            servers.start()
            wait_ended(province, [name for km in (JINAN, QINGDAO) for name in province.replicas(km)])
            province.revive()
            thread.finish()
        province.stop(list(province.processes))
        run = told(saes, province, "a primary killed that had more than its standby")
        found = violations(run)
        _log.info("%d violations, among them %s", len(found), found[:4])
        assert any("was refused" in one and "it never had it" in one for one in found)
        assert any("has given" in one and "its SAEs were given" in one for one in found)
        # What a witness is for: the new primary is an older copy, and none of its keys is given out a second time.
        assert not [one for one in found if any(text in one for text in ("two values", "is unit", "was drawn"))]


def wait_ended(province: KeyProvince, names: list[str]) -> None:
    """Wait until processes have ended by themselves, as those do whose key store is an older copy."""
    end = time.monotonic() + ENDED_S
    while living := [name for name in names if province.processes[name].poll() is None]:
        assert time.monotonic() < end, f"{living} go on with an older copy of their store"
        time.sleep(0.1)
