"""How a key came to a key manager, as its operator reads it: a real supply, a real key store, bent in every way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.service.http.driver import DEPLOYMENT, STARTED_AT, Client, Reply, application_of
from tests.service.key_way import POOL, supplied
from tests.world import World

from qsotn.adapters.keystore import open_key_store
from qsotn.app.province import KM_A, KM_B, KM_RELAY, LINK_A, LINK_B
from qsotn.crypto.vault import Vault
from qsotn.domain import KeyId, Secret
from qsotn.keynetwork import provenance
from qsotn.keynetwork.delivery import Deposit, KeyStore, Reserve
from qsotn.keynetwork.relay import Mode
from qsotn.service.delivery.passing_on import ForeignPart

KEY_ID = "f02d0743-5956-43e3-9aec-35e959c5fdbd"
WAY = [KM_A, KM_RELAY, KM_B]


@pytest.fixture
def world(open_world: Callable[..., World]) -> World:
    return open_world("provisioned")


def asked(world: World, told: Callable[[str], bytes | None], key_id: str = KEY_ID) -> Reply:
    """What the operator is answered at the far end, whose key store holds this."""

    async def provenance_of(wanted: str) -> bytes | None:
        return told(wanted)

    application = application_of(world, KM_B, deployment=replace(DEPLOYMENT, provenance=provenance_of))
    return Client(application)("GET", f"/operations/v1/keys/{key_id}/provenance")


def shown(world: World, encoded: bytes) -> Any:
    reply = asked(world, lambda _: encoded)
    assert reply.status == 200, reply
    return reply.json()


def kept(folder: Path, deposit: Deposit) -> tuple[KeyStore, str]:
    """The origin's key store with this batch, and the ID of the second key that an SAE was given of it."""
    vault = Vault(Secret(hashlib.sha256(b"vault").digest()), os.urandom)
    store = open_key_store(f"sqlite:///{folder / 'keys.db'}", KM_A, folder / "epochs", vault, os.urandom)
    assert store.begin_pool(POOL.origin, POOL.target) == POOL
    given = store.apply([deposit, Reserve(POOL, "alice", ("bob",), 2, 512, STARTED_AT)])
    assert not given.refused
    return store, given.done[1][1].key_id


def test_of_a_key_of_another_operator_the_way_from_the_border_on_is_shown_and_whose_it_is(world: World) -> None:
    encoded, theirs = supplied(world, Mode.ONE_TIME_PAD)[KM_B].provenance, "11111111-2222-4333-8444-555555555555"

    async def provenance_of(wanted: str) -> bytes | None:
        return encoded if wanted == KEY_ID else None

    async def foreign(wanted: str) -> ForeignPart | None:
        return ForeignPart("border.west", KM_B, KeyId(KEY_ID)) if wanted == theirs else None

    deployment = replace(DEPLOYMENT, provenance=provenance_of, foreign=foreign)
    client = Client(application_of(world, KM_B, deployment=deployment))
    told = client("GET", f"/operations/v1/keys/{theirs}/provenance").json()
    assert (told["key_id"], told["foreign"], told["verified"], told["paths"]) == (theirs, "border.west", True, [WAY])
    assert told["account"].startswith(
        f"key {theirs} came from border.west to {KM_B}, and went on under the one-time pad"
    )
    assert KEY_ID in told["account"]
    assert client("GET", f"/operations/v1/keys/{KEY_ID}/provenance").json()["foreign"] == ""
    assert client("GET", "/operations/v1/keys/99999999-2222-4333-8444-555555555555/provenance").status == 404


