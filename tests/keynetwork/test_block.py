"""A distilled block is used only once both ends are known to hold the same one."""

from __future__ import annotations

from typing import Any

import pytest

from qsotn.domain import PartyId, Secret
from qsotn.errors import KeyReuse

NEAR, RELAY, FAR = PartyId("km/jinan"), PartyId("km/weifang"), PartyId("km/qingdao")
SAE_A, SAE_B = PartyId("qssp/jinan"), PartyId("qssp/qingdao")
LINK_A, LINK_B = "jinan-weifang", "weifang-qingdao"


def test_bits_are_available_at_neither_end_before_the_agreement_and_at_both_after_it(province: Any) -> None:
    province.deposit(LINK_A, 1)
    assert (province.available(NEAR, LINK_A), province.available(RELAY, LINK_A)) == (0, 0)
    province.announce(LINK_A, 1)
    province.pump(4)
    assert (province.available(NEAR, LINK_A), province.available(RELAY, LINK_A)) == (16 * 256, 16 * 256)


def test_an_announcement_waits_until_the_far_end_has_its_copy(province: Any) -> None:
    same = bytes(range(256)) * 4
    with province.nodes[NEAR].desk() as km:
        km.deposit(LINK_A, 1, Secret(same), {})
    province.announce(LINK_A, 1)
    province.pump(4)
    assert province.nodes[RELAY].rejections["OutOfOrder"] > 0
    with province.nodes[RELAY].desk() as km:
        km.deposit(LINK_A, 1, Secret(same), {})
    province.pump(60)
    assert (province.available(NEAR, LINK_A), province.available(RELAY, LINK_A)) == (16 * 256, 16 * 256)


@pytest.mark.parametrize("octets", [1, 0], ids=["one bit differs", "one copy is shorter"])
def test_different_copies_are_discarded_at_both_ends(province: Any, octets: int) -> None:
    copy = bytes(range(256)) * 4
    other = bytes([copy[0] ^ 1]) + copy[1:] if octets else copy[:-32]
    province.deposit(LINK_A, 1, copies=(copy, other))
    province.announce(LINK_A, 1)
    province.pump()
    assert (province.available(NEAR, LINK_A), province.available(RELAY, LINK_A)) == (0, 0)
    assert province.failures(NEAR, "key-block") == ["BLOCK_MISMATCH"]
    assert (province.units(NEAR, LINK_A), province.units(RELAY, LINK_A)) == (0, 0)


def test_a_block_is_deposited_once(province: Any) -> None:
    province.fill()
    with pytest.raises(KeyReuse), province.nodes[NEAR].desk() as km:
        km.deposit(LINK_A, 1, Secret(bytes(1024)), {})


def test_a_block_that_one_end_discarded_later_ends_supplies_and_does_not_hang_them(province: Any) -> None:
    province.fill()
    province.discard(RELAY, LINK_A, 1)
    asked = province.enc_keys(SAE_A, SAE_B)
    province.pump(20)
    assert province.refusal(asked).code == "BLOCK_MISMATCH"
