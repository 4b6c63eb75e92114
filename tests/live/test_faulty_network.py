"""A network that delays, drops, cuts off, swallows and stalls between any two parties: the same guarantees as in calm.

Whatever a connection meets, an order is carried out once or refused, and every procedure ends. A connection that is
half open costs the time that its user waits for an answer, and nobody else any time at all.

    QSOTN_LIVE_SECONDS=300 pytest --log-cli-level=INFO tests/live/test_faulty_network.py
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from tests.faults.weather import Delay, Drop, HalfOpen, LoseAnswer, Stall, Storm, Towards, Trickle, Truncate
from tests.live.detours import Detours, DetourThread
from tests.live.harness import check_run, work
from tests.live.load import Load, LoadThread
from tests.live.province import Province, Shape
from tests.live.stores import Stores

from qsotn.adapters.transport.http import ANSWER_S
from qsotn.domain import PartyId
from qsotn.procedures.turn import State
from qsotn.service.sender import LEASE_US

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
STORMY_S = 120.0
"""How long a storm may take to bring everything it can bring."""
OTHERS_S = 30.0
"""How long a procedure may take that has nothing to do with whoever is not reached."""
RECOVERY_S = ANSWER_S + LEASE_US / 1e6 + 20
"""When a connection is given up, when what it carried is due again, and the procedure itself on a busy machine."""
_log = logging.getLogger(__name__)


def test_in_a_storm_nothing_is_lost_done_twice_or_left_undone(
    folder: Path, live_seconds: float, live_seed: int
) -> None:
    with Province(folder, Stores(), Shape(pairs=1, houses=1)) as province:
        detours = Detours(province)
        with DetourThread(detours):
            province.begin()
            load = Load(province, live_seed, leasing_s=live_seconds / 20)

            def storm(thread: LoadThread) -> None:
                detours.storm(replace(STORM, seed=live_seed))
                thread.watch(live_seconds)
                thread.until(lambda: set(detours.happened) >= WHAT_HAPPENS and load.procedures > 0, STORMY_S)
                detours.calm()

            work(load, storm)
            told = {fault.__name__: number for fault, number in detours.happened.items()}
            _log.info("%s happened to %d procedures: %s", told, load.procedures, dict(load.ended))
            _log.info("answers by status, 0 for none: %s", dict(load.client.statuses))
            check_run(province, load)


def test_a_party_whose_connections_are_half_open_holds_up_nobody_else_and_is_soon_back(folder: Path) -> None:
    with Province(folder, Stores(), Shape(pairs=0, houses=1)) as province:
        detours, load = Detours(province), Load(province, seed=9, onboarding=0, made=4)
        with DetourThread(detours):
            province.begin()
            asyncio.run(_swallowed(detours, load))
            check_run(province, load)


async def _swallowed(detours: Detours, load: Load) -> None:
    in_jinan, in_qingdao = (2, 4), (1, 3)
    async with load:
        assert await load.initialise(in_jinan[0]) is State.COMPLETED
        detours.set(HalfOpen(), PartyId("qssp/jinan"))
        held = asyncio.create_task(load.initialise(in_jinan[1]))
        async with asyncio.timeout(OTHERS_S):
            assert [await load.initialise(number) for number in in_qingdao] == [State.COMPLETED] * 2
        assert not held.done()
        assert detours.happened[HalfOpen] > 0
        detours.calm()
        async with asyncio.timeout(RECOVERY_S):
            assert await held is State.COMPLETED
