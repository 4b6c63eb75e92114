"""Whole runs over a wire that loses, repeats, delays and reorders, between parties that die around their commits.

Every seed must end with every procedure completed everywhere, and with no key, entry or unit used twice.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tests.runtime.conftest import MakeWorld
from tests.runtime.province import Schedule, World

from qsotn.app.province import CPE_A, CPE_B, KM_A, KM_B, KM_RELAY, LINE, PARTIES, QSSP_A, QSSP_B
from qsotn.procedures.turn import State

SEEDS = range(12)


def trouble(seed: int) -> Schedule:
    """A bad day, differently bad for each seed."""
    rng = random.Random(seed)
    return Schedule(
        rng,
        lose=rng.randrange(0, 25),
        lose_receipt=rng.randrange(0, 25),
        repeat=rng.randrange(0, 25),
        delay=rng.randrange(0, 25),
        crash=rng.randrange(0, 4),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bad_day_ends_well(make_world: MakeWorld, seed: int) -> None:
    world = make_world(trouble(seed))
    world.give_blocks()
    world.be_mortal()
    world.begin_initialization(CPE_A)
    world.begin_initialization(CPE_B)
    world.until(lambda: all(world.device_state(cpe) == "READY" for cpe in (CPE_A, CPE_B)))
    world.establish()
    world.rekey()
    world.delete()
    for party in PARTIES:
        assert all(row.state is State.COMPLETED for row in world.rows(party)), world.describe()
    check_accounts(world)


def test_the_schedules_are_bad_indeed(make_world: MakeWorld) -> None:
    world = make_world(Schedule(random.Random(1), lose=20, lose_receipt=20, repeat=20, delay=20, crash=4))
    world.give_blocks()
    world.be_mortal()
    world.begin_initialization(CPE_A)
    world.until(lambda: world.device_state(CPE_A) == "READY")
    assert world.restarts > 0
    assert Counter(data for _, _, data in world.sent).most_common(1)[0][1] > 1


def check_accounts(world: World) -> None:
    """No key ID, no key-file entry and no unit of a link was used twice."""
    key_ids: Counter[str] = Counter()
    for generation in world.read(QSSP_A, lambda qssp: list(qssp.generations.values(f"{LINE}/a/"))):
        key_ids.update((generation.key_id_a_to_b, generation.key_id_b_to_a))
    for qssp, cpe in ((QSSP_A, CPE_A), (QSSP_B, CPE_B)):
        for file in world.read(qssp, lambda desk: list(desk.key_files.values())):
            key_ids.update(file.key_ids)
            assert len(file.burned) == file.next_entry == len(set(file.burned.values()))
            own = {one.key_file_id: one for one in world.read(cpe, lambda desk: list(desk.key_files.values()))}
            assert own[file.key_file_id].burned_below <= file.next_entry
    assert key_ids
    assert max(key_ids.values()) == 1
    check_units(world)


def check_units(world: World) -> None:
    """Every unit that a key manager took for a key was taken for that key alone, and is gone."""
    for party in (KM_A, KM_RELAY, KM_B):
        taken: Counter[tuple[str, int, int]] = Counter()
        for record in world.read(party, lambda km: list(km.keys.values())):
            for used in (record.taken, record.pad):
                if used is not None:
                    taken.update((used.link, used.block, used.unit + n) for n in range(used.units))
        assert max(taken.values()) == 1
        left = world.read(party, lambda km: {key for key, _ in km.desk.transaction.scan("key-units")})
        assert not left & {f"{link}/{block:08}/{unit:06}" for link, block, unit in taken}
