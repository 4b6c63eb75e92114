"""ETSI GS QKD 020: keys cross a border between two operators once, or not at all."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.service.interoperation.border import ALICE, BOB, CAROL, EAST, WEST, Borders, Wire, run

from qsotn.domain import KeyId
from qsotn.errors import Refusal, StoreError, WrongParty
from qsotn.service.interoperation import etsi020_messages as form
from qsotn.service.interoperation import sent
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.operators import Operator, callback_path
from qsotn.service.interoperation.reply import Reply
from qsotn.service.interoperation.sent import Sending

KEY_ID = "550e8400-e29b-41d4-a716-446655440000"
OTHER_ID = "550e8400-e29b-41d4-a716-446655440001"
VALUE = bytes(range(32))


@pytest.fixture
def borders(tmp_path: Path) -> Borders:
    return Borders(tmp_path)


CALLBACK = "https://km-east.example/kmapi/v1/ext_keys/ack"


def transfer(*key_ids: str, value: bytes = VALUE, **members: Any) -> bytes:
    """A member that is None is left out."""
    keys = [{"key_id": key_id, "value": base64.b64encode(value).decode()} for key_id in key_ids or (KEY_ID,)]
    return written({"keys": keys, **members})


def void(*key_ids: str, **members: Any) -> bytes:
    return written({"key_ids": list(key_ids), **members})


def written(members: dict[str, Any]) -> bytes:
    whole = {"initiator_sae_id": ALICE, "target_sae_ids": [BOB], "ack_callback_url": CALLBACK, **members}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


def acks(wire: Wire) -> list[tuple[str, list[str]]]:
    """What was acknowledged over a wire: statuses, and the keys under each."""
    said = [json.loads(body) for path, body in wire.said if path == form.ACK]
    return [
        (ack["ack_status"], [one["key_id"] for one in ack["key_id_container"]]) for document in said for ack in document
    ]


async def acknowledged(borders: Borders, count: int) -> bool:
    return len(acks(borders.west.wire)) >= count


# --- well -------------------------------------------------------------------------------------------------------------


def test_a_key_reserved_in_one_network_is_collected_in_the_other_and_is_the_same(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            keys = await borders.east.gateway.reserve(ALICE, [BOB], 3, 256)
            ids = [key.key_id for key in keys]
            found = await borders.west.gateway.collect(BOB, ALICE, ids)
            assert [key.key.reveal() for key in found] == [key.key.reveal() for key in keys]
            assert {await borders.east.store.call(partial(sent.state_of, key_id=one, target=BOB)) for one in ids} == {
                Sending.RELAYED
            }
            borders.clock.pass_s(11)
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, ALICE, ids)

    run(story())


def test_keys_within_one_network_are_as_before(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            (key,) = await borders.east.gateway.reserve(ALICE, [CAROL], 1, 128)
            (found,) = await borders.east.gateway.collect(CAROL, ALICE, [key.key_id])
            assert found.key == key.key
            assert not borders.east.wire.said
            assert (await borders.east.gateway.offer(ALICE, CAROL)).most_additional_slaves == 4
            assert (await borders.east.gateway.offer(ALICE, BOB)).most_additional_slaves == 0

    run(story())


def test_the_versions_are_told(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            reply = await borders.west.ask(EAST, "GET", form.VERSIONS)
            assert (reply.status, json.loads(reply.body)) == (
                200,
                {"versions": ["v1"], "capabilities": ["synchronous_mode"]},
            )

    run(story())


def test_a_lost_answer_with_keys_can_be_had_again_for_a_moment_by_the_same_request(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer(KEY_ID, OTHER_ID))
            both = [KeyId(KEY_ID), KeyId(OTHER_ID)]
            first = await borders.west.gateway.collect(BOB, ALICE, both)
            assert await borders.west.gateway.collect(BOB, ALICE, both) == first
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, ALICE, both[:1])

    run(story())


# --- exactly once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["request", "answer"])
@pytest.mark.parametrize(("speaker", "path"), [("east", form.EXT_KEYS), ("west", form.ACK)])
def test_whatever_is_lost_once_is_said_again_and_the_key_is_there_once(
    borders: Borders, speaker: str, path: str, fate: str
) -> None:
    lost: list[str] = []

    def once(said: str, _: int) -> str | None:
        if said == path and not lost:
            lost.append(said)
            return fate
        return None

    getattr(borders, speaker).wire.lost = once

    async def story() -> None:
        async with borders:
            reserving = asyncio.create_task(_reserve(borders))
            await borders.settle(lambda: _done(reserving))
            (key,) = await reserving
            (found,) = await borders.west.gateway.collect(BOB, ALICE, [key.key_id])
            assert found.key == key.key
            assert len(borders.east.network.given) == 1
            assert lost

    run(story())


async def _reserve(borders: Borders) -> Any:
    return await borders.east.gateway.reserve(ALICE, [BOB], 1, 256)


async def _done(task: asyncio.Task[Any]) -> bool:
    return task.done()


def test_the_same_key_again_is_acknowledged_again_and_another_value_is_refused(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            for _ in range(2):
                assert (await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer(KEY_ID.upper()))).status == 202
            await borders.settle(lambda: acknowledged(borders, 2))
            assert acks(borders.west.wire) == [("relayed", [KEY_ID.upper()])] * 2
            other = await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer(OTHER_ID, KEY_ID, value=bytes(32)))
            assert (other.status, other.content_type) == (400, "application/json")
            assert set(json.loads(other.body)["details"]) == {"key_id_reused"}
            (found,) = await borders.west.gateway.collect(BOB, ALICE, [KeyId(KEY_ID)])
            assert found.key.reveal() == VALUE
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):  # nothing of the refused request was kept
                await borders.west.gateway.collect(BOB, ALICE, [KeyId(OTHER_ID)])

    run(story())


def test_a_delivered_key_that_comes_again_is_acknowledged_and_not_given_again(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer())
            await borders.west.gateway.collect(BOB, ALICE, [KeyId(KEY_ID)])
            borders.clock.pass_s(11)
            await borders.west.again()
            assert (await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer())).status == 202
            await borders.settle(lambda: acknowledged(borders, 2))
            assert {status for status, _ in acks(borders.west.wire)} == {"relayed"}
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, ALICE, [KeyId(KEY_ID)])

    run(story())


def test_a_delivered_key_is_nowhere_in_the_store_and_a_waiting_one_not_in_clear(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer())
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer(OTHER_ID, value=VALUE[::-1]))
            await borders.west.gateway.collect(BOB, ALICE, [KeyId(KEY_ID)])
            borders.clock.pass_s(11)
            await borders.settle(lambda: _shredded(borders))
        everything = b"".join(path.read_bytes() for path in borders.west.folder.iterdir())
        for value in (VALUE, VALUE[::-1]):
            assert value not in everything
            assert base64.b64encode(value) not in everything

    run(story())


async def _shredded(borders: Borders) -> bool:
    await asyncio.sleep(0.02)

    def read(store: BorderStore) -> dict[str, int]:
        with store.transaction() as at:
            return dict(at.execute("SELECT key_id, wrapped IS NULL FROM received").fetchall())

    rows = await borders.west.store.call(read)
    if rows != {KEY_ID: 1, OTHER_ID: 0}:
        await borders.west.again()
        return False
    return True


def test_a_second_process_does_not_get_the_store(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            with pytest.raises(StoreError, match=r"cannot be opened: database is locked"):
                BorderStore(borders.west.path, borders.west.vault, borders.west.entropy)

    run(story())


# --- kills ------------------------------------------------------------------------------------------------------------


def test_an_acknowledgement_survives_a_kill_before_it_was_sent(borders: Borders) -> None:
    async def story() -> None:
        borders.west.wire.lost = lambda _, said: "request" if said < 3 else None
        async with borders:
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer())
            await borders.west.again()
            await borders.settle(lambda: acknowledged(borders, 3))
            await borders.west.again()
            said = len(borders.west.wire.said)
            borders.clock.pass_s(3600)
            borders.west.courier.nudge()
            await asyncio.sleep(0.05)
            assert len(borders.west.wire.said) == said, "what was taken is not sent again"

    run(story())


@pytest.mark.parametrize("arrived", [False, True])
def test_a_sender_that_is_killed_before_the_acknowledgement_has_its_keys_void_at_both_ends(
    borders: Borders, arrived: bool
) -> None:
    async def story() -> None:
        borders.east.wire.lost = lambda path, _: None if arrived and path == form.EXT_KEYS else "request"
        borders.west.wire.lost = lambda _, __: "request"
        async with borders:
            reserving = asyncio.create_task(_reserve(borders))
            while not borders.east.wire.said:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            await borders.east.end()
            reserving.cancel()
            await asyncio.gather(reserving, return_exceptions=True)
            borders.east.wire.lost = borders.west.wire.lost = lambda _, __: None
            await borders.east.begin()
            (key_id,) = borders.east.network.given
            await borders.settle(lambda: _is(borders, key_id, Sending.VOIDED))
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, ALICE, [key_id])

    run(story())


async def _is(borders: Borders, key_id: str, state: Sending) -> bool:
    return await borders.east.store.call(partial(sent.state_of, key_id=key_id, target=BOB)) is state


def test_a_far_end_that_stays_silent_costs_the_master_its_answer_and_leaves_no_key_anywhere(borders: Borders) -> None:
    async def story() -> None:
        borders.east.patience_s = 0.05
        borders.west.wire.lost = lambda _, __: "request"
        async with borders:
            with pytest.raises(Refusal, match="FAR_END_SILENT"):
                await _reserve(borders)
            borders.west.wire.lost = lambda _, __: None
            (key_id,) = borders.east.network.given
            await borders.settle(lambda: _is(borders, key_id, Sending.VOIDED))
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, ALICE, [key_id])

    run(story())


def test_keys_that_are_sent_on_for_a_master_elsewhere_arrive_before_it_is_told_and_a_repetition_changes_nothing(
    borders: Borders,
) -> None:
    async def story() -> None:
        async with borders:
            (key,) = await borders.east.network.reserve(ALICE, [BOB], 1, 256)
            for _ in range(2):
                await borders.east.gateway.forward(ALICE, BOB, [key.key_id])
                assert await _is(borders, key.key_id, Sending.RELAYED)
            assert await borders.west.gateway.collect(BOB, ALICE, [key.key_id]) == (key,)
            assert [path for path, _ in borders.east.wire.said].count(form.EXT_KEYS) == 1
            with pytest.raises(Refusal, match="UNKNOWN_SAE"):
                await borders.east.gateway.forward(ALICE, CAROL, [key.key_id])

    run(story())


def test_keys_that_are_sent_on_in_vain_are_void_and_their_operator_is_left_alone_for_a_while(borders: Borders) -> None:
    async def story() -> None:
        borders.east.patience_s = 0.1
        async with borders:
            first, second = await borders.east.network.reserve(ALICE, [BOB], 2, 256)
            borders.west.wire.lost = lambda _, __: "request"
            with pytest.raises(Refusal, match="FAR_END_SILENT"):
                await borders.east.gateway.forward(ALICE, BOB, [first.key_id])
            said = len(borders.east.wire.said)
            for attempt in (borders.east.gateway.forward(ALICE, BOB, [second.key_id]), _reserve(borders)):
                with pytest.raises(Refusal, match="FAR_END_SILENT"):
                    await attempt
            assert len(borders.east.wire.said) == said
            assert len(borders.east.network.given) == 2, "nothing is drawn for an operator that is silent"
            borders.west.wire.lost = lambda _, __: None
            await borders.settle(lambda: _is(borders, first.key_id, Sending.VOIDED), 10)

    run(story())


def test_keys_that_their_origin_voids_are_void_at_the_operator_too(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            (key,) = await borders.east.network.reserve(ALICE, [BOB], 1, 256)
            await borders.east.gateway.forward(ALICE, BOB, [key.key_id])
            await borders.east.gateway.withdraw([key.key_id, KeyId(OTHER_ID)])
            await borders.settle(lambda: _is(borders, key.key_id, Sending.VOIDED))
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, ALICE, [key.key_id])
            with pytest.raises(Refusal, match="OPERATOR_REFUSED"):
                await borders.east.gateway.forward(ALICE, BOB, [key.key_id])

    run(story())


def test_a_far_end_that_refuses_costs_the_master_its_answer(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            borders.west.interface._saes._homes.pop(BOB)
            with pytest.raises(Refusal, match="OPERATOR_REFUSED"):
                await _reserve(borders)
            (key_id,) = borders.east.network.given
            assert await _is(borders, key_id, Sending.FAILED)

    run(story())


# --- void -------------------------------------------------------------------------------------------------------------


def test_each_state_of_a_key_has_its_own_acknowledgement_of_a_void(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            delivered, absent = OTHER_ID, "00000000-0000-4000-8000-000000000000"
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer(KEY_ID, delivered))
            await borders.west.gateway.collect(BOB, ALICE, [KeyId(delivered)])
            reply = await borders.west.ask(EAST, "POST", form.VOID, void(KEY_ID, delivered, absent))
            assert reply.status == 202
            await borders.settle(lambda: acknowledged(borders, 4))
            assert dict(acks(borders.west.wire)[1:]) == {
                "voided": [KEY_ID],
                "failed to void": [delivered],
                "key not present": [absent],
            }
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, ALICE, [KeyId(KEY_ID)])
            late = await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer(absent))
            assert late.status == 400, "a key that was void before it came is not kept"

    run(story())


def test_all_keys_between_two_saes_are_void_only_if_that_is_confirmed(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer(KEY_ID, OTHER_ID))
            assert (await borders.west.ask(EAST, "POST", form.VOID, void())).status == 400
            assert (await borders.west.ask(EAST, "POST", form.VOID, void(all_confirmation=True))).status == 202
            await borders.settle(lambda: acknowledged(borders, 2))
            assert acks(borders.west.wire)[1] == ("voided", [KEY_ID, OTHER_ID])

    run(story())


def test_keys_that_nobody_collects_expire(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer())
            await borders.settle(lambda: acknowledged(borders, 1))
            borders.clock.pass_s(24 * 3600)
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, ALICE, [KeyId(KEY_ID)])
            await borders.west.again()
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer())
            await borders.settle(lambda: acknowledged(borders, 2))
            assert acks(borders.west.wire)[-1] == ("failed", [KEY_ID])

    run(story())


# --- hostile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b'{"keys": ' + b"[" * 100_000, "n"),
        (transfer(target_sae_ids=[]), "length >= 1"),
        (transfer(target_sae_ids=[CAROL]), "not attached"),
        (transfer(target_sae_ids=["nobody"]), "no SAE nobody"),
        (transfer(target_sae_ids=[BOB, BOB]), "twice"),
        (transfer(initiator_sae_id=BOB), "initiator itself"),
        (transfer(initiator_sae_id="mallory"), "no SAE of km/east"),
        (transfer(KEY_ID, KEY_ID.upper()), "stands there twice"),
        (transfer("no-uuid"), "matching regex"),
        (transfer(KEY_ID + "\n"), "matching regex"),
        (transfer(value=bytes(7)), "56 bits"),
        (transfer(value=bytes(1025)), "8200 bits"),
        (transfer(keys=[]), "length >= 1"),
        (transfer(keys=[{"key_id": KEY_ID, "value": "no base64!"}]), "not of the expected form"),
        (transfer(extension_optional={}), "0 members"),
        (transfer(extension_optional={"hurry": 1}), "expected E, a private enterprise number"),
        (transfer(extension_mandatory={"E9_hurry": 1, "EX_hurry": 1}), "expected E, a private enterprise number"),
        (transfer(target_sae_ids=["b" * 65]), "length <= 64"),
        (transfer(target_sae_ids=["a bank"]), "matching regex"),
        (transfer(initiator_sae_id="bank\n"), "matching regex"),
        (transfer(extension={"E9_hurry": 1}), "unknown field"),
        (transfer(ack_calback_url="https://km-east.example/x"), "unknown field"),
        (transfer(ack_callback_url="https://localhost/x"), "configured origin"),
        (transfer()[:-1] + b', "keys": []}', "not of the expected form"),
        (transfer()[:-1] + b', "initiator_sae_id": "sae-alice"}', "two members of one name"),
    ],
)
def test_what_is_not_in_order_is_refused_before_anything_is_kept(borders: Borders, body: bytes, said: str) -> None:
    async def story() -> None:
        async with borders:
            reply = await borders.west.ask(EAST, "POST", form.EXT_KEYS, body)
            assert reply.status == 400
            problem = json.loads(reply.body)
            assert said in problem["detail"]
            assert problem["type"].startswith("https://qkd.etsi.org/gs020-interop-kms/")
            assert (problem["status"], list(problem["details"].values())) == (400, [problem["detail"]])
            assert base64.b64encode(VALUE) not in reply.body
            await asyncio.sleep(0.01)
            assert not borders.west.wire.said
        with sqlite3.connect(borders.west.path) as found:
            assert found.execute("SELECT count(*) FROM received").fetchone() == (0,)
        found.close()

    run(story())


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "detail"),
    [
        (form.EXT_KEYS, transfer(extension_mandatory={"E9_a": 1}), 503, "unsupported-mandatory-extension", "E9_a"),
        (form.EXT_KEYS, transfer(target_sae_ids=[CAROL]), 400, "key-routing-error", "not attached"),
        (form.EXT_KEYS, transfer(target_sae_ids=["x"]), 400, "key-routing-error", "no SAE x"),
        (form.VOID, void(), 400, "no-key-ids-or-confirmation", "all_confirmation must be true"),
        (form.VOID, void(key_ids=None), 400, "invalid-parameter", "missing required field"),
        (form.VOID, void(KEY_ID, extension_optional={"E9_a": 1}), 400, "invalid-parameter", "unknown field"),
        (form.VOID, void(KEY_ID, extension={"a": 1}), 400, "invalid-parameter", "extension 'a'"),
    ],
)
def test_errors_have_the_types_and_statuses_of_the_standard(
    borders: Borders, path: str, body: bytes, status: int, kind: str, detail: str
) -> None:
    async def story() -> None:
        async with borders:
            reply = await borders.west.ask(EAST, "POST", path, body)
            problem = json.loads(reply.body)
            assert (reply.status, problem["type"].rpartition("/")[2]) == (status, kind)
            (told,) = problem["details"].values()
            assert detail in told

    run(story())


def test_without_a_callback_the_answer_is_the_acknowledgement(borders: Borders) -> None:
    async def asked(path: str, body: bytes) -> list[tuple[str, list[str]]]:
        reply = await borders.west.ask(EAST, "POST", path, body)
        assert reply.status == 200
        return [
            (one["ack_status"], [key["key_id"] for key in one["key_id_container"]]) for one in json.loads(reply.body)
        ]

    async def story() -> None:
        async with borders:
            assert await asked(form.EXT_KEYS, transfer(KEY_ID, OTHER_ID, ack_callback_url=None)) == [
                ("relayed", [KEY_ID, OTHER_ID])
            ]
            (found,) = await borders.west.gateway.collect(BOB, ALICE, [KeyId(KEY_ID)])
            assert found.key.reveal() == VALUE
            assert await asked(form.VOID, void(KEY_ID, OTHER_ID, ack_callback_url=None)) == [
                ("failed to void", [KEY_ID]),
                ("voided", [OTHER_ID]),
            ]
            await asyncio.sleep(0.01)
            assert not borders.west.wire.said, "nothing is acknowledged a second time"

    run(story())


def test_an_operator_that_answers_that_it_takes_no_such_request_may_have_taken_it_and_keys_are_void(
    borders: Borders, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with borders:
            answers = borders.west.interface.answer

            async def strange(peer: str, method: str, path: str, body: bytes) -> Reply:
                reply = await answers(peer, method, path, body)
                return Reply(415) if path == form.EXT_KEYS else reply

            monkeypatch.setattr(borders.west.interface, "answer", strange)
            # The acknowledgement of the keys is lost, or it would settle what the answer has not.
            borders.west.wire.lost = lambda _, said: "request" if said == 1 else None
            with pytest.raises(Refusal, match="OPERATOR_REFUSED"):
                await _reserve(borders)
            (key_id,) = borders.east.network.given
            await borders.settle(lambda: _is(borders, key_id, Sending.VOIDED))
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, ALICE, [key_id])

    run(story())


def test_an_sae_that_cannot_be_named_to_others_gets_no_keys_with_theirs(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            borders.east.saes._homes["a bank"] = EAST
            with pytest.raises(Refusal, match="BAD_REQUEST: SAE 'a bank' cannot be named to other operators"):
                await borders.east.gateway.reserve("a bank", [BOB], 1, 256)
            assert borders.east.network.given == []

    run(story())


def test_an_optional_extension_is_no_reason_to_refuse(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            body = transfer(extension_optional={"E9_hurry": {"deep": [1]}})
            assert (await borders.west.ask(EAST, "POST", form.EXT_KEYS, body)).status == 202

    run(story())


@pytest.mark.parametrize(
    ("peer", "method", "path", "status"),
    [
        ("km/stranger", "POST", form.EXT_KEYS, 401),
        ("km/stranger", "GET", form.VERSIONS, 401),
        (WEST, "POST", form.EXT_KEYS, 401),
        (EAST, "GET", form.EXT_KEYS, 405),
        (EAST, "POST", "/kmapi/v2/ext_keys", 404),
    ],
)
def test_strangers_and_strange_requests_are_told_apart(
    borders: Borders, peer: str, method: str, path: str, status: int
) -> None:
    async def story() -> None:
        async with borders:
            assert (await borders.west.ask(peer, method, path, transfer())).status == status

    run(story())


@pytest.mark.parametrize(
    "url",
    [
        "http://km-east.example/kmapi/v1/ext_keys/ack",
        "https://km-east.example:8443/ack",
        "https://km-east.example.evil.example/ack",
        "https://user@km-east.example/ack",
        "https://km-east.example@evil.example/ack",
        "https://evil.example/?https://km-east.example/ack",
        "https://km-east.example\\@evil.example/ack",
        "https://km-east.example/a/../../internal",
        "https://km-east.example/%2e%2e/internal",
        "https://km-east.example/ack?next=https://evil.example",
        "https://km-east.example/ack#fragment",
        "https://km-east.example",
        "https://km-east.example/a\r\nHost: evil",
        "https://km-east.example/\tack",
        "https://[::1/ack",
        "https://km-east.example:port/ack",
        "https://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "//evil.example/ack",
        "https://km-east.example/" + "a" * 1000,
        "",
    ],
)
def test_a_callback_to_any_other_place_than_the_operators_own_is_refused(url: str) -> None:
    with pytest.raises(Refusal, match="CALLBACK_REFUSED"):
        callback_path(Operator(EAST, "https://km-east.example", frozenset()), url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://km-east.example/kmapi/v1/ext_keys/ack", "/kmapi/v1/ext_keys/ack"),
        ("https://KM-East.example:443/elsewhere", "/elsewhere"),
        (None, None),
    ],
)
def test_a_callback_at_the_operators_own_origin_is_taken(url: str | None, path: str | None) -> None:
    assert callback_path(Operator(EAST, "https://km-east.example/", frozenset()), url) == path


def test_an_acknowledgement_of_somebody_else_or_for_others_changes_nothing(borders: Borders) -> None:
    async def story() -> None:
        borders.east.wire.lost = lambda _, __: "request"
        async with borders:
            reserving = asyncio.create_task(_reserve(borders))
            while not borders.east.wire.said:
                await asyncio.sleep(0.005)
            (key_id,) = borders.east.network.given
            for members in ({"initiator_sae_id": CAROL}, {"target_sae_ids": ["sae-other"]}, {"ack_status": "voided"}):
                ack = {"key_id_container": [{"key_id": key_id}], "ack_status": "relayed", "initiator_sae_id": ALICE}
                body = json.dumps([{**ack, "target_sae_ids": [BOB], **members}]).encode()
                assert (await borders.east.ask(WEST, "POST", form.ACK, body)).status == 200
                assert not reserving.done()
                assert await _is(borders, key_id, Sending.SENDING)
            assert (await borders.east.ask(WEST, "POST", form.ACK, b"[]")).status == 200, "nothing is acknowledged"
            for body in (b"{}", b'[{"ack_status": "perhaps"}]'):
                assert (await borders.east.ask(WEST, "POST", form.ACK, body)).status == 400
            reserving.cancel()
            await asyncio.gather(reserving, return_exceptions=True)

    run(story())


def test_an_sae_gets_neither_others_keys_nor_keys_of_another_initiator(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            await borders.west.ask(EAST, "POST", form.EXT_KEYS, transfer())
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await borders.west.gateway.collect(BOB, CAROL, [KeyId(KEY_ID)])
            with pytest.raises(WrongParty):
                await borders.west.gateway.collect(CAROL, ALICE, [KeyId(KEY_ID)])

    run(story())


@pytest.mark.parametrize(
    "asks",
    [
        lambda gateway: gateway.offer(BOB, ALICE),
        lambda gateway: gateway.reserve(BOB, [ALICE], 1, 256),
        lambda gateway: gateway.collect(BOB, ALICE, [KeyId(KEY_ID)]),
    ],
)
def test_a_foreign_sae_asks_for_nothing_here_whatever_certificate_it_has(
    borders: Borders, asks: Callable[..., Any]
) -> None:
    async def story() -> None:
        async with borders:
            with pytest.raises(WrongParty, match="belongs to another operator"):
                await asks(borders.east.gateway)

    run(story())


def test_keys_are_shown_by_no_message_and_no_reply(borders: Borders) -> None:
    key = form.ExtKey(KEY_ID, VALUE)
    container = form.ExtKeyContainer((key,), ALICE, (BOB,))
    assert "32 bytes" in repr(container)
    assert repr(VALUE) not in repr(container)


def test_a_store_of_another_key_encryption_key_does_not_open(borders: Borders) -> None:
    async def story() -> None:
        async with borders:
            pass

    run(story())
    with pytest.raises(StoreError):
        BorderStore(borders.west.path, borders.east.vault, borders.east.entropy)
    borders.west.path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreError):
        BorderStore(borders.west.path, borders.west.vault, borders.west.entropy)
