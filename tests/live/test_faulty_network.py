"""A network that delays, drops, cuts off, swallows and stalls between any two parties: the same guarantees as in calm.

Whatever a connection meets, an order is carried out once or refused, and every procedure ends. A connection that is
half open costs the time that its user waits for an answer, and nobody else any time at all.

    QSOTN_LIVE_SECONDS=300 pytest --log-cli-level=INFO tests/live/test_faulty_network.py
"""

from __future__ import annotations

import logging
from pathlib import Path

from tests.faults.weather import Delay, Drop, HalfOpen, LoseAnswer, Stall, Storm, Towards, Trickle, Truncate
from tests.live.detours import Detours, DetourThread
from tests.live.harness import check_run, work
from tests.live.load import Load, LoadThread
from tests.live.province import Province, Shape
from tests.live.stores import Stores

STORM = Storm(
    seed=3,
    accepting={Drop(): 0.06, HalfOpen(): 0.04},
    exchanging={
        Delay(0.02, 0.2): 0.1,
        Trickle(400, 0.003): 0.02,
        Drop(): 0.02,
        HalfOpen(): 0.01,
        Stall(Towards.CLIENT, 40): 0.01,
        Truncate(Towards.TARGET, 300): 0.01,
        Truncate(Towards.CLIENT, 40): 0.02,
        LoseAnswer(spare=1): 0.03,
    },
    period=2.0,
    stormy=0.7,
)
WHAT_HAPPENS = {type(fault) for odds in (STORM.accepting, STORM.exchanging) for fault in odds}
_log = logging.getLogger(__name__)


def test_in_a_storm_nothing_is_lost_done_twice_or_left_undone(folder: Path, live_seconds: float) -> None:
    with Province(folder, Stores(), Shape(pairs=1, houses=1)) as province:
        detours = Detours(province)
        with DetourThread(detours):
            province.begin()
            load = Load(province, seed=8)

            def storm(thread: LoadThread) -> None:
                detours.set(STORM)
                thread.watch(live_seconds)
                detours.calm()

            work(load, storm)
            told = {fault.__name__: number for fault, number in detours.happened.items()}
            _log.info("%s happened to %d procedures: %s", told, load.procedures, dict(load.ended))
            _log.info("answers by status, 0 for none: %s", dict(load.client.statuses))
            assert set(detours.happened) >= WHAT_HAPPENS
            check_run(province, load)
    assert load.procedures > 0
