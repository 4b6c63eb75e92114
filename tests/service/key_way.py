"""A key whose provenance is real: supplied in a world, signed by everybody on its way."""

from __future__ import annotations

from collections.abc import Mapping

from tests.world import World

from qsotn.app.province import KM_A, KM_B
from qsotn.domain import PartyId
from qsotn.keynetwork.delivery import Deposit, Pool
from qsotn.keynetwork.relay import Mode
from qsotn.parties import km_pool
from qsotn.procedures.pool_supply import begin_pool_supply

POOL = Pool(KM_A, KM_B, 1)


def supplied(world: World, mode: Mode = Mode.ONE_TIME_PAD) -> Mapping[PartyId, Deposit]:
    """Supply four units from one city to the other; return what each end is given for its key store."""
    world.begin(KM_A, lambda km, work: begin_pool_supply(km, work, POOL, "batch-1", 0, 4, mode=mode))
    world.settle()
    return {km: _arrived(world, km) for km in (KM_A, KM_B)}


def _arrived(world: World, party: PartyId) -> Deposit:
    with world.desk(party) as km:
        (deposit,) = km_pool.arrived(km.desk)
    return deposit
