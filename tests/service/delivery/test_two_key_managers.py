"""Two key managers with real stores, joined by HTTP over post-quantum TLS on loopback; their SAEs ask over ETSI 014."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from tests.adapters.tls.parties import Process, Province
from tests.service.desks import run
from tests.service.http.driver import STARTED_AT, always_ready

from qsotn.adapters.keystore import open_key_store
from qsotn.adapters.tls.context import PostQuantumContext
from qsotn.adapters.tls.uvicorn_protocol import over_tls
from qsotn.adapters.transport.http import HttpPeer
from qsotn.crypto.vault import Vault
from qsotn.domain import PartyId, Role, Secret
from qsotn.errors import LineError, Refusal
from qsotn.keynetwork.delivery import Collect, Deposit, KeyStore, Pool, key_id
from qsotn.service.delivery.assigned import Assigned
from qsotn.service.delivery.assignments import Assignment, FarEnd, Named
from qsotn.service.delivery.comparing import Comparing
from qsotn.service.delivery.desk import DeliveryDesk, Limits
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.saes import Saes
from qsotn.service.delivery.voids import Voids
from qsotn.service.http.application import make_application
from qsotn.service.http.context import Deployment
from qsotn.service.listeners import served

JINAN, QINGDAO = PartyId("km/jinan"), PartyId("km/qingdao")
HOMES = {"alice": JINAN, "bob": QINGDAO, "bert": QINGDAO}
NOW_US = 1_780_000_000_000_000
FOREIGN = "11111111-2222-4333-8444-555555555555"
"""A key ID that another operator chose."""


@dataclass
class House:
    """One key manager: its store on disk, its desk, and the server that the other one asks."""

    desk: DeliveryDesk
    group: Group
    voids: Voids
    far_end: FarEnd
    peer: HttpPeer
    context: Callable[[], PostQuantumContext]


class NobodysDesk:
    """The party's own desk, which assignments never reach."""

    async def call(self, _: Any) -> Any:
        raise AssertionError("an assignment reached the desk of the party")

    async def order(self, *_: Any) -> Any:
        raise AssertionError("an assignment reached the desk of the party")

    async def receive(self, *_: Any) -> Any:
        raise AssertionError("an assignment reached the desk of the party")


async def nothing_arrived() -> int:
    return 0


def store_of(folder: Path, party: PartyId) -> KeyStore:
    folder.mkdir(exist_ok=True)
    vault = Vault(Secret(hashlib.sha256(party.encode()).digest()), os.urandom)
    return open_key_store(f"sqlite:///{folder / 'keys.db'}", party, folder / "epochs", vault, os.urandom)


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


