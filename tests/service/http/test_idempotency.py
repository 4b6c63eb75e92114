"""An order is given once, however often its request arrives, and whenever its party dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.service.http.driver import Client, application_of
from tests.world import Crash, World

from qsotn.app.province import CPE_A, POMP
from qsotn.domain import PartyId
from qsotn.service.http.idempotency import KEPT_US, PRUNED

LINES = "/operations/v1/lines"
CPES = "/operations/v1/cpes"
DEVICE = {"cpe": "cpe/jinan-1", "serial_number": "QS-2026-000001", "home_qssp": "qssp/jinan"}


def held(world: World, collection: str) -> list[str]:
    """The keys of a collection of the POMP."""
    with world.desk(POMP) as pomp:
        return [key for key, _ in pomp.desk.transaction.scan(collection)]


@pytest.fixture
def world(open_world: Callable[..., World]) -> World:
    """Nothing has begun."""
    return open_world("provisioned")


@pytest.fixture
def client(world: World) -> Client:
    return Client(application_of(world, POMP))


def test_the_same_request_gets_the_same_answer_and_begins_nothing_again(world: World, client: Client) -> None:
    first = client.order("POST", CPES, "k", json=DEVICE)
    world.settle()
    again = client.order("POST", CPES, "k", json=DEVICE)
    assert first.status == 202
    assert again == first
    assert len({row.procedure for row in world.rows(POMP)}) == 1


def test_the_same_request_may_be_written_otherwise(client: Client) -> None:
    first = client.order("POST", CPES, "k", json=DEVICE)
    assert client.order("POST", CPES, '"k"', json=dict(reversed(DEVICE.items()))) == first


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", CPES, {**DEVICE, "serial_number": "QS-2026-000009"}),
        ("POST", "/operations/v1/accounts", {"name": "bank"}),
        ("DELETE", f"{CPES}/jinan-1?reason=lost", None),
    ],
)
def test_the_same_key_with_another_request_is_refused(client: Client, method: str, path: str, body: Any) -> None:
    client.order("POST", CPES, "k", json=DEVICE)
    reply = client.order(method, path, "k", json=body)
    assert (reply.status, reply.problem) == (422, "idempotency-key-reused")


def test_a_query_belongs_to_the_request(client: Client) -> None:
    client.order("POST", CPES, "k", json=DEVICE)
    assert client.order("DELETE", f"{CPES}/jinan-1?reason=lost", "r").status == 202
    assert client.order("DELETE", f"{CPES}/jinan-1?reason=stolen", "r").problem == "idempotency-key-reused"


def test_nobody_gets_another_operators_answer(world: World, client: Client) -> None:
    client.order("POST", CPES, "k", json=DEVICE)
    bob = Client(client.application, PartyId("operator/bob"))
    reply = bob.order("POST", CPES, "k", json=DEVICE)
    assert (reply.status, reply.json()["code"]) == (409, "UNDER_WAY")


@pytest.mark.parametrize(
    "key", ["", '"', '""', '"k', "k k", "k" * 65, "ключ".encode().decode("latin-1"), "a/b", "k, k"]
)
def test_a_key_that_is_none_is_refused(client: Client, key: str) -> None:
    reply = client.order("POST", CPES, key, json=DEVICE)
    assert (reply.status, reply.problem) == (400, "malformed-request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CPES),
        ("POST", LINES),
        ("POST", "/operations/v1/accounts"),
        ("POST", f"{LINES}/line-1/rekeys"),
        ("DELETE", f"{LINES}/line-1"),
        ("DELETE", f"{CPES}/jinan-1?reason=lost"),
    ],
)
def test_every_order_needs_a_key(client: Client, method: str, path: str) -> None:
    bodies = {
        CPES: DEVICE,
        "/operations/v1/accounts": {"name": "bank"},
        LINES: {
            "line": "line-1",
            "account": "bank",
            "cpe_a": "cpe/jinan-1",
            "cpe_b": "cpe/qingdao-1",
            "odu": "ODU2",
            "rekey_interval_s": 60,
            "max_latency_us": 5000,
        },
    }
    reply = client(method, path, json=bodies.get(path))
    assert (reply.status, reply.problem) == (400, "no-idempotency-key")


def test_a_refused_order_leaves_its_key_free(world: World, client: Client) -> None:
    refused = client.order("DELETE", f"{LINES}/line-1", "k")
    assert (refused.status, held(world, "requests"), held(world, "request-expiries")) == (404, [], [])
    assert client.order("POST", CPES, "k", json=DEVICE).status == 202


@pytest.mark.parametrize("moment", ["before COMMIT", "after COMMIT"])
def test_a_crash_leaves_the_order_with_its_answer_or_neither(world: World, client: Client, moment: str) -> None:
    def fuse(party: PartyId, reached: str) -> None:
        if reached == moment:
            raise Crash(party, reached)

    world.nodes[POMP]._store._fuse = fuse  # type: ignore[attr-defined]  # the world's stores have one
    assert client.order("POST", CPES, "k", json=DEVICE).problem == "internal-error"
    world.restart(POMP)
    begun = world.rows(POMP)
    assert len(begun) == (moment == "after COMMIT")
    reborn = Client(application_of(world, POMP))
    answer = reborn.order("POST", CPES, "k", json=DEVICE)
    assert answer.status == 202
    assert [row.procedure for row in world.rows(POMP)] == [answer.json()["procedure"]]
    assert [row.procedure for row in begun] in ([], [answer.json()["procedure"]])
    world.settle()
    assert world.device_state(CPE_A) == "READY"


def test_a_key_is_free_again_after_a_day(world: World, client: Client) -> None:
    client.order("POST", "/operations/v1/accounts", "k", json={"name": "bank-1"})
    world.clock.advance(KEPT_US - 1)
    assert client.order("POST", "/operations/v1/accounts", "k", json={"name": "bank-2"}).status == 422
    world.clock.advance(1)
    assert client.order("POST", "/operations/v1/accounts", "k", json={"name": "bank-2"}).status == 201


def test_old_answers_are_cleared_away_a_few_at_a_time(world: World, client: Client) -> None:
    for number in range(PRUNED + 3):
        client.order("POST", "/operations/v1/accounts", f"k{number}", json={"name": "bank"})
    world.clock.advance(KEPT_US)
    client.order("POST", "/operations/v1/accounts", "k0", json={"name": "bank"})
    assert len(held(world, "requests")) == len(held(world, "request-expiries")) == 4
    client.order("POST", "/operations/v1/accounts", "last", json={"name": "bank"})
    assert held(world, "requests") == ["operator/alice/k0", "operator/alice/last"]


def test_an_answer_that_was_renewed_outlives_the_expiry_of_the_old_one(world: World, client: Client) -> None:
    keys = [f"k{number:02}" for number in range(PRUNED + 1)]
    for key in keys:
        client.order("POST", "/operations/v1/accounts", key, json={"name": "bank"})
    world.clock.advance(KEPT_US)
    renewed = client.order("POST", "/operations/v1/accounts", keys[-1], json={"name": "another"})
    client.order("POST", "/operations/v1/accounts", "next", json={"name": "bank"})
    assert client.order("POST", "/operations/v1/accounts", keys[-1], json={"name": "another"}) == renewed
    assert renewed.status == 201
