"""A power cut: whatever was acknowledged, to a client or to another party, is on the disk.

All parties and devices keep their stores on one disk. In the middle of their work they are stopped dead, and what the
disk holds at that moment is compared with what they had committed and acknowledged; then they go on from it. The same
with stores that do not wait for the disk loses some of it, and the comparison sees that.

Needs root and loop devices (`tests.live.disk`).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tests.live import receipts
from tests.live.disk import Disk, can_mount
from tests.live.harness import check_run
from tests.live.load import Load, LoadThread
from tests.live.province import Province, Shape
from tests.live.stores import Stores

pytestmark = pytest.mark.skipif(not can_mount(), reason="only root can mount a loop device, where there are some")
PROCEDURES, MORE_S = 8, 1.0
"""How many end before the cut, and how much later it is at most."""
PATIENCE_S = 120.0
SHAPE = Shape(pairs=1, houses=1)
_log = logging.getLogger(__name__)


def cut_power(disk: Disk, province: Province, load: Load) -> list[str]:
    """Let operators work for a while, cut the power, and say what was lost that had been acknowledged."""
    with LoadThread(load) as thread:
        thread.until(lambda: load.procedures >= PROCEDURES, PATIENCE_S)
        thread.watch(load.chance.uniform(0, MORE_S))
        province.freeze()
        disk.cut()
        before = receipts.read(province.places())
        province.kill()
    disk.restart()
    lost = receipts.lost(before, receipts.read(province.places()), load)
    steps = sum(len(known.delivered) for known in before.values())
    _log.info("%d acknowledged steps, %d answers; lost: %d", steps, len(load.operations), len(lost))
    assert steps >= PROCEDURES
    return lost


def test_what_was_acknowledged_survives_a_power_cut_and_goes_on(folder: Path) -> None:
    with Disk(folder) as disk, Province(disk.path, Stores(), SHAPE) as province:
        load = Load(province, seed=11, made=24)
        province.begin()
        disk.sync()
        assert cut_power(disk, province, load) == []
        load.house_again()
        province.begin()
        check_run(province, load)


def test_without_waiting_for_the_disk_the_same_cut_loses_what_was_acknowledged(folder: Path) -> None:
    relaxed = replace(SHAPE, program="tests.live.relaxed")
    with Disk(folder) as disk, Province(disk.path, Stores(), relaxed) as province:
        load = Load(province, seed=11, made=24)
        province.begin()
        disk.sync()
        lost = cut_power(disk, province, load)
    assert any("acknowledged to a client" in one for one in lost), lost
    assert any("steps of" in one for one in lost), lost
