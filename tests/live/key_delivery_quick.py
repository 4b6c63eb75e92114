"""`qsotn serve` with shorter times: `python -m tests.live.key_delivery_quick serve km --config FILE`.

What takes a minute or an hour in service happens several times within a run of seconds: answers are no longer repeated,
epochs are shredded, keys that a dead process held are found, supplies that a silent relay has are given up. Nothing
else is changed.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from qsotn import cli
from qsotn.adapters.keystore import Times
from qsotn.service import twin_watch
from qsotn.service.delivery import filling, server, voids

SECOND: Final = 1_000_000
WINDOW_US: Final = 4 * SECOND
ORPHANED_US: Final = 6 * SECOND
"""Longer than any request takes: the far end has `assignments.ANSWER_S` to answer."""
SUPPLY_US: Final = 4 * SECOND
EPOCH_US: Final = 3 * SECOND


def quicken() -> None:
    """Shorten times in this process."""
    times = partial(Times, window=WINDOW_US, epoch=EPOCH_US, epoch_limit=4 * EPOCH_US, epoch_units=1000)
    for module, name, value in (
        (server, "Times", times),
        (server, "HELD_US", 6 * ORPHANED_US),
        (server, "SWEEP_S", 1.0),
        (voids, "ORPHANED_US", ORPHANED_US),
        (voids, "RECOVER_S", 1.0),
        (filling, "SUPPLY_US", SUPPLY_US),
        (twin_watch, "MEASURE_S", 1.0),
    ):
        assert hasattr(module, name), f"{module.__name__} has no {name} any more"
        setattr(module, name, value)


if __name__ == "__main__":
    quicken()
    cli.main()
