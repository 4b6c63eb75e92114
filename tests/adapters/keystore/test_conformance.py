"""What a key store does, over SQLite and over PostgreSQL."""

from __future__ import annotations

import pytest
from tests.adapters.keystore.places import (
    HERE,
    HOUR,
    MASTER,
    OTHER,
    SECOND,
    SLAVE,
    THERE,
    KeyPlace,
    collect,
    deposit,
    ids,
    one,
    refusal,
    reserve,
    unit,
)

from qsotn.adapters.keystore import KeyLedger
from qsotn.domain import KeyId, Secret
from qsotn.keynetwork.delivery import (
    Assign,
    Collect,
    Confirm,
    Deposit,
    Pool,
    PoolCount,
    Sweep,
    Void,
    key_id,
    parse_key_id,
)


def assign(pool: Pool, key_ids: tuple[KeyId, ...], *slaves: str, size: int = 256, now: int = 0) -> Assign:
    return Assign(pool, key_ids, MASTER, slaves or (SLAVE,), size, now)


def key_ids(pool: Pool, *numbers: int) -> tuple[KeyId, ...]:
    return tuple(key_id(pool.tag, number) for number in numbers)


# --- deposits ---------------------------------------------------------------------------------------------------------


def test_a_batch_that_comes_twice_is_put_in_once(store: KeyLedger, pool: Pool) -> None:
    deposit(store, pool, 20)
    assert store.count(pool) == PoolCount(20, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("batch", "first", "number"),
    [
        ("other", 0, 20),
        ("other", 19, 1),
        ("other", 0, 1),
        ("other", 10, 100),
        ("batch-0", 0, 19),
        ("batch-0", 20, 20),
    ],
)
def test_numbers_that_were_used_are_not_used_again(
    store: KeyLedger, pool: Pool, batch: str, first: int, number: int
) -> None:
    """Also those of units that are long gone; and a batch does not come with other numbers."""
    one(store, collect(one(store, reserve(pool, 20))))
    one(store, Sweep(HOUR))
    units = tuple(unit(first + at) for at in range(number))
    assert refusal(store, Deposit(pool, batch, first, units)) == "KEY_REUSED"
    assert store.count(pool).ready == 0


def test_batches_may_come_in_another_order(store: KeyLedger) -> None:
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 5, first=100)
    assert store.next_number(pool) == 105
    assert ids(one(store, reserve(pool))) == key_ids(pool, 100)
    deposit(store, pool, 2, first=7)
    assert store.next_number(pool) == 105
    assert ids(one(store, reserve(pool, 3))) == key_ids(pool, 7, 8, 101)


@pytest.mark.parametrize(
    ("first", "units"),
    [(0, ()), (0, (Secret(b"short"),)), (-1, (unit(0),)), (2**44 - 1, (unit(0), unit(1))), (2**62, (unit(0),))],
)
def test_a_batch_that_is_none_is_refused(store: KeyLedger, first: int, units: tuple[Secret, ...]) -> None:
    pool = store.begin_pool(HERE, THERE)
    assert refusal(store, Deposit(pool, "b", first, units)) == "UsageError"
    assert store.next_number(pool) == 0


def test_how_keys_came_is_known_after_they_are_gone(store: KeyLedger, pool: Pool) -> None:
    (key,) = one(store, reserve(pool))
    one(store, collect([key]))
    one(store, Sweep(HOUR))
    assert store.provenance(key.key_id) == b"came by link 1"
    assert store.provenance(key_id(pool.tag, 20)) is None
    assert store.provenance(key_id(Pool(HERE, THERE, 7).tag, 0)) is None
    assert store.provenance("no key") is None


def test_pools_are_apart(store: KeyLedger, pool: Pool) -> None:
    back = Pool(THERE, HERE, 1)
    deposit(store, back, 3)
    assert ids(one(store, reserve(back, 3))) == key_ids(back, 0, 1, 2)
    assert refusal(store, reserve(back)) == "KEY_SHORTAGE"
    assert store.count(pool).ready == 20
    assert set(store.pools()) == {pool, back}
    assert store.count(Pool(HERE, HERE, 1)) == PoolCount(0, 0, 0, 0, 0, 0)


