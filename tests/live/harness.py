"""A province at work under load, something done to it meanwhile, and what must hold when all has come to rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.faults.history import History, check
from tests.live.load import Load, LoadThread
from tests.live.province import Province
from tests.live.stores import come_to_rest, unrest

REST_S: Final = 120.0
"""How long everything may take to end, on a machine that is busy. The deadlines of procedures are much later."""
ATTEMPTS: Final = 5


def work(load: Load, suffering: Callable[[LoadThread], object]) -> Load:
    """Have operators work while something is done to their province, and until everything they began has ended."""
    with LoadThread(load) as thread:
        suffering(thread)
        thread.finish(REST_S)
    return load


def history(province: Province, load: Load) -> History:
    """Bring a province to rest, stop it, and return all that is known of the run."""
    for _ in range(ATTEMPTS):
        come_to_rest(province.places(), REST_S)
        # End A of a line asks for new keys by itself. It may have done so since.
        province.stop(masters := [pair[0] for pair in province.pairs()])
        if not unrest(province.places()):
            break
        for name in masters:
            province.start(name)
    province.stop([name for name in province.processes if name not in province.platform])
    province.stop(province.platform)
    places = province.places()
    assert not unrest(places), "something began while the province stopped"
    return History(tuple(place.gather() for place in places), tuple(load.operations))


def check_run(province: Province, load: Load) -> None:
    """Check that a run that has suffered broke nothing. Raises `AssertionError` with every violation."""
    violations = check(history(province, load))
    listed = "\n".join(f"{one.rule}: {one.detail}" for one in violations[:20])
    assert not violations, f"{len(violations)} violations:\n{listed}"