@pytest.mark.parametrize("mode", list(Mode))
def test_the_way_of_a_key_is_shown_with_every_signature_verified(world: World, mode: Mode) -> None:
    told = shown(world, supplied(world, mode)[KM_B].provenance)
    assert (told["km"], told["key_id"], told["batch"]) == (KM_B, KEY_ID, "batch-1")
    assert (told["origin"], told["target"], told["first"], told["units"]) == (KM_A, KM_B, 0, 4)
    assert (told["mode"], told["paths"], told["verified"], told["reason"]) == (mode, [WAY], True, "")
    legs = [(one["party"], one["received_over"], one["passed_over"], one["next"]) for one in told["statements"]]
    assert legs == [(KM_A, "", LINK_A, KM_RELAY), (KM_RELAY, LINK_A, LINK_B, KM_B), (KM_B, LINK_B, "", "")]
    assert all(one["verified"] and not one["reason"] for one in told["statements"])
    assert "every signature verified" in told["account"]
    assert mode.secrecy in told["account"]


def test_a_bent_signature_is_shown_as_that_of_its_signer_alone(world: World) -> None:
    ((first, relay, last),) = provenance.signed_chains(supplied(world)[KM_B].provenance)
    bent = relay[:-1] + bytes([relay[-1] ^ 1])
    told = shown(world, provenance.encode([[first, bent, last]]))
    assert [one["verified"] for one in told["statements"]] == [True, False, True]
    assert told["statements"][1]["reason"]
    assert not told["verified"]
    assert told["reason"]
    assert "signatures NOT verified" in told["account"]


def test_statements_that_are_signed_and_do_not_fit_together_are_not_verified_as_a_whole(world: World) -> None:
    ((first, _, last),) = provenance.signed_chains(supplied(world)[KM_B].provenance)
    told = shown(world, provenance.encode([[first, last]]))
    assert [one["verified"] for one in told["statements"]] == [True, True]
    assert (told["verified"], "is not one of position 1" in told["reason"]) == (False, True)


def test_a_party_whose_certificate_is_not_known_here_is_named(world: World) -> None:
    encoded = supplied(world)[KM_B].provenance
    with world.desk(KM_B) as km:
        km.desk.certificates.delete(KM_RELAY)
    told = shown(world, encoded)
    assert told["statements"][1]["reason"] == f"{KM_B} has no certificate of {KM_RELAY}"
    assert [one["verified"] for one in told["statements"]] == [True, False, True]


@pytest.mark.parametrize("told", [None, b""], ids=["unknown", "deposited without a word"])
def test_an_unknown_key_is_not_found(world: World, told: bytes | None) -> None:
    reply = asked(world, lambda _: told)
    assert (reply.status, reply.problem) == (404, "not-found")
    assert KEY_ID in reply.json()["detail"]


def test_what_is_no_key_id_is_not_found_before_the_store_is_asked(world: World) -> None:
    def never(_: str) -> bytes | None:
        raise AssertionError("the store was asked")

    assert asked(world, never, "key-1").status == 404


def test_damage_in_the_store_is_a_failure_of_ours(world: World) -> None:
    with capture_logs() as lines:
        reply = asked(world, lambda _: b"noise")
    assert (reply.status, reply.problem) == (500, "internal-error")
    assert "is no provenance" in lines[0]["traceback"]


def test_every_key_of_a_batch_leads_to_it_from_a_real_store(world: World, tmp_path: Path) -> None:
    deposit = supplied(world)[KM_A]
    store, key_id = kept(tmp_path, deposit)
    try:
        reply = asked(world, store.provenance, key_id)
        assert (reply.json()["batch"], reply.json()["verified"]) == ("batch-1", True)
        assert asked(world, store.provenance, key_id.upper()).status == 200
        assert asked(world, store.provenance).status == 404
    finally:
        store.close()


def test_nothing_that_is_shown_holds_the_bits_or_a_proof_of_them(world: World) -> None:
    deposit = supplied(world)[KM_B]
    reply = asked(world, lambda _: deposit.provenance)
    fields = {name for one in reply.json()["statements"] for name in one}
    assert fields == {"share", "party", "received_over", "passed_over", "next", "at", "verified", "reason"}
    text = reply.body.decode()
    for unit in deposit.units:
        assert unit.reveal().hex() not in text
        assert msgspec.json.encode(unit.reveal()).decode().strip('"=') not in text