# --- keys for slaves of one's own -------------------------------------------------------------------------------------


def test_master_and_slave_get_the_same_keys(store: KeyLedger, pool: Pool) -> None:
    given = one(store, reserve(pool, 3))
    assert [key.key for key in given] == [unit(0), unit(1), unit(2)]
    assert ids(given) == key_ids(pool, 0, 1, 2)
    assert one(store, collect(given)) == given
    assert store.count(pool) == PoolCount(17, 0, 3, 0, 0, 0)


@pytest.mark.parametrize(("size", "units"), [(8, 1), (64, 1), (256, 1), (264, 2), (512, 2), (1000, 4), (2560, 10)])
def test_a_key_of_any_size_is_of_successive_units(store: KeyLedger, pool: Pool, size: int, units: int) -> None:
    given = one(store, reserve(pool, 2, size=size))
    numbers = [parsed[1] for key in given if (parsed := parse_key_id(key.key_id))]
    assert numbers == [0, units]
    material = b"".join(unit(number).reveal() for number in range(units))
    assert given[0].key == Secret(material[: size // 8])
    assert one(store, collect(given)) == given
    assert store.count(pool) == PoolCount(20 - 2 * units, 0, 2 * units, 0, 0, 0)
    one(store, Sweep(HOUR))
    assert one(store, reserve(pool, 20 - 2 * units) if units < 10 else Sweep(HOUR)) is not None


def test_a_key_does_not_reach_over_a_gap(store: KeyLedger) -> None:
    pool = store.begin_pool(HERE, THERE)
    for first, number in ((0, 3), (10, 1), (20, 4)):
        deposit(store, pool, number, first=first)
    assert ids(one(store, reserve(pool, 3, size=512))) == key_ids(pool, 0, 20, 22)
    assert refusal(store, reserve(pool, 1, size=512)) == "KEY_SHORTAGE"
    assert ids(one(store, reserve(pool, 2))) == key_ids(pool, 2, 10)


@pytest.mark.parametrize(("number", "size"), [(0, 256), (-1, 256), (1, 0), (1, 12)])
def test_keys_that_cannot_be_are_refused(store: KeyLedger, pool: Pool, number: int, size: int) -> None:
    assert refusal(store, reserve(pool, number, size=size)) == "UsageError"


@pytest.mark.parametrize("size", [256, 512])
def test_too_few_units_are_not_touched(store: KeyLedger, pool: Pool, size: int) -> None:
    assert refusal(store, reserve(pool, 21, size=size)) == "KEY_SHORTAGE"
    assert store.count(pool) == PoolCount(20, 0, 0, 0, 0, 0)
    assert len(one(store, reserve(pool, 5120 // size, size=size))) == 5120 // size
    assert refusal(store, reserve(pool, size=size)) == "KEY_SHORTAGE"


def test_who_asks_for_too_much_leaves_the_rest_to_others(store: KeyLedger, pool: Pool) -> None:
    applied = store.apply([reserve(pool, 15), reserve(pool, 6), reserve(pool, 5), reserve(pool)])
    assert set(applied.done) == {0, 2}
    assert [str(error) for error in applied.refused.values()] == [
        "KEY_SHORTAGE: too few keys are ready from km/jinan to km/qingdao"
    ] * 2
    numbers = [parse_key_id(key.key_id) for keys in applied.done.values() for key in keys]
    assert len(set(numbers)) == 20


def test_there_is_nothing_in_a_pool_that_nobody_knows(store: KeyLedger) -> None:
    assert refusal(store, reserve(Pool(HERE, THERE, 9))) == "KEY_SHORTAGE"


# --- who may have them ------------------------------------------------------------------------------------------------


def test_a_key_is_never_given_to_a_second_sae(store: KeyLedger, pool: Pool) -> None:
    given = one(store, reserve(pool, 2))
    assert refusal(store, collect(given[:1], OTHER)) == "NOT_NAMED"
    assert refusal(store, collect(given, MASTER)) == "NOT_NAMED"
    assert one(store, collect(given)) == given
    assert refusal(store, collect(given, OTHER)) == "NOT_NAMED"
    one(store, Sweep(30 * SECOND))
    assert refusal(store, collect(given, OTHER)) == "KEYS_NOT_FOUND", "nobody is remembered"


def test_a_key_is_asked_for_under_the_name_of_its_master(store: KeyLedger, pool: Pool) -> None:
    given = one(store, reserve(pool))
    one(store, reserve(pool, master=OTHER))
    assert refusal(store, collect(given, master=OTHER)) == "KEYS_NOT_FOUND"
    assert one(store, collect(given)) == given


def test_keys_are_handed_out_all_or_none(store: KeyLedger, pool: Pool) -> None:
    given = one(store, reserve(pool, 3))
    gone = one(store, reserve(pool))
    one(store, collect(gone))
    for also in (gone[0].key_id, key_id(pool.tag, 19), key_id(pool.tag, 500), "no key", given[0].key_id):
        assert refusal(store, collect([*given, also])) == "KEYS_NOT_FOUND"
    assert refusal(store, collect([])) == "KEYS_NOT_FOUND"
    assert store.count(pool) == PoolCount(16, 3, 1, 0, 0, 0)
    assert one(store, collect(given)) == given


def test_one_bad_request_does_not_spoil_the_others(store: KeyLedger, pool: Pool) -> None:
    a, b, c = (one(store, reserve(pool, 2)) for _ in range(3))
    applied = store.apply(
        [
            collect([*a, *b], OTHER),
            collect(a),
            collect([b[0], "no key"]),
            collect([*b, *c]),
            collect(c),
            reserve(pool, 99),
        ]
    )
    assert applied.done == {1: a, 3: (*b, *c)}
    assert sorted(applied.refused) == [0, 2, 4, 5]
    assert store.count(pool) == PoolCount(14, 0, 6, 0, 0, 0)


def test_an_id_is_read_in_any_form_of_a_uuid(store: KeyLedger, pool: Pool) -> None:
    (key,) = one(store, reserve(pool))
    (same,) = one(store, Collect(SLAVE, MASTER, (KeyId(f"{{{key.key_id.upper()}}}"),), 0))
    assert same.key == key.key


def test_of_several_slaves_each_collects_once(store: KeyLedger, pool: Pool) -> None:
    given = one(store, reserve(pool, 2, SLAVE, OTHER))
    assert one(store, collect(given, SLAVE)) == given
    assert one(store, collect(given, SLAVE, now=29 * SECOND)) == given
    assert refusal(store, collect(given, SLAVE, now=30 * SECOND)) == "KEYS_NOT_FOUND"
    assert refusal(store, collect(given, "sae/d")) == "NOT_NAMED"
    assert store.count(pool) == PoolCount(18, 2, 0, 0, 0, 0)
    assert one(store, collect(given[1:], OTHER, now=40 * SECOND)) == given[1:]
    assert one(store, collect(given[:1], OTHER, now=40 * SECOND)) == given[:1]
    assert store.count(pool) == PoolCount(18, 0, 2, 0, 0, 0)
    one(store, Sweep(70 * SECOND))
    assert refusal(store, collect(given[:1], OTHER, now=70 * SECOND)) == "KEYS_NOT_FOUND"


# --- the same request again -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3])
def test_a_repeated_request_gets_the_same_keys_for_a_while(
    store: KeyLedger, place: KeyPlace, pool: Pool, number: int
) -> None:
    given = one(store, reserve(pool, number))
    one(store, collect(given))
    assert one(store, collect(given, now=29 * SECOND)) == given
    store = place.again()
    assert one(store, collect(given, now=29 * SECOND)) == given
    assert refusal(store, collect(given, now=30 * SECOND)) == "KEYS_NOT_FOUND"
    assert store.count(pool) == PoolCount(20 - number, 0, number, 0, 0, 0)


def test_another_request_for_the_same_keys_gets_none(store: KeyLedger, pool: Pool) -> None:
    given = one(store, reserve(pool, 3))
    one(store, collect(given))
    for others in (given[:1], given[:2], given[::-1]):
        assert refusal(store, collect(others)) == "KEYS_NOT_FOUND"
    assert refusal(store, collect(given, OTHER)) == "NOT_NAMED"


def test_two_that_ask_the_same_at_once_get_the_same(store: KeyLedger, pool: Pool) -> None:
    given = one(store, reserve(pool))
    assert store.apply([collect(given), collect(given)]).done == {0: given, 1: given}
    assert store.count(pool).delivered == 1


def test_what_was_handed_out_is_forgotten_when_its_time_is_over(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    given = one(store, reserve(pool, 2))
    one(store, collect(given))
    one(store, Sweep(29 * SECOND))
    assert len(place.rows("SELECT place FROM key_units")) == 20
    one(store, Sweep(30 * SECOND))
    assert len(place.rows("SELECT place FROM key_units")) == 18
    assert store.count(pool) == PoolCount(18, 0, 2, 0, 0, 0)


# --- keys for slaves elsewhere, at the origin -------------------------------------------------------------------------


def test_what_is_held_is_for_nobody_until_it_is_confirmed(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    given = one(store, reserve(pool, 2, held=True))
    assert refusal(store, collect(given)) == "KEYS_NOT_FOUND"
    assert one(store, Confirm(ids(given))) == given
    assert one(store, Confirm(ids(given))) == given, "the answer to the first may have been lost"
    assert refusal(store, collect(given)) == "KEYS_NOT_FOUND"
    assert store.count(pool) == PoolCount(18, 0, 2, 0, 0, 0)
    one(store, Sweep(30 * SECOND))
    assert refusal(store, Confirm(ids(given))) == "KEYS_NOT_FOUND"
    assert len(place.rows("SELECT place FROM key_units")) == 18


def test_what_is_void_is_gone(store: KeyLedger, pool: Pool) -> None:
    held, given = one(store, reserve(pool, 2, held=True)), one(store, reserve(pool))
    for _ in range(2):
        one(store, Void((*ids(held), *ids(given), KeyId("no key")), "the far end did not answer"))
    assert refusal(store, Confirm(ids(held))) == "KEYS_NOT_FOUND"
    assert one(store, collect(given)) == given, "a master has it: it is not void"
    assert store.count(pool) == PoolCount(17, 0, 1, 2, 0, 0)
    one(store, Void(ids(given), "too late"))
    assert store.count(pool) == PoolCount(17, 0, 1, 2, 0, 0)


def test_a_confirmation_is_all_or_none(store: KeyLedger, pool: Pool) -> None:
    held = one(store, reserve(pool, 2, held=True))
    waiting = one(store, reserve(pool))
    for wrong in ((*ids(held), *ids(waiting)), (*ids(held), key_id(pool.tag, 15)), ()):
        assert refusal(store, Confirm(wrong)) == "KEYS_NOT_FOUND"
    assert store.count(pool) == PoolCount(17, 3, 0, 0, 0, 0)


def test_what_is_held_for_too_long_expires(store: KeyLedger, pool: Pool) -> None:
    held = one(store, reserve(pool, 2, held=True, size=512, now=SECOND))
    confirmed = one(store, reserve(pool, held=True, now=SECOND))
    one(store, Confirm(ids(confirmed)))
    one(store, Sweep(60 * SECOND))
    assert store.count(pool).expired == 0
    one(store, Sweep(61 * SECOND))
    assert refusal(store, Confirm(ids(held))) == "KEYS_NOT_FOUND"
    assert store.count(pool) == PoolCount(15, 0, 1, 0, 4, 0)


def test_who_comes_back_finds_what_it_held(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    early = one(store, reserve(pool, 2, held=True, size=512, now=SECOND))
    late, confirmed = one(store, reserve(pool, held=True, now=3 * SECOND)), one(store, reserve(pool, held=True))
    one(store, Confirm(ids(confirmed)))
    one(store, reserve(pool))
    store = place.again()
    assert store.held(2 * SECOND) == [(name, 512) for name in ids(early)]
    assert store.held(HOUR) == [*((name, 512) for name in ids(early)), (late[0].key_id, 256)]


# --- keys for slaves of one's own, at the target ----------------------------------------------------------------------


@pytest.fixture
def incoming(store: KeyLedger) -> Pool:
    """A pool of 20 units of which another gives out."""
    pool = Pool(THERE, HERE, 3)
    deposit(store, pool, 20)
    return pool


def test_what_is_assigned_waits_for_its_slave(store: KeyLedger, incoming: Pool) -> None:
    wanted = key_ids(incoming, 5, 3)
    for _ in range(2):
        assert one(store, assign(incoming, wanted)) == ()
    assert refusal(store, collect(wanted, OTHER)) == "NOT_NAMED"
    assert [key.key for key in one(store, collect(wanted))] == [unit(5), unit(3)]
    assert one(store, assign(incoming, wanted)) == (), "the same again changes nothing"
    assert store.count(incoming) == PoolCount(18, 0, 2, 0, 0, 0)


def test_a_large_key_is_assigned_whole(store: KeyLedger, incoming: Pool) -> None:
    one(store, assign(incoming, key_ids(incoming, 4), size=600))
    (key,) = one(store, collect(key_ids(incoming, 4)))
    assert key.key == Secret((unit(4).reveal() + unit(5).reveal() + unit(6).reveal())[:75])
    assert refusal(store, assign(incoming, key_ids(incoming, 5))) == "KEYS_NOT_FOUND"
    assert store.count(incoming) == PoolCount(17, 0, 3, 0, 0, 0)


def test_units_that_are_not_ready_are_not_assigned(store: KeyLedger, incoming: Pool) -> None:
    one(store, assign(incoming, key_ids(incoming, 7)))
    for wrong in (
        assign(incoming, key_ids(incoming, 6, 7)),
        assign(incoming, key_ids(incoming, 7), OTHER),
        assign(incoming, key_ids(incoming, 7), size=128),
        assign(incoming, key_ids(incoming, 6), size=512),
        assign(incoming, key_ids(incoming, 19), size=512),
        assign(incoming, key_ids(incoming, 6, 6)),
        assign(incoming, key_ids(incoming, 99)),
        assign(incoming, ()),
        assign(incoming, key_ids(Pool(THERE, HERE, 4), 1)),
        assign(Pool(THERE, HERE, 4), key_ids(incoming, 1)),
        assign(incoming, key_ids(incoming, 1), size=12),
    ):
        assert refusal(store, wrong) == "KEYS_NOT_FOUND"
    assert store.count(incoming) == PoolCount(19, 1, 0, 0, 0, 0)


def test_what_is_void_at_the_target_is_not_handed_out(store: KeyLedger, incoming: Pool) -> None:
    """It may have been assigned here, or the assignment may still be on its way; but not yet be collected."""
    one(store, assign(incoming, key_ids(incoming, 1, 2)))
    one(store, collect(key_ids(incoming, 1)))
    one(store, Void(key_ids(incoming, 1, 2, 3), "not confirmed"))
    assert refusal(store, collect(key_ids(incoming, 2))) == "KEYS_NOT_FOUND"
    assert refusal(store, assign(incoming, key_ids(incoming, 3))) == "KEYS_NOT_FOUND"
    assert store.count(incoming) == PoolCount(17, 0, 1, 2, 0, 0)


def test_what_nobody_collects_expires(store: KeyLedger, incoming: Pool) -> None:
    one(store, assign(incoming, key_ids(incoming, 1, 2), now=SECOND))
    one(store, collect(key_ids(incoming, 1), now=2 * SECOND))
    one(store, Sweep(HOUR + SECOND))
    assert refusal(store, collect(key_ids(incoming, 2), now=HOUR)) == "KEYS_NOT_FOUND"
    assert store.count(incoming) == PoolCount(18, 0, 1, 0, 1, 0)


# --- one key for slaves in several places -----------------------------------------------------------------------------


def xor(a: Secret, b: Secret) -> bytes:
    return bytes(x ^ y for x, y in zip(a.reveal(), b.reveal(), strict=False))


def test_a_sealed_key_goes_by_the_name_it_has_elsewhere(store: KeyLedger, incoming: Pool) -> None:
    elsewhere = key_ids(Pool(THERE, HERE, 99), 1, 2)
    keys = Secret(b"k" * 48), Secret(b"l" * 48)
    pads = [Secret(unit(4 + at).reveal() + unit(5 + at).reveal()) for at in (0, 2)]
    sealed = tuple(xor(key, pad) for key, pad in zip(keys, pads, strict=True))
    order = Assign(incoming, key_ids(incoming, 4, 6), MASTER, (SLAVE, OTHER), 384, 0, sealed, elsewhere)
    for _ in range(2):
        one(store, order)
    for slave in (SLAVE, OTHER):
        found = one(store, collect(elsewhere, slave))
        assert ids(found) == elsewhere
        assert [key.key for key in found] == list(keys)
    assert store.count(incoming) == PoolCount(16, 0, 4, 0, 0, 0)
    one(store, Sweep(HOUR))
    assert refusal(store, collect(elsewhere, SLAVE, now=HOUR)) == "KEYS_NOT_FOUND"


def test_a_sealed_key_for_a_slave_beside_the_master(store: KeyLedger, pool: Pool) -> None:
    """The key is of the pool to another key manager, and known here by that name too, where it is held for nobody."""
    here = store.begin_pool(HERE, HERE)
    deposit(store, here, 2)
    (key,) = one(store, reserve(pool, held=True))
    (pad,) = one(store, reserve(here, held=True))
    order = Assign(here, (pad.key_id,), MASTER, (OTHER,), 256, 0, (xor(key.key, pad.key),), (key.key_id,))
    one(store, order)
    one(store, Confirm((key.key_id,)))
    assert one(store, collect([key], OTHER)) == (key,)
    assert store.count(here) == PoolCount(1, 0, 1, 0, 0, 0)
    one(store, Void((key.key_id,), "too late"))
    assert store.count(pool) == PoolCount(19, 0, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("sealed", "names", "slaves"),
    [((b"s" * 32,), (), (SLAVE,)), ((), ("n",), (SLAVE,)), ((b"s" * 31,), ("n",), (SLAVE,)), ((), (), ())],
)
def test_an_assignment_that_makes_no_sense_is_refused(
    store: KeyLedger, incoming: Pool, sealed: tuple[bytes, ...], names: tuple[KeyId, ...], slaves: tuple[str, ...]
) -> None:
    order = Assign(incoming, key_ids(incoming, 1), MASTER, slaves, 256, 0, sealed, names)
    assert refusal(store, order) == "MalformedMessage"
    assert store.count(incoming).ready == 20


def test_a_name_is_used_once(store: KeyLedger, incoming: Pool) -> None:
    elsewhere = key_ids(Pool(THERE, HERE, 99), 1)
    sealed = (b"s" * 32,)
    one(store, Assign(incoming, key_ids(incoming, 1), MASTER, (SLAVE,), 256, 0, sealed, elsewhere))
    again = Assign(incoming, key_ids(incoming, 2), MASTER, (SLAVE,), 256, 0, sealed, elsewhere)
    assert refusal(store, again) == "KEY_REUSED"
    one(store, Void(elsewhere, "not confirmed"))
    assert refusal(store, collect(elsewhere)) == "KEYS_NOT_FOUND"
    assert store.count(incoming) == PoolCount(19, 0, 0, 1, 0, 0)
    one(store, again)
    assert len(one(store, collect(elsewhere))) == 1


# --- whole batches ----------------------------------------------------------------------------------------------------


def test_nothing_at_all_may_be_asked(store: KeyLedger, pool: Pool) -> None:
    applied = store.apply([])
    assert (applied.done, applied.refused) == ({}, {})


def test_each_operation_stands_alone_under_its_position(store: KeyLedger, pool: Pool, incoming: Pool) -> None:
    given = one(store, reserve(pool))
    applied = store.apply(
        [
            Sweep(SECOND),
            collect(given),
            assign(incoming, key_ids(incoming, 99)),
            reserve(pool, held=True),
            Deposit(pool, "next", 20, (unit(20),)),
            Void(key_ids(pool, 19), "test"),
            Confirm(key_ids(pool, 19)),
        ]
    )
    assert sorted(applied.done) == [0, 1, 3, 4, 5]
    assert sorted(applied.refused) == [2, 6]
    assert applied.done[1] == given


def test_everything_is_there_when_it_is_opened_again(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    waiting, held = one(store, reserve(pool, 2)), one(store, reserve(pool, held=True))
    store = place.again()
    assert store.restored is False
    assert store.begin_pool(HERE, THERE) == pool
    assert store.next_number(pool) == 20
    assert one(store, collect(waiting)) == waiting
    assert one(store, Confirm(ids(held))) == held
    assert ids(one(store, reserve(pool))) == key_ids(pool, 3)
