"""What units are wrapped under: outside the database, begun anew in time, and shredded when nothing is left."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.adapters.keystore.places import (
    HERE,
    HOUR,
    SECOND,
    THERE,
    TIMES,
    KeyPlace,
    collect,
    deposit,
    one,
    refusal,
    reserve,
)

from qsotn.adapters.keystore import KeyLedger
from qsotn.adapters.keystore.epochs import Epochs
from qsotn.crypto.vault import Vault
from qsotn.domain import Secret
from qsotn.errors import StoreError
from qsotn.keynetwork.delivery import Pool, PoolCount, Sweep


def files(place: KeyPlace) -> list[str]:
    return sorted(path.name for path in (place.folder / "epochs").glob("*.epoch"))


def epochs(folder: Path, kek: bytes = b"k" * 32, identity: bytes = b"of this store...") -> Epochs:
    return Epochs(folder, Vault(Secret(kek), os.urandom), os.urandom, identity)


# --- one epoch --------------------------------------------------------------------------------------------------------


def test_a_unit_opens_only_at_its_own_place(tmp_path: Path) -> None:
    ours = epochs(tmp_path)
    ours.begin(1)
    ours.begin(2)
    first, second = ours.wrap(1, 7, 100, [b"a" * 32, b"b" * 32])
    assert epochs(tmp_path).unwrap(1, 7, 101, second) == b"b" * 32
    for epoch, tag, number, blob in ((1, 7, 100, second), (1, 8, 100, first), (2, 7, 100, first), (1, 7, 100, b"")):
        with pytest.raises(StoreError):
            ours.unwrap(epoch, tag, number, blob)


@pytest.mark.parametrize("other", [{"kek": b"K" * 32}, {"identity": b"of another one.."}])
def test_an_epoch_is_of_one_party_and_one_store(tmp_path: Path, other: dict[str, bytes]) -> None:
    ours = epochs(tmp_path)
    ours.begin(1)
    (blob,) = ours.wrap(1, 7, 0, [b"a" * 32])
    with pytest.raises(StoreError):
        epochs(tmp_path, **other).unwrap(1, 7, 0, blob)


def test_no_two_units_share_a_nonce(tmp_path: Path) -> None:
    ours = epochs(tmp_path)
    ours.begin(1)
    blobs = [blob for _ in range(20) for blob in ours.wrap(1, 7, 0, [bytes(32)] * 50)]
    assert len({blob[:12] for blob in blobs}) == 1000


def test_a_shredded_epoch_is_overwritten_before_it_is_unlinked(tmp_path: Path) -> None:
    ours = epochs(tmp_path)
    ours.begin(1)
    path = tmp_path / "1.epoch"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("rb") as kept:
        assert any(kept.read())
        (blob,) = ours.wrap(1, 7, 0, [b"a" * 32])
        ours.shred(1)
        kept.seek(0)
        assert not any(kept.read())
    assert not path.exists()
    with pytest.raises(StoreError, match="epoch 1 cannot be read"):
        ours.unwrap(1, 7, 0, blob)
    ours.shred(1)


def test_an_epoch_key_lies_wrapped_in_its_file(tmp_path: Path) -> None:
    drawn: list[bytes] = []

    def entropy(size: int) -> bytes:
        drawn.append(os.urandom(size))
        return drawn[-1]

    Epochs(tmp_path, Vault(Secret(b"k" * 32), os.urandom), entropy, b"").begin(1)
    assert len(drawn) == 1
    assert drawn[0] not in (tmp_path / "1.epoch").read_bytes()


# --- the epochs of a store --------------------------------------------------------------------------------------------


def test_an_epoch_is_shredded_once_nothing_of_it_is_left(place: KeyPlace) -> None:
    store = place.open()
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 4)
    assert files(place) == ["1.epoch"]
    store = place.again()
    deposit(store, pool, 4, first=4)
    assert files(place) == ["1.epoch", "2.epoch"]
    given = one(store, reserve(pool, 4))
    one(store, Sweep(SECOND))
    one(store, collect(given, now=SECOND))
    for now in (20, 31, 32):
        assert files(place) == ["1.epoch", "2.epoch"], "answers are kept until then"
        one(store, Sweep(now * SECOND))
    assert files(place) == ["2.epoch"]
    assert one(store, reserve(pool, 4))


@pytest.mark.parametrize("by", ["units", "time"])
def test_an_epoch_is_filled_only_so_far(place: KeyPlace, by: str) -> None:
    store = place.open(times=replace(TIMES, epoch_units=8, epoch=HOUR))
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 8 if by == "units" else 1, first=0)
    if by == "time":
        for now in (SECOND, SECOND + HOUR - 1, SECOND + HOUR):
            deposit(store, pool, 1, first=now)
            assert files(place) == ["1.epoch"]
            one(store, Sweep(now))
    deposit(store, pool, 1, first=2**40)
    assert files(place) == ["1.epoch", "2.epoch"]


def test_a_damaged_unit_of_an_old_epoch_is_destroyed_with_an_account_and_stops_no_sweep(place: KeyPlace) -> None:
    store = place.open(times=replace(TIMES, waiting=100 * HOUR))
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 6)
    kept = one(store, reserve(pool, 1))
    one(store, Sweep(1))
    places = [number for (number,) in place.rows("SELECT place FROM key_units ORDER BY place")]
    for damaged in (places[0], places[3]):  # one that waits for a slave, and one that is ready
        place.damage(damaged, places[5])
    for late in range(4):
        one(store, Sweep(24 * HOUR - 1 + late))
        deposit(store, pool, 1, first=6 + late)
    assert files(place) == ["2.epoch"]
    assert store.count(pool).burned == 2
    assert refusal(store, collect(kept, now=24 * HOUR)) == "KEYS_NOT_FOUND"
    assert len(one(store, reserve(pool, 8, now=24 * HOUR))) == 8


@pytest.mark.parametrize("units", [50, 10_000])
def test_what_is_left_of_an_old_epoch_is_wrapped_anew(place: KeyPlace, units: int) -> None:
    store = place.open()
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, units)
    waiting, large = one(store, reserve(pool, 3)), one(store, reserve(pool, 1, size=512))
    one(store, Sweep(1))
    for late in range(7):
        one(store, Sweep(24 * HOUR + late))
        deposit(store, pool, 1, first=units + late)
    assert files(place) == ["2.epoch"]
    assert {epoch for (epoch,) in place.rows("SELECT epoch FROM key_units")} == {2}
    assert one(store, reserve(pool, units - 5, now=24 * HOUR))
    assert store.count(pool).expired == 5, "what nobody collected was not kept for long either"
    assert refusal(store, collect([*waiting, *large], now=24 * HOUR)) == "KEYS_NOT_FOUND"


def test_keys_that_wait_longer_than_their_epoch_are_still_there(place: KeyPlace) -> None:
    store = place.open(times=replace(TIMES, waiting=100 * HOUR))
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 8)
    waiting, several = one(store, reserve(pool, 2, size=304)), one(store, reserve(pool, 1, "sae/b", "sae/c"))
    for now in (1, 24 * HOUR + 1, 24 * HOUR + 2, 24 * HOUR + 3):
        one(store, Sweep(now))
    assert files(place) == ["2.epoch"]
    assert one(store, collect(waiting, now=25 * HOUR)) == waiting
    assert one(store, collect(several, "sae/c", now=25 * HOUR)) == several


def test_a_file_that_nothing_leads_to_is_shredded(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    """Left by a process that died between beginning an epoch and committing it."""
    (place.folder / "epochs" / "77.epoch").write_bytes(b"x")
    store = place.again()
    assert files(place) == ["1.epoch"]
    assert len(one(store, reserve(pool, 20))) == 20


def test_a_store_whose_epoch_is_missing_is_not_opened(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    place.close()
    path = place.folder / "epochs" / "1.epoch"
    path.rename(path.with_suffix(".away"))
    with pytest.raises(StoreError, match=r"keys of epochs 1, .*put them back; if they are lost, the keys are too"):
        place.open()
    path.with_suffix(".away").rename(path)
    assert len(one(place.open(), reserve(pool, 20))) == 20


def test_a_row_that_does_not_open_spoils_one_operation(sqlite_place: KeyPlace) -> None:
    store = sqlite_place.open()
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 6)
    tables = store._tables
    with tables.transaction():
        tables.fetch("UPDATE key_units SET wrapped = zeroblob(60) WHERE place % 16 IN (1, 5)")
    applied = store.apply([reserve(pool), reserve(pool), reserve(pool), reserve(pool, size=768)])
    assert set(applied.done) == {0, 2}
    assert {index: type(error) for index, error in applied.refused.items()} == {1: StoreError, 3: StoreError}
    assert store.count(pool) == PoolCount(3, 3, 0, 0, 0, 0)
