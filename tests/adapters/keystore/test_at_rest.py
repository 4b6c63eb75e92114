"""No key lies in the clear in anything that a store, its database or its server writes."""

from __future__ import annotations

import os
import random
from base64 import b64encode

import pytest
from tests.adapters.keystore.places import HERE, HOUR, SECOND, KeyPlace, collect, one, reserve
from tests.adapters.keystore.scan import MARK, clear_keys, marked_unit

from qsotn.keynetwork.delivery import Deposit, Sweep


def use(place: KeyPlace) -> None:
    """Have keys of some sizes go through a store in every way, and the server's pages be on its disk."""
    store, chance = place.open(), random.Random(1)
    pool = store.begin_pool(HERE, HERE)
    for batch in range(8):
        units = tuple(marked_unit(os.urandom(26)) for _ in range(64))
        one(store, Deposit(pool, str(batch), 64 * batch, units))
        for size in (256, 512, 128):
            keys = one(store, reserve(pool, chance.randint(1, 9), size=size))
            assert all(key.key.reveal().startswith(MARK) for key in keys)
            one(store, collect(keys))
            assert one(store, collect(keys)) == keys
    one(store, Sweep(40 * SECOND))
    one(store, Sweep(HOUR))
    if place.server is not None:
        place.server.execute("CHECKPOINT", "keys")


def test_no_key_lies_in_the_clear_anywhere(place: KeyPlace) -> None:
    use(place)
    assert clear_keys(place) == []
    place.plant(marked_unit(bytes(26)).reveal())
    assert clear_keys(place), "this would be found"


@pytest.mark.parametrize("form", ["raw", "base64", "hex", "HEX"])
def test_a_key_in_any_form_would_be_found(sqlite_place: KeyPlace, form: str) -> None:
    key = marked_unit(os.urandom(26)).reveal()
    text = {"raw": key, "base64": b64encode(key), "hex": key.hex().encode(), "HEX": key.hex().upper().encode()}[form]
    sqlite_place.open()
    assert clear_keys(sqlite_place) == []
    sqlite_place.plant(text)
    assert clear_keys(sqlite_place)
