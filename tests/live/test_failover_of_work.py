"""Two replicas of everybody, on PostgreSQL: when one of each dies in the middle of its work, the others finish it.

What a dead replica had under way is on lease to it in the store; its leases run out, and whoever is left takes over.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from tests.live.harness import check_run
from tests.live.load import Load, LoadThread
from tests.live.province import Province, Shape
from tests.live.stores import RUNNING, Place, postgresql_stores

from qsotn.domain import ProcedureId
from qsotn.procedures.turn import read_row

AT_WORK = 4
"""Procedures under way when the replicas die."""
TAKEN_OVER_S = 15.0
PATIENCE_S = 120.0
_log = logging.getLogger(__name__)


def under_way(pomp: Place) -> set[ProcedureId]:
    """The procedures that run at the POMP."""
    (rows,) = pomp.stores.look([(pomp.folder, pomp.party, RUNNING)])
    return {read_row(content).procedure for (content,) in rows}


def test_the_work_of_replicas_that_die_is_finished_by_the_others(folder: Path) -> None:
    with postgresql_stores() as stores, Province(folder, stores, Shape(pairs=1, houses=1, replicas=2)) as province:
        province.begin()
        (pomp,) = (place for place in province.places() if place.party == province.plan.pomp)
        load = Load(province, seed=21, onboarding=4)
        with LoadThread(load) as thread:
            thread.until(lambda: load.procedures >= 2 and len(under_way(pomp)) >= AT_WORK, PATIENCE_S)
            killed = [load.chance.choice((party, f"{party}.2")) for party in province.replicated]
            province.kill(killed)
            died, left = time.monotonic(), under_way(pomp)
            assert len(left) >= AT_WORK / 2
            thread.until(lambda: not left & under_way(pomp), PATIENCE_S)
            took, more = time.monotonic() - died, load.procedures
            _log.info("%s were killed; the %d procedures under way ended within %.1f s", killed, len(left), took)
            assert took < TAKEN_OVER_S
            thread.until(lambda: load.procedures > more, PATIENCE_S)
            thread.finish(PATIENCE_S)
        check_run(province, load)
