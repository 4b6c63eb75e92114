"""What a neighbouring key manager that turned could name in a hop: nothing of it is taken, nothing hangs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.world import World

from qsotn.app.province import KM_A, KM_B, KM_RELAY, LINK_A, QSSP_A, QSSP_B
from qsotn.domain import KeyId
from qsotn.errors import MalformedMessage, PeerError, ReplayedMessage
from qsotn.messages import KeyRelay
from qsotn.parties.km_records import key_run

IDS = key_run(KeyId("6f1c5a52-0d1e-8a4b-9c3d-5e6f7a8b0000"), 129)
HONEST = KeyRelay(LINK_A, 1, 0, 256, IDS[:2], b"", QSSP_A, QSSP_B, KM_B, (KM_A,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 1 << 34},
        {"size": 250},
        {"size": 56},
        {"size": 0},
        {"size": -256},
        {"key_ids": ()},
        {"key_ids": (IDS[0], IDS[0])},
        {"key_ids": (IDS[0], IDS[2])},
        {"key_ids": IDS[1:3]},
        {"key_ids": (KeyId("one"), KeyId("two"))},
        {"key_ids": (KeyId(IDS[0].upper()), IDS[1])},
        {"key_ids": IDS},
        {"ciphertext": b"abc"},
    ],
)
def test_a_hop_of_impossible_form_is_malformed(ready: World, wrong: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage), ready.desk(KM_RELAY) as km:
        km.check_relay(msgspec.structs.replace(HONEST, **wrong))


def test_a_known_key_id_is_never_given_to_another_key(ready: World) -> None:
    with ready.desk(KM_RELAY) as km:
        known = next(iter(km.keys.values())).key_id
    with pytest.raises(ReplayedMessage), ready.desk(KM_RELAY) as km:
        km.check_relay(msgspec.structs.replace(HONEST, key_ids=key_run(known, 2)))


def test_the_honest_hop_is_of_good_form(ready: World) -> None:
    with ready.desk(KM_RELAY) as km:
        km.check_relay(HONEST)


def test_a_refused_hop_never_destroys_units_of_ones_own_half(ready: World) -> None:
    with ready.desk(KM_RELAY) as km:
        before = km.available_bits(LINK_A)
        own = km._own_half(km.block(LINK_A, 1))
        km.forget_named(msgspec.structs.replace(HONEST, unit=own.start))
        assert km.available_bits(LINK_A) == before
        taken, keys = km.allocate(LINK_A, 2, 256)
        assert (taken.unit, len(keys)) == (own.start, 2)


def test_a_stranger_to_the_link_takes_nothing(ready: World) -> None:
    with pytest.raises(PeerError), ready.desk(KM_RELAY) as km:
        km.take_named(HONEST, KM_B)
