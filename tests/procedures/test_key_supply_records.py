"""One record for all keys of a supply, and each key found by its own ID."""

from __future__ import annotations

from uuid import UUID

import pytest
from tests.world import Chance, World

from qsotn.app.province import KM_A, KM_B, KM_RELAY, PARTIES
from qsotn.domain import KeyId, PartyId
from qsotn.parties.km import Allocation, SupplyRecord
from qsotn.parties.km_records import is_run, key_run, new_key_run, place_in_run

A, B = PartyId("qssp/a"), PartyId("qssp/b")
IDS = new_key_run(128, Chance("ids"))


def test_the_ids_of_a_supply_are_uuids_of_version_8_that_count() -> None:
    values = [UUID(one) for one in IDS]
    assert {(value.version, value.variant) for value in values} == {(8, "specified in RFC 4122")}
    assert [value.int - values[0].int for value in values] == list(range(128))
    assert place_in_run(IDS[77]) == (IDS[0], 77)
    assert place_in_run(IDS[77].upper()) is None
    assert is_run(IDS)


def test_two_supplies_have_no_id_in_common() -> None:
    chance = Chance("many")
    assert len({one for _ in range(100) for one in new_key_run(128, chance)}) == 12_800


@pytest.mark.parametrize(
    "ids",
    [
        (),
        ("one",),
        IDS[1:3],
        (IDS[0], IDS[0]),
        (IDS[1], IDS[0]),
        (IDS[0], IDS[2]),
        (IDS[0].upper(),),
        ("6f1c5a52-0d1e-4a4b-9c3d-5e6f7a8b0000",),
    ],
)
def test_other_ids_are_no_run(ids: tuple[str, ...]) -> None:
    assert not is_run([KeyId(one) for one in ids])


def test_each_key_has_its_own_units_pad_and_time() -> None:
    record = SupplyRecord(
        IDS[0], 3, "relay", Allocation("l", 1, 6, 6), Allocation("m", 2, 0, 6), (), A, B, 9, (5, 0, 7)
    )
    found = list(record.of_each())
    assert [one.key_id for one in found] == list(IDS[:3])
    assert [(one.taken.unit, one.taken.units) for one in found] == [(6, 2), (8, 2), (10, 2)]
    assert [one.pad and one.pad.unit for one in found] == [0, 2, 4]
    assert [one.delivered_at for one in found] == [5, 0, 7]


def test_a_key_file_costs_a_key_manager_one_record(ready: World) -> None:
    with ready.desk(KM_A) as km:
        (supply,) = km.keys.supplies.values()
        assert supply.number == len(list(km.keys.values())) > 1
        assert [km.keys.require(one).key_id for one in key_run(supply.first, supply.number)] == list(
            key_run(supply.first, supply.number)
        )
        assert km.keys.get(key_run(supply.first, supply.number + 1)[-1]) is None
        assert {one.delivered_at > 0 for one in km.keys.values()} == {True}


def test_keys_that_are_fetched_apart_have_their_own_times(encrypted: World) -> None:
    with encrypted.desk(KM_B) as km:
        supply = next(one for one in km.keys.supplies.values() if one.role == "destination")
        first, second = key_run(supply.first, 2)
        km.keys.supplies.put(
            supply.first, SupplyRecord(*(getattr(supply, name) for name in supply.__struct_fields__[:9]))
        )
        km.keys.delivered([second], 77)
        assert [km.keys.require(one).delivered_at for one in (first, second)] == [0, 77]
        km.keys.delivered([first], 78)
        assert [km.keys.require(one).delivered_at for one in (first, second)] == [78, 77]


def test_every_key_manager_on_the_way_knows_the_same_keys(encrypted: World) -> None:
    known = {}
    for party in (KM_A, KM_RELAY, KM_B):
        assert party in PARTIES
        with encrypted.desk(party) as km:
            known[party] = {one.key_id for one in km.keys.values() if one.role != "discarded"}
    crossing = known[KM_RELAY]
    assert crossing
    assert crossing <= known[KM_A]
    assert crossing <= known[KM_B]
