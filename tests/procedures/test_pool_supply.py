"""A batch for a pool: drawn at its origin, relayed hop by hop, confirmed at both ends, handed over once."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tests.procedures.key_network import CHAIN, MODES, RHOMBUS, A, B, C, D, E, F, Network, link_of, same_units
from tests.procedures.liars import passes_other_bits
from tests.world import Faults, Sent

from qsotn.domain import PartyId
from qsotn.errors import KeyShortage, LineError, Refusal, UsageError
from qsotn.keynetwork import provenance
from qsotn.keynetwork.delivery import Pool
from qsotn.keynetwork.inquest import Charge, Finding
from qsotn.keynetwork.relay import Mode, one_time_pad
from qsotn.messages import BatchAcceptance, PoolReceipt, PoolRelay
from qsotn.parties import km_pool
from qsotn.procedures import pool_supply
from qsotn.procedures.pool_supply import begin_pool_supply

AB, AC, BC, BD, CD = link_of(A, B), link_of(A, C), link_of(B, C), link_of(B, D), link_of(C, D)
OVER_B, OVER_C, PATH = (A, B, D), (A, C, D), (A, B, C, D)


def taken(network: Network, party: PartyId, link: str) -> int:
    """How many units of the first block are gone at one end of a link."""
    with network.desk(party) as km:
        units: int = km.block(link, 1).units
    return units - len(network.units_left(party, link))


# --- all is well ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("paths", [(), (PATH,)], ids=["own routes", "a path"])
def test_both_ends_are_given_the_same_units_and_no_relay_keeps_a_bit(
    chain: Network, mode: Mode, paths: tuple[Any, ...]
) -> None:
    chain.supply(units=8, first=40, mode=mode, paths=paths)
    chain.settle()
    units = same_units(chain)
    assert len(set(units)) == 8
    assert chain.deposits[D]["batch"].first == 40
    assert chain.batch().state == "ARRIVED"
    assert chain.states() == ["ARRIVED", "RELAYED", "RELAYED", "ARRIVED"]
    assert chain.bits_kept() == {}


@pytest.mark.parametrize(("mode", "each"), [(Mode.ONE_TIME_PAD, 8), (Mode.AES_WRAPPED, 1)])
def test_a_hop_costs_as_many_bits_as_its_mode_says_at_both_ends_of_its_link(
    chain: Network, mode: Mode, each: int
) -> None:
    chain.supply(units=8, mode=mode)
    chain.settle()
    spent = {(A, AB): 8, (B, AB): 8, (B, BC): each, (C, BC): each, (C, CD): each, (D, CD): each}
    assert {end: taken(chain, *end) for end in spent} == spent


def test_the_units_are_bits_of_the_first_link(chain: Network) -> None:
    with chain.stores[A].transaction() as transaction:
        places = [key for key, _ in transaction.scan("key-units", f"{AB}/")]
    with chain.desk(A) as km:
        first = [km._unwrap(place).reveal() for place in places[:3]]
    chain.supply(units=3)
    chain.settle()
    assert same_units(chain) == first


def test_a_batch_may_be_drawn_from_several_blocks(chain: Network) -> None:
    chain.fill(32, number=2)
    chain.supply(units=70)
    chain.settle()
    assert len(set(same_units(chain))) == 70


def test_neighbours_need_no_relay(chain: Network) -> None:
    chain.supply(pool=Pool(C, B, 3), units=4)
    chain.settle()
    assert len(same_units(chain, ends=(C, B))) == 4


@pytest.mark.parametrize("paths", [(), ((B, C),)], ids=["own choice", "a neighbour"])
def test_of_a_pool_from_a_key_manager_to_itself_the_neighbour_discards_its_copy(
    chain: Network, paths: tuple[Any, ...]
) -> None:
    chain.drain(B, AB)
    chain.supply(pool=Pool(B, B, 1), units=5, paths=paths)
    chain.settle()
    assert len(chain.deposits[B]["batch"].units) == 5
    assert all(not chain.deposits[other] for other in (A, C, D))
    assert taken(chain, C, BC) == taken(chain, B, BC) == 5
    assert chain.bits_kept() == {}


def test_supplies_of_many_pools_cross_each_other(chain: Network) -> None:
    pools = {f"{one}{other}": Pool(one, other, 1) for one in chain.parties for other in chain.parties if one != other}
    for name, pool in pools.items():
        chain.supply(name, units=2, pool=pool)
    chain.settle()
    given = [unit for name, pool in pools.items() for unit in same_units(chain, name, (pool.origin, pool.target))]
    assert len(set(given)) == 2 * len(pools)


# --- what a user can see --------------------------------------------------------------------------------------------


def test_both_ends_keep_who_relayed_what_over_which_link_signed_by_each(chain: Network) -> None:
    chain.supply(units=8, paths=(PATH,))
    chain.settle()
    kept = chain.deposits[A]["batch"].provenance
    assert kept == chain.deposits[D]["batch"].provenance
    (statements,) = provenance.verify(kept, chain.certified.key_of).chains
    assert [one.party for one in statements] == [A, B, C, D]
    assert [one.passed.link for one in statements if one.passed] == [AB, BC, CD]
    assert provenance.describe(kept, chain.certified.key_of).splitlines() == [
        f"batch batch: units 0 to 7 of the pool from {A} to {D}, series 1; every signature verified",
        f"{A}–{B}–{C}–{D}, one-time-pad, secrecy of each relayed hop information-theoretic",
        f"  {A} drew units 0–7 of block 1 of {AB}, which {B} holds too",
        f"  {B} received units 0–7 of block 1 of {AB} and passed it on to {C} under units 0–7 of block 1 of {BC}",
        f"  {C} received units 0–7 of block 1 of {BC} and passed it on to {D} under units 0–7 of block 1 of {CD}",
        f"  {D} received units 0–7 of block 1 of {CD} and is the last",
    ]


def test_the_mode_stands_in_the_message_in_the_provenance_and_in_every_record(chain: Network) -> None:
    chain.wire.before = lambda sent: _drop(chain, sent, BatchAcceptance)
    chain.supply(mode=Mode.AES_WRAPPED)
    for _ in range(30):
        chain.pump()
    relayed = [chain.opened(one.data).message for one in chain.wire.sent]
    assert {one.mode for one in relayed if isinstance(one, PoolRelay)} == {Mode.AES_WRAPPED}
    assert {passage.order.mode for party in chain.parties if (passage := chain.passage(party))} == {Mode.AES_WRAPPED}
    assert "computational (AES-256-GCM)" in provenance.describe(chain.deposits[D]["batch"].provenance)


def _drop(network: Network, sent: Sent, message: type[Any]) -> None:
    if isinstance(network.opened(sent.data).message, message):
        raise LineError("lost")


# --- one that was begun is begun once -------------------------------------------------------------------------------


def test_the_same_batch_again_changes_nothing(chain: Network) -> None:
    chain.supply(paths=(PATH,))
    chain.clock.advance(1_000_000)
    before = chain.units_left(A, AB)
    chain.supply(paths=(PATH,))
    chain.settle()
    chain.supply(paths=(PATH,))
    assert chain.units_left(A, AB) == before
    assert len(same_units(chain)) == 8


@pytest.mark.parametrize("how", [{"units": 9}, {"first": 8}, {"paths": (PATH,)}, {"mode": Mode.AES_WRAPPED}])
def test_a_batch_is_never_another_one_under_the_same_name(chain: Network, how: dict[str, Any]) -> None:
    chain.supply()
    with pytest.raises(Refusal, match="KEY_REUSED"):
        chain.supply(**how)


def test_a_number_is_given_to_one_batch_whatever_became_of_it(chain: Network) -> None:
    chain.supply("first", first=10, units=8)
    with pytest.raises(Refusal, match="KEY_REUSED"):
        chain.supply("second", first=17, units=8)
    chain.supply("second", first=18, units=8)
    with chain.desk(A) as km:
        assert km_pool.next_number(km.desk, Pool(A, D, 1)) == 26


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"pool": Pool(B, D, 1), "paths": ((A, D),)}, "no path from km/b to km/d"),
        ({"units": 0}, "1 to 4096 units"),
        ({"units": 4097}, "1 to 4096 units"),
        ({"first": -1}, "from -1"),
        ({"paths": ((A,),)}, "no path"),
        ({"paths": ((A, B),)}, "no path"),
        ({"paths": ((B, C, D),)}, "no path"),
        ({"paths": ((A, B, A, B, C, D),)}, "no path"),
        ({"paths": (PATH, PATH)}, "not node-disjoint"),
        ({"paths": (PATH, (A, C, D))}, "not node-disjoint"),
        ({"pool": Pool(A, A, 1), "paths": ((A, B), (A, C))}, "in one share"),
        ({"lifetime": 0}, "may take up to 43200 s"),
        ({"lifetime": 10**12}, "may take up to 43200 s"),
    ],
)
def test_an_order_that_cannot_be_meant_is_refused_at_once(chain: Network, how: dict[str, Any], complaint: str) -> None:
    before = chain.units_left(A, AB)
    with pytest.raises(UsageError, match=complaint):
        chain.supply(**how)
    assert chain.units_left(A, AB) == before


def test_only_its_origin_supplies_a_pool(chain: Network) -> None:
    with pytest.raises(UsageError, match="whose origin is km/a"):
        chain.begin(B, lambda km, work: begin_pool_supply(km, work, Pool(A, D, 1), "batch", 0, 4))


# --- too few bits, and another way ----------------------------------------------------------------------------------


def test_too_few_bits_at_the_origin_are_said_at_once_and_none_is_taken(chain: Network) -> None:
    chain.drain(A, AB, leave=22)  # of which the pools may have 7
    before = chain.units_left(A, AB)
    with pytest.raises(KeyShortage):
        chain.supply(units=8)
    assert chain.units_left(A, AB) == before
    with chain.desk(A) as km:
        assert km_pool.units_under_way(km.desk, Pool(A, D, 1)) == 0
    chain.supply(units=7)
    chain.settle()


@pytest.mark.parametrize(("party", "link"), [(B, BC), (C, CD)])
@pytest.mark.parametrize("paths", [(), (PATH,)], ids=["own routes", "a path"])
def test_a_shortage_further_on_names_its_link_at_once_and_in_the_verdict_and_nobody_as_a_liar(
    chain: Network, party: PartyId, link: str, paths: tuple[Any, ...]
) -> None:
    chain.drain(party, link, leave=7)
    chain.supply(units=8, paths=paths)
    chain.settle()
    batch = chain.batch()
    assert (batch.state, batch.code, batch.link) == ("FAILED", "KEY_SHORTAGE", link)
    assert batch.findings == (Finding((party,), Charge.COULD_NOT_CARRY, link),)
    assert taken(chain, A, AB) == taken(chain, B, AB) == 8, "what was named is gone at both ends"
    assert chain.bits_kept() == {}
    assert not any(chain.deposits.values())


def test_every_unit_that_is_gone_is_in_the_account_of_a_share(chain: Network) -> None:
    chain.supply("first", units=3)
    chain.settle()
    chain.drain(C, CD, leave=2)
    before = chain.units_left(C, CD)
    chain.supply("second", units=4, first=3)
    chain.settle()
    passages = [chain.passage(B, f"{name}/00") for name in ("first", "second")]
    assert [one and [(two.link, two.unit, two.units) for two in (*one.taken, *one.pad)] for one in passages] == [
        [(AB, 0, 3), (BC, 0, 3)],
        [(AB, 3, 4), (BC, 3, 4)],
    ]
    with chain.desk(C) as km:
        (refused,) = km_pool.burnt_units(km.desk).values()
    assert (refused.code, refused.sender, [(one.unit, one.units) for one in refused.units]) == (
        "KEY_SHORTAGE",
        B,
        [(3, 4)],
    )
    assert chain.units_left(C, CD) == before


def test_whoever_is_told_the_link_takes_another_path(open_network: Callable[..., Network]) -> None:
    network = open_network(RHOMBUS)
    network.drain(B, BD)
    network.supply("first", paths=(OVER_B,))
    network.settle()
    assert network.batch("first").link == BD
    network.supply("second", first=8, paths=(OVER_C,))
    network.settle()
    assert len(same_units(network, "second")) == 8


def test_a_path_over_a_link_that_is_not_there_is_refused_by_the_one_that_should_use_it(chain: Network) -> None:
    chain.supply(paths=((A, B, D),))
    chain.settle()
    assert (chain.batch().code, chain.batch().link) == ("NO_ROUTE", AB)
    assert chain.batch().findings == (Finding((B,), Charge.COULD_NOT_CARRY, AB),)


def test_a_path_that_does_not_begin_with_a_neighbour_is_refused_at_once(chain: Network) -> None:
    with pytest.raises(Refusal, match="NO_ROUTE"):
        chain.supply(paths=((A, C, D),))


# --- several paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_over_two_paths_the_units_are_what_no_relay_has_had(
    open_network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    seen: dict[PartyId, bytes] = {}
    honest = pool_supply._uncovered

    def watch(km: Any, *asked: Any) -> Any:
        share = honest(km, *asked)
        seen[km.desk.party] = share.reveal()
        return share

    monkeypatch.setattr(pool_supply, "_uncovered", watch)
    network = open_network(RHOMBUS)
    network.supply(paths=(OVER_B, OVER_C), mode=mode)
    network.settle()
    whole = b"".join(same_units(network))
    assert whole == one_time_pad(seen[B], seen[C])
    assert whole not in (seen[B], seen[C])
    assert network.bits_kept() == {}
    chains = provenance.verify(network.deposits[D]["batch"].provenance, network.certified.key_of).chains
    assert [[one.party for one in statements] for statements in chains] == [list(OVER_B), list(OVER_C)]


def test_one_share_that_fails_takes_the_others_with_it_and_names_its_link(
    open_network: Callable[..., Network],
) -> None:
    network = open_network(RHOMBUS)
    network.drain(C, CD)
    network.supply(paths=(OVER_B, OVER_C))
    network.settle()
    batch = network.batch()
    assert (batch.state, batch.code, batch.link, batch.failed_share) == ("FAILED", "KEY_SHORTAGE", CD, 1)
    assert network.states("batch/00") == ["DESTROYED", "DESTROYED", "-", "DESTROYED"]
    assert not any(network.deposits.values())
    assert network.bits_kept() == {}, "the other path's bits are kept nowhere either"


def test_the_other_paths_bits_are_not_kept_for_an_inquest_that_does_not_come(
    open_network: Callable[..., Network],
) -> None:
    network = open_network(RHOMBUS)
    network.drain(C, CD)
    network.wire.before = lambda sent: _drop(network, sent, PoolReceipt)
    network.supply(paths=(OVER_B, OVER_C))
    for _ in range(30):
        network.pump()
    assert network.states("batch/00") == ["DESTROYED", "DESTROYED", "-", "DESTROYED"]
    assert network.bits_kept() == {}


def test_a_relay_that_changes_its_share_is_named_and_the_other_path_is_not(
    open_network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes_other_bits(monkeypatch, C)
    network = open_network(RHOMBUS)
    network.supply(paths=(OVER_B, OVER_C))
    network.settle()
    assert network.batch().failed_share == 1
    assert network.batch().findings == (Finding((C,), Charge.PASSED_OTHER_BITS, CD),)
    assert not any(network.deposits.values())


# --- late -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [PoolReceipt, PoolRelay, BatchAcceptance])
def test_a_supply_that_is_late_is_destroyed_at_every_hop_with_an_account(chain: Network, message: type[Any]) -> None:
    chain.wire.before = lambda sent: _drop(chain, sent, message)
    chain.supply(lifetime=10_000_000)
    chain.run(20)
    chain.run(700, step=20)
    chain.wire.before = lambda _: None
    chain.run(10)
    batch = chain.batch()
    assert (batch.state, batch.code) == ("FAILED", "TIMEOUT")
    assert chain.passage(A).code == "TIMEOUT"  # type: ignore[union-attr]
    assert chain.bits_kept() == {}
    assert "batch" not in chain.deposits[A]
    with chain.desk(A) as km:
        assert km_pool.units_under_way(km.desk, Pool(A, D, 1)) == 0


def test_a_target_that_nobody_tells_anything_destroys_its_share_by_itself(chain: Network) -> None:
    chain.wire.before = lambda sent: _drop(chain, sent, PoolReceipt)
    chain.supply(lifetime=10_000_000)
    for _ in range(30):
        chain.pump()
    assert chain.states()[3] == "HELD"
    chain.mute(A, B, C)
    chain.clock.advance(10_000_000 + km_pool.GRACE_US)
    with chain.desk(D) as km:
        assert km_pool.sweep(km.desk) == 1
    passage = chain.passage(D)
    assert passage is not None
    assert (passage.state, passage.code) == ("DESTROYED", "TIMEOUT")
    assert D not in chain.bits_kept()


@pytest.mark.parametrize(
    ("path", "position", "until", "deadline"),
    [
        (PATH, 1, 100, 84),
        (PATH, 2, 100, 75),
        ((A, B, C, D, E, F), 1, 100, 90),
        ((A, B, C, D, E, F), 3, 100, 84),
        ((), 1, 100, 95),
        ((), 1, 900, 473),
    ],
)
def test_each_hop_is_awaited_for_less_time_than_the_one_before(
    path: tuple[PartyId, ...], position: int, until: int, deadline: int
) -> None:
    order: Any = SimpleNamespace(path=path, expires_at=500)
    turn: Any = SimpleNamespace(row=SimpleNamespace(deadline=until), now=0)
    assert pool_supply._deadline(turn, order, position) == deadline


# --- the hand-over --------------------------------------------------------------------------------------------------


def test_what_arrived_waits_wrapped_through_a_death_until_it_is_handed_over(chain: Network) -> None:
    chain.takes_in = False
    chain.supply()
    chain.settle()
    for end in (A, D):
        chain.restart(end)
        with chain.desk(end) as km:
            (deposit,) = km_pool.arrived(km.desk)
            assert [len(unit) for unit in deposit.units] == [32] * 8
            assert km_pool.units_under_way(km.desk, Pool(A, D, 1)) == (8 if end == A else 0)
            km_pool.handed_over(km.desk, "batch")
            km_pool.handed_over(km.desk, "batch")
            assert list(km_pool.arrived(km.desk)) == []
            assert km_pool.units_under_way(km.desk, Pool(A, D, 1)) == 0


def test_no_unit_lies_anywhere_in_clear(chain: Network) -> None:
    seen = []
    chain.takes_in = False
    chain.supply()
    for _ in range(20):
        chain.pump()
        seen.append(b"".join(path.read_bytes() for path in sorted(chain.folder.iterdir())))
    chain.takes_in = True
    chain.settle()
    units = same_units(chain)
    assert not any(form in bytes_of for bytes_of in seen for unit in units for form in (unit, unit.hex().encode()))


# --- whatever happens on the way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lifetime", [40_000_000, 300_000], ids=["time enough", "hardly any time"])
@pytest.mark.parametrize("seed", range(6))
def test_in_any_weather_both_ends_get_a_batch_or_its_origin_does_not(
    open_network: Callable[..., Network], seed: int, lifetime: int
) -> None:
    """Loss, lost receipts, duplicates, reordering, and crashes between any two writes."""
    faults = Faults(loss=0.15, receipt_loss=0.15, duplicate=0.15, delay=0.15, crash=0.04)
    shape = (RHOMBUS, CHAIN)[seed % 2]
    network = open_network(shape, seed=seed, faults=faults)
    paths = ((OVER_B, OVER_C), (PATH,))[seed % 2]
    for number in range(3):
        network.supply(f"batch-{number}", first=8 * number, paths=paths, mode=MODES[number % 2], lifetime=lifetime)
    network.run(20, step=0.05 if lifetime < 1_000_000 else 0.5)
    network.wire.faults = Faults()
    network.run(1000, step=10)
    assert network.crashes
    arrived = [name for number in range(3) if network.batch(name := f"batch-{number}").state == "ARRIVED"]
    for name in arrived:
        assert len(set(same_units(network, name))) == 8
    assert set(network.deposits[A]) == set(arrived)
    assert {network.batch(f"batch-{number}").state for number in range(3)} <= {"ARRIVED", "FAILED"}
    assert network.bits_kept() == {}
    if len(arrived) == 3:
        for pair in shape:
            near, far = (network.units_left(party, link_of(*pair)) for party in pair)
            assert near == far, "every unit that one end took is gone at the other end too"