@contextlib.asynccontextmanager
async def house(
    folder: Path, process: Process, listener: socket.socket, far: tuple[PartyId, int], clock: Any = lambda: NOW_US
) -> AsyncIterator[House]:
    party, (other, port) = process.party, far
    group = Group(lambda: store_of(folder / party.replace("/", "-"), party), 10_000)
    await group.start()
    saes = Saes(party, HOMES)
    peer = HttpPeer(other, (f"https://127.0.0.1:{port}",), lambda: process.client(other))
    far_end = FarEnd(other, peer)
    voids = Voids(party, group, {other: far_end}, clock)
    desk = DeliveryDesk(saes, Limits(), group, {other: far_end}, voids, clock)
    deployment = Deployment(STARTED_AT, "sqlite", assigned=Assigned(saes, group, clock, nothing_arrived))
    application = make_application(NobodysDesk(), Role.KM, always_ready, CollectorRegistry(), None, deployment)
    config = uvicorn.Config(
        application,
        http=over_tls(process.server()),  # type: ignore[arg-type]  # it is called, whatever it is
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    try:
        async with served(config, listener):
            yield House(desk, group, voids, far_end, peer, lambda: process.client(other))
    finally:
        await far_end.stop()
        await peer.close()
        await group.stop()


@dataclass
class Pair:
    near: House
    far: House


@contextlib.asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    """Both houses, with the same units in the pool from the first to the second."""
    province = Province(folder)
    processes = {party: province.process(party) for party in (JINAN, QINGDAO)}
    listeners = {party: listening() for party in processes}
    ports = {party: listener.getsockname()[1] for party, listener in listeners.items()}
    async with (
        house(folder, processes[JINAN], listeners[JINAN], (QINGDAO, ports[QINGDAO])) as near,
        house(folder, processes[QINGDAO], listeners[QINGDAO], (JINAN, ports[JINAN])) as far,
    ):
        pool = await near.desk.pool(QINGDAO)
        units = tuple(Secret(os.urandom(32)) for _ in range(200))
        for one in (near, far):
            await one.group.apply(Deposit(pool, "batch-1", 0, units))
        yield Pair(near, far)


def bits(keys: Any) -> list[tuple[str, bytes]]:
    return [(key.key_id, key.key.reveal()) for key in keys]


async def exchange(both: Pair, number: int = 1, size: int = 256) -> list[tuple[str, bytes]]:
    given: Any = await both.near.desk.reserve("alice", ["bob"], number, size)
    taken: Any = await both.far.desk.collect("bob", "alice", [key.key_id for key in given])
    assert bits(given) == bits(taken)
    return bits(given)


def test_keys_given_at_one_are_collected_at_the_other_each_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as both:
            single = await asyncio.gather(*(exchange(both) for _ in range(40)))
            larger = await exchange(both, 5, 1024)
            keys = [key for one in (*single, larger) for key in one]
            assert len({key_id for key_id, _ in keys}) == len({key for _, key in keys}) == 45
            assert both.near.far_end.requests < 40, "assignments gather"
            pool = await both.near.desk.pool(QINGDAO)
            for end in (both.near, both.far):
                count = await end.group.call(lambda store: store.count(pool))
                assert (count.ready, count.waiting, count.delivered) == (140, 0, 60)

    run(story())


def test_a_far_end_that_is_gone_costs_the_keys_of_one_request_and_they_are_void_at_both_ends(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as both:
            reached = both.near.far_end._destination
            nowhere = HttpPeer(QINGDAO, ("https://127.0.0.1:1",), both.near.context)
            both.near.far_end._destination = nowhere
            for _ in range(2):
                with pytest.raises(Refusal) as refused:
                    await both.near.desk.reserve("alice", ["bob"], 3, 256)
                assert refused.value.code == "FAR_END_SILENT"
            await both.near.voids.settle()
            pool = await both.near.desk.pool(QINGDAO)
            assert (await both.near.group.call(lambda store: store.count(pool))).waiting == 3
            both.near.far_end._destination = reached
            await both.near.voids.settle()
            for end in (both.near, both.far):
                count = await end.group.call(lambda store: store.count(pool))
                assert (count.ready, count.waiting, count.voided) == (197, 0, 3)
            await nowhere.close()
            assert await exchange(both), "the far end answered again, and is believed at once"

    run(story())


WRONG = [
    (Assignment(1, (0,), 256, "bob", ("bob",)), "WRONG_PARTY", "bob is not attached to km/jinan"),
    (Assignment(1, (0,), 256, "alice", ("alice",)), "UNKNOWN_SAE", "no SAE alice is attached to km/qingdao"),
    (Assignment(1, (0,), 256, "alice", ("mallory",)), "UNKNOWN_SAE", "no SAE mallory is known"),
    (Assignment(1, (0, 0), 256, "alice", ("bob",)), "BAD_REQUEST", "named twice"),
    (Assignment(2, (0,), 256, "alice", ("bob",)), "KEYS_NOT_FOUND", "not found"),
    (Assignment(1, (0, 999), 256, "alice", ("bob",)), "KEYS_NOT_FOUND", "not found"),
    (Assignment(1, (0,), 256, "alice", ("bob",), (bytes(32),)), "BAD_REQUEST", "do not go with 1 pads"),
    (Assignment(1, (0,), 256, "alice", ("bob",), foreign=(FOREIGN,)), "BAD_REQUEST", "do not go with 1 pads"),
    (
        Assignment(1, (0, 1), 256, "alice", ("bob",), (bytes(32),) * 2, foreign=(FOREIGN,) * 2),
        "BAD_REQUEST",
        "named twice",
    ),
    (
        Assignment(1, (0,), 256, "alice", ("bob",), (bytes(32),), Named(QINGDAO, 1, (5,)), (FOREIGN,)),
        "BAD_REQUEST",
        "not of both",
    ),
    (
        Assignment(
            1, (0,), 256, "alice", ("bob",), (bytes(32),), foreign=(key_id(Pool(JINAN, QINGDAO, 1).tag, 1 << 40),)
        ),
        "KEY_REUSED",
        "a key of this network has one of these IDs",
    ),
    (
        Assignment(1, (0,), 256, "alice", ("bob",), (bytes(31),), Named(QINGDAO, 1, (5,))),
        "BAD_REQUEST",
        "not of 256 bits",
    ),
]


@pytest.mark.parametrize(("wrong", "code", "told"), WRONG)
def test_an_assignment_that_is_not_the_askers_to_make_is_refused_alone(
    tmp_path: Path, wrong: Assignment, code: str, told: str
) -> None:
    async def story() -> None:
        async with pair(tmp_path) as both:
            right = Assignment(1, (7,), 256, "alice", ("bob",))
            asked = (both.near.far_end.assign(one) for one in (right, wrong, right))
            results = await asyncio.gather(*asked, return_exceptions=True)
            refused = results[1]
            assert results[0] is results[2] is None, "the same again changes nothing"
            assert isinstance(refused, Refusal)
            assert refused.code == code
            assert told in refused.detail
            pool = await both.near.desk.pool(QINGDAO)
            count = await both.far.group.call(lambda store: store.count(pool))
            assert (count.ready, count.waiting) == (199, 1)

    run(story())


def test_nobody_can_void_or_assign_units_of_another_origin(tmp_path: Path) -> None:
    """Whoever asks is the origin: its own pool, of the same numbers, is all it can name."""

    async def story() -> None:
        async with pair(tmp_path) as both:
            pool = await both.near.desk.pool(QINGDAO)
            given = await both.near.desk.reserve("alice", ["bob"], 1, 256)
            await both.far.far_end.void([Named(QINGDAO, 1, (0, 1, 2)), Named(JINAN, 1, (0, 1, 2))])
            count = await both.near.group.call(lambda store: store.count(pool))
            assert count.voided == 0
            taken: Any = await both.far.desk.collect("bob", "alice", [given[0].key_id])
            assert bits(taken) == bits(given)

    run(story())


def test_a_pool_that_the_far_end_has_lost_is_promised_to_nobody_once_the_two_were_compared(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as both:
            await exchange(both)
            comparing = Comparing(JINAN, both.near.group, {QINGDAO: both.near.far_end}, both.near.desk.end_lost)
            await comparing.compare()
            assert (await both.near.desk.offer("alice", "bob")).stored_keys == 199
            lost = Pool(JINAN, QINGDAO, 1)
            await both.far.group.call(lambda store: store.end_pool(lost))
            await comparing.compare()
            assert (await both.near.desk.offer("alice", "bob")).stored_keys == 0
            assert (await both.near.desk.pool(QINGDAO)).series == 2
            assert (await both.near.group.call(lambda store: store.count(lost))).burned == 199

    run(story())


def test_what_is_not_of_the_declared_form_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as both:
            with pytest.raises(LineError, match="answered 422"):
                await both.near.peer.ask("POST", "/kx/v1/assignments", Assignment(1, (0,), 250, "alice", ("bob",)), 200)
            with pytest.raises(LineError, match="answered 422"):
                await both.near.peer.ask("POST", "/kx/v1/voids", Named(QINGDAO, 1, ()), 204)

    run(story())


def test_keys_survive_a_restart_of_both_and_are_given_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with pair(tmp_path) as both:
            given: Any = await both.near.desk.reserve("alice", ["bob"], 2, 256)
        store = store_of(tmp_path / "km-qingdao", QINGDAO)
        asked = Collect("bob", "alice", tuple(key.key_id for key in given), NOW_US)
        waiting = store.apply([asked]).done[0]
        assert bits(waiting) == bits(given)
        assert store.apply([Collect("bert", "alice", asked.key_ids, NOW_US)]).refused
        store.close()

    run(story())
