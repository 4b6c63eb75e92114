"""Keys between two cities and inside one: the same keys and IDs, once, and only when both ends have them."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import pytest

from qsotn.domain import PartyId

NEAR, RELAY, FAR = PartyId("km/jinan"), PartyId("km/weifang"), PartyId("km/qingdao")
SAE_A, SAE_A2, SAE_B = PartyId("qssp/jinan"), PartyId("qssp/jinan-2"), PartyId("qssp/qingdao")
LINK_A, LINK_B = "jinan-weifang", "weifang-qingdao"
NOT_FOUND = "one or more keys specified are not found on KME"


def ids_of(keys: Iterable[Any]) -> tuple[str, ...]:
    return tuple(key.key_id for key in keys)


def test_two_cities_get_the_same_keys_under_the_same_ids(province: Any) -> None:
    province.fill()
    asked = province.enc_keys(SAE_A, SAE_B, number=3)
    province.pump()
    master = province.keys(asked)
    told = province.dec_keys(SAE_B, SAE_A, ids_of(master))
    province.pump()
    slave = province.keys(told)
    assert [(key.key_id, key.key, key.source) for key in master] == [(key.key_id, key.key, key.source) for key in slave]
    assert len({key.key.reveal() for key in master}) == 3
    assert {key.source for key in master} == {"qkd:km/jinan–km/weifang–km/qingdao"}
    assert all(key.key.reveal() in province.blocks[LINK_A, 1] for key in master)


def test_the_master_is_answered_only_after_the_far_key_manager_has_confirmed(province: Any) -> None:
    province.fill()
    province.wire.held = {(FAR, RELAY)}
    asked = province.enc_keys(SAE_A, SAE_B)
    province.pump()
    assert asked not in province.answers
    province.wire.held = set()
    province.pump(60)
    assert len(province.keys(asked)) == 2


def test_a_key_is_handed_over_once(province: Any) -> None:
    province.fill()
    asked = province.enc_keys(SAE_A, SAE_B)
    province.pump()
    ids = ids_of(province.keys(asked))
    first, second = province.dec_keys(SAE_B, SAE_A, ids), province.dec_keys(SAE_B, SAE_A, ids)
    province.pump()
    assert ids_of(province.keys(first)) == ids
    assert province.refusal(second).detail.endswith(NOT_FOUND)


def test_only_the_slave_that_was_named_gets_keys_and_all_or_none(province: Any) -> None:
    province.fill()
    asked = province.enc_keys(SAE_A, SAE_A2)
    province.pump()
    ids = ids_of(province.keys(asked))
    wrong = [
        province.dec_keys(SAE_A, SAE_A, ids),
        province.dec_keys(SAE_A2, SAE_B, ids),
        province.dec_keys(SAE_A2, SAE_A, (*ids, "8e9d1f0e-0000-4000-8000-000000000000")),
        province.dec_keys(SAE_A2, SAE_A, (ids[0], ids[0])),
        province.dec_keys(SAE_A2, SAE_A, ()),
    ]
    province.pump()
    assert [province.refusal(one).detail for one in wrong] == [NOT_FOUND] * 5
    right = province.dec_keys(SAE_A2, SAE_A, ids)
    province.pump()
    assert [key.key for key in province.keys(right)] == [key.key for key in province.keys(asked)]


@pytest.mark.parametrize("slave", [SAE_A, SAE_A2])
def test_keys_that_stay_in_one_city_are_discarded_at_the_far_end_first(province: Any, slave: PartyId) -> None:
    province.fill()
    province.wire.held = {(RELAY, NEAR)}
    asked = province.enc_keys(SAE_A, slave)
    province.pump()
    assert asked not in province.answers
    province.wire.held = set()
    province.pump(60)
    keys = province.keys(asked)
    assert {key.source for key in keys} == {"qkd:km/jinan–km/weifang"}
    assert province.roles(RELAY, ids_of(keys)) == ["discarded"] * 2
    assert province.units(NEAR, LINK_A) == province.units(RELAY, LINK_A) == province.units(FAR, LINK_B) - 2


@pytest.mark.parametrize(
    ("number", "size", "detail"),
    [
        (1, 257, "size shall be a multiple of 8"),
        (1, 56, "asked for 1 keys of 56 bits; supplied are 1 to 128 keys of 64 to 1024 bits"),
        (1, 1032, "asked for 1 keys of 1032 bits; supplied are 1 to 128 keys of 64 to 1024 bits"),
        (0, 256, "asked for 0 keys of 256 bits; supplied are 1 to 128 keys of 64 to 1024 bits"),
        (129, 64, "asked for 129 keys of 64 bits; supplied are 1 to 128 keys of 64 to 1024 bits"),
    ],
)
def test_the_standards_bad_requests(province: Any, number: int, size: int, detail: str) -> None:
    province.fill()
    before = province.available(NEAR, LINK_A)
    asked = province.enc_keys(SAE_A, SAE_B, number, size)
    province.pump(3)
    assert (province.refusal(asked).code, province.refusal(asked).detail) == ("BAD_REQUEST", detail)
    assert province.available(NEAR, LINK_A) == before


def test_a_pool_is_used_up_and_then_says_so(province: Any) -> None:
    province.fill()
    assert province.available(NEAR, LINK_A) == province.available(RELAY, LINK_A) == 16 * 256
    asked = [province.enc_keys(SAE_A, SAE_B, number=6) for _ in range(3)]
    province.pump(20)
    assert [type(province.answers[one][0]).__name__ for one in asked] == [
        "EncKeysResponse", "EncKeysResponse", "ProcedureRefusal",
    ]  # fmt: skip
    assert province.refusal(asked[2]).code == "KEY_SHORTAGE"


def test_a_shortage_at_the_relay_ends_the_supply_and_gives_no_bits_back(province: Any) -> None:
    province.fill()
    province.relay_uses_up(LINK_B)
    before = province.available(NEAR, LINK_A)
    asked = province.enc_keys(SAE_A, SAE_B)
    province.pump()
    assert province.refusal(asked).code == "KEY_SHORTAGE"
    assert province.available(NEAR, LINK_A) == before - 2 * 256
    assert province.units(RELAY, LINK_A) == province.units(NEAR, LINK_A), "named bits are gone at both ends"


def test_the_same_datagram_again_takes_nothing_more(province: Any) -> None:
    province.fill()
    seen: list[tuple[PartyId, bytes]] = []
    province.wire.tap(lambda _, hop, datagram: seen.append((hop, datagram)))
    asked = province.enc_keys(SAE_A, SAE_B)
    province.pump()
    keys, before = province.keys(asked), province.everything_available()
    for hop, datagram in tuple(seen):
        if hop in province.nodes:
            province.wire.send(hop, hop, datagram)
    province.pump()
    assert province.keys(asked) == keys
    assert province.everything_available() == before


def test_supplies_may_overtake_each_other_on_a_link(province: Any) -> None:
    province.fill()
    province.wire.held = {(NEAR, RELAY)}
    first = province.enc_keys(SAE_A, SAE_B)
    province.pump(8)  # the first hop waits longer and longer for its next attempt
    second = province.enc_keys(SAE_A, SAE_B)
    province.nodes[SAE_A].flush(province.wire)
    province.wire.held = set()
    province.pump(80)
    assert province.order[:2] == [second, first], "the story must really overtake"
    assert len({key.key.reveal() for asked in (first, second) for key in province.keys(asked)}) == 4


def test_a_supply_that_runs_out_of_time_leaves_no_key_at_the_far_end(province: Any) -> None:
    province.fill()
    province.wire.held = {(RELAY, NEAR)}
    asked = province.enc_keys(SAE_A, SAE_B)
    province.pump()
    assert province.waiting(FAR) == 2
    province.refuse_from_origin(asked)
    province.pump(60)
    assert province.waiting(FAR) == 0
    assert province.waiting(NEAR) == 0


def test_no_key_lies_in_any_store_in_clear(province: Any) -> None:
    province.fill()
    between, local = province.enc_keys(SAE_A, SAE_B), province.enc_keys(SAE_A, SAE_A)
    province.wire.held = {(RELAY, NEAR)}
    province.pump()
    held = province.bytes_of_stores()
    province.wire.held = set()
    province.pump(60)
    held += province.bytes_of_stores()
    units = [block[at : at + 32] for block in province.blocks.values() for at in range(0, len(block), 32)]
    keys = [key.key.reveal() for asked in (between, local) for key in province.keys(asked)]
    assert len(keys) == 4
    assert [
        number for number, secret in enumerate((*units, *keys)) if any(form in held for form in forms_of(secret))
    ] == []


def forms_of(secret: bytes) -> list[bytes]:
    """A secret as it could lie in a file: as it is, in hexadecimal, in base64 at each of its three alignments."""
    return [secret, secret.hex().encode(), *(base64.b64encode(bytes(n) + secret)[8:-8] for n in range(3))]
