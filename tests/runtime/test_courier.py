"""The courier on Iaq: between a device and its own QSSP, after the voucher, unread; and noise on any door."""

from __future__ import annotations

import msgspec
import pytest
from tests.world import World

from qsotn import wire
from qsotn.app.province import CPE_A, CPE_B, KM_A, PMP, QSSP_A, QSSP_B
from qsotn.domain import PartyId
from qsotn.errors import MalformedMessage, WrongParty

IAQ = wire.Datagram("Iaq", CPE_A, QSSP_A, b"sealed")


@pytest.mark.parametrize(
    ("sender", "receiver"), [(CPE_A, QSSP_B), (CPE_A, CPE_B), (QSSP_B, CPE_A), (QSSP_A, KM_A), (PMP, CPE_A)]
)
def test_nothing_is_carried_between_others(ready: World, sender: PartyId, receiver: PartyId) -> None:
    before = ready.dump_all()
    with pytest.raises(WrongParty):
        ready.nodes[PMP].receive(wire.encode(msgspec.structs.replace(IAQ, sender=sender, receiver=receiver)))
    assert ready.dump_all() == before


def test_only_the_pmp_is_a_courier_and_only_on_iaq(ready: World) -> None:
    with pytest.raises(WrongParty):
        ready.nodes[QSSP_B].receive(wire.encode(IAQ))
    with pytest.raises(WrongParty):
        ready.nodes[PMP].receive(wire.encode(msgspec.structs.replace(IAQ, interface="AK")))


def test_a_device_and_its_own_qssp_are_carried_in_both_directions_unread(ready: World) -> None:
    for sender, receiver in ((CPE_A, QSSP_A), (QSSP_A, CPE_A)):
        data = wire.encode(msgspec.structs.replace(IAQ, sender=sender, receiver=receiver))
        ready.nodes[PMP].receive(data)
        with ready.province.stores[PMP].transaction() as transaction:
            assert data in [posted.datagram for posted in transaction.lease(ready.clock(), ready.clock(), 64)]


@pytest.mark.parametrize("data", [b"", b"\xa0", b"\xff" * 64, bytes(1000), bytes(5 * 1024 * 1024)])
def test_noise_is_malformed(ready: World, data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        ready.nodes[PMP].receive(data)
