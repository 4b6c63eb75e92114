"""ETSI GS QKD 020: keys of another operator go on to the key manager of this network at which their SAE is.

The way on is a key manager in memory that answers as it is told; with real ones it is walked in `test_wired`.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.service.interoperation.border import ALICE, BOB, EAST, WEST, Borders, run
from tests.service.interoperation.test_etsi020 import KEY_ID, OTHER_ID, VALUE, acks, transfer, void

from qsotn.domain import KeyId, PartyId
from qsotn.errors import LineError, Refusal
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.delivery.assignments import Named
from qsotn.service.interoperation import etsi020_messages as form
from qsotn.service.interoperation import relayed, relaying
from qsotn.service.interoperation.relayed import Way

BRANCH, DEPOT = "branch", "depot"
"""Attached at another key manager of the west."""
FAR = PartyId("km/far")


@dataclass
class FarKeyManager:
    """Where keys wait for the branch and the depot, by the number of their pad."""

    waiting: dict[int, tuple[str, tuple[str, ...], ReadyKey]] = field(default_factory=dict)
    failure: Exception | None = None
    answer_lost: bool = False
    next: int = 0
    withdrawn: list[int] = field(default_factory=list)

    def leads_to(self, sae: str) -> bool:
        return sae in (BRANCH, DEPOT)

    async def pass_on(
        self,
        initiator: str,
        slaves: Sequence[str],
        keys: Sequence[ReadyKey],
        noted: Callable[[Named], Awaitable[None]],
    ) -> None:
        numbers = tuple(range(self.next, self.next + len(keys)))
        self.next += len(keys)
        await noted(Named(FAR, 1, numbers))
        if self.failure is not None:
            raise self.failure
        held = {key.key_id for _, _, key in self.waiting.values()}
        if held & {key.key_id for key in keys}:
            raise Refusal("KEY_REUSED", "a key by one of these names was assigned here before")
        for number, key in zip(numbers, keys, strict=True):
            self.waiting[number] = (initiator, tuple(slaves), key)
        if self.answer_lost:
            raise LineError("the answer was lost")

    async def withdraw(self, home: PartyId, pads: Sequence[Named]) -> None:
        assert home == FAR
        if isinstance(self.failure, LineError):
            raise self.failure
        for number in (number for pad in pads for number in pad.numbers):
            self.withdrawn.append(number)
            self.waiting.pop(number, None)

    def holds(self) -> dict[str, bytes]:
        return {key.key_id: key.key.reveal() for _, _, key in self.waiting.values()}


@dataclass
class West:
    borders: Borders
    far: FarKeyManager

    async def ask(self, path: str, body: bytes) -> Any:
        reply = await self.borders.west.ask(EAST, "POST", path, body)
        return reply.status, json.loads(reply.body) if reply.body else None

    async def round(self) -> None:
        assert self.borders.west.relaying is not None
        await self.borders.west.relaying.round()

    async def told(self, count: int) -> list[tuple[str, list[str]]]:
        async def enough() -> bool:
            return len(acks(self.borders.west.wire)) >= count

        await self.borders.settle(enough)
        return acks(self.borders.west.wire)


@pytest.fixture
def west(tmp_path: Path) -> West:
    borders, far = Borders(tmp_path), FarKeyManager()
    borders.west.saes._homes.update({BRANCH: FAR, DEPOT: FAR})
    borders.west.onward = far
    return West(borders, far)


def test_a_key_is_acknowledged_when_its_saes_key_manager_has_it_and_is_then_nowhere_here(west: West) -> None:
    async def story() -> None:
        async with west.borders:
            asked = transfer(KEY_ID, OTHER_ID, target_sae_ids=[BRANCH])
            assert await west.ask(form.EXT_KEYS, asked) == (202, None)
            assert not west.borders.west.wire.said, "it is not there yet"
            assert west.far.waiting == {}
            await west.round()
            assert await west.told(1) == [("relayed", [KEY_ID, OTHER_ID])]
            assert west.far.holds() == {KEY_ID: VALUE, OTHER_ID: VALUE}
            assert {(one, slaves) for one, slaves, _ in west.far.waiting.values()} == {(ALICE, (BRANCH,))}
            assert await west.ask(form.EXT_KEYS, asked) == (202, None)
            assert (await west.told(2))[1] == ("relayed", [KEY_ID, OTHER_ID]), "a repetition is acknowledged again"
            assert west.far.next == 2, "and goes nowhere again"
            with pytest.raises(Refusal, match="KEYS_NOT_FOUND"):
                await west.borders.west.gateway.collect(BOB, ALICE, [KeyId(KEY_ID)])
        everything = b"".join(path.read_bytes() for path in west.borders.west.folder.iterdir())
        assert VALUE not in everything
        assert base64.b64encode(VALUE) not in everything
        with sqlite3.connect(west.borders.west.path) as found:
            assert found.execute("SELECT count(*) FROM received WHERE wrapped IS NOT NULL").fetchone() == (0,)
        found.close()

    run(story())


def test_a_key_for_saes_here_and_there_is_acknowledged_for_each_when_it_is_there(west: West) -> None:
    async def story() -> None:
        async with west.borders:
            await west.ask(form.EXT_KEYS, transfer(target_sae_ids=[BOB, BRANCH, DEPOT]))
            said = json.loads(west.borders.west.wire.said[0][1]) if await west.told(1) else []
            assert [one["target_sae_ids"] for one in said] == [[BOB]]
            (found,) = await west.borders.west.gateway.collect(BOB, ALICE, [KeyId(KEY_ID)])
            assert found.key.reveal() == VALUE
            await west.round()
            assert await west.told(3) == [("relayed", [KEY_ID])] * 3
            assert [slaves for _, slaves, _ in west.far.waiting.values()] == [(BRANCH, DEPOT)], "one key, one pad"

    run(story())


@pytest.mark.parametrize("failure", [Refusal("KEY_SHORTAGE", "too few"), LineError("no answer")])
def test_what_cannot_go_on_now_goes_on_later_or_has_failed_after_a_minute(west: West, failure: Exception) -> None:
    async def story() -> None:
        async with west.borders:
            west.far.failure = failure
            await west.ask(form.EXT_KEYS, transfer(target_sae_ids=[BRANCH]))
            await west.round()
            await west.round()
            assert not west.borders.west.wire.said
            west.far.failure = None
            await west.round()
            assert await west.told(1) == [("relayed", [KEY_ID])]
            west.far.failure = failure
            await west.ask(form.EXT_KEYS, transfer(OTHER_ID, target_sae_ids=[BRANCH]))
            west.borders.clock.pass_s(relaying.TRIED_S)
            await west.round()
            assert (await west.told(2))[1] == ("failed", [OTHER_ID])
            west.far.failure = None
            await west.round()
            assert set(west.far.holds()) == {KEY_ID}, "what has failed is not tried again"

    run(story())


def test_what_is_refused_for_good_has_failed_at_once(west: West) -> None:
    async def story() -> None:
        async with west.borders:
            west.far.failure = Refusal("KEY_REUSED", "a key of this network has one of these IDs")
            await west.ask(form.EXT_KEYS, transfer(target_sae_ids=[BRANCH]))
            await west.round()
            assert await west.told(1) == [("failed", [KEY_ID])]

    run(story())


@pytest.mark.parametrize("killed", [False, True])
def test_a_key_whose_arrival_is_not_known_is_withdrawn_before_it_goes_again(west: West, killed: bool) -> None:
    async def story() -> None:
        async with west.borders:
            west.far.answer_lost = True
            await west.ask(form.EXT_KEYS, transfer(KEY_ID, OTHER_ID, target_sae_ids=[BRANCH]))
            await west.round()
            assert set(west.far.waiting) == {0, 1}
            if killed:
                await west.borders.west.again()
            west.far.answer_lost = False
            await west.round()
            assert west.far.withdrawn == [0, 1]
            assert set(west.far.waiting) == {2, 3}
            assert await west.told(1) == [("relayed", [KEY_ID, OTHER_ID])]

    run(story())


# --- void -------------------------------------------------------------------------------------------------------------


def test_a_key_that_went_nowhere_yet_is_void_at_once(west: West) -> None:
    async def story() -> None:
        async with west.borders:
            await west.ask(form.EXT_KEYS, transfer(target_sae_ids=[BRANCH]))
            await west.ask(form.VOID, void(KEY_ID, target_sae_ids=[BRANCH]))
            assert await west.told(1) == [("voided", [KEY_ID])]
            await west.round()
            assert west.far.next == 0

    run(story())


def test_a_key_that_may_be_there_is_void_when_its_key_manager_says_so(west: West) -> None:
    async def story() -> None:
        async with west.borders:
            west.far.answer_lost = True
            await west.ask(form.EXT_KEYS, transfer(target_sae_ids=[BRANCH]))
            await west.round()
            await west.ask(form.VOID, void(KEY_ID, target_sae_ids=[BRANCH]))
            west.far.failure = LineError("no answer")
            await west.round()
            assert not west.borders.west.wire.said
            west.far.failure = None
            await west.round()
            assert await west.told(1) == [("voided", [KEY_ID])]
            assert west.far.waiting == {}
            await west.ask(form.EXT_KEYS, transfer(target_sae_ids=[BRANCH]))
            assert (await west.told(2))[1] == ("failed", [KEY_ID]), "what is void stays void"

    run(story())


def test_of_a_key_that_was_acknowledged_nobody_knows_here_whether_it_was_given(west: West) -> None:
    async def story() -> None:
        async with west.borders:
            await west.ask(form.EXT_KEYS, transfer(KEY_ID, OTHER_ID, target_sae_ids=[BRANCH]))
            await west.round()
            await west.ask(form.VOID, void(KEY_ID, target_sae_ids=[BRANCH]))
            await west.round()
            assert (await west.told(2))[1] == ("failed to void", [KEY_ID])
            assert set(west.far.holds()) == {OTHER_ID}, "it cannot be had any more, and the other one can"
            for _ in range(2):
                await west.ask(form.VOID, void(KEY_ID, target_sae_ids=[BRANCH]))
            assert (await west.told(4))[2:] == [("failed to void", [KEY_ID])] * 2
            await west.ask(form.VOID, void(target_sae_ids=[BRANCH], all_confirmation=True))
            await west.round()
            assert (await west.told(5))[4] == ("failed to void", [OTHER_ID])
            assert west.far.waiting == {}

    run(story())


# --- the synchronous mode ---------------------------------------------------------------------------------------------


def test_in_the_synchronous_mode_the_answer_waits_for_the_way_and_is_503_while_it_is_not_open(west: West) -> None:
    async def story() -> None:
        async with west.borders:
            asked = transfer(target_sae_ids=[BRANCH], ack_callback_url=None)
            west.far.failure = LineError("no answer")
            status, problem = await west.ask(form.EXT_KEYS, asked)
            assert (status, problem["type"].rpartition("/")[2]) == (503, "server-side-general-error")
            west.far.failure = None
            status, told = await west.ask(form.EXT_KEYS, asked)
            assert (status, told[0]["ack_status"], told[0]["target_sae_ids"]) == (200, "relayed", [BRANCH])
            status, told = await west.ask(form.VOID, void(KEY_ID, target_sae_ids=[BRANCH], ack_callback_url=None))
            assert (status, told[0]["ack_status"]) == (200, "failed to void")
            await west.round()
            assert west.far.waiting == {}
            assert not west.borders.west.wire.said

    run(story())


# --- who --------------------------------------------------------------------------------------------------------------


def test_there_is_a_way_only_to_saes_of_key_managers_that_can_be_asked(west: West) -> None:
    async def story() -> None:
        west.borders.west.saes._homes["lost"] = PartyId("km/nowhere")
        async with west.borders:
            for target in ("lost", "sae-alice-2", ALICE + "x"):
                status, problem = await west.ask(form.EXT_KEYS, transfer(target_sae_ids=[target]))
                assert (status, problem["type"].rpartition("/")[2]) == (400, "key-routing-error")
            status, _ = await west.ask(form.EXT_KEYS, transfer(initiator_sae_id=BOB, target_sae_ids=[BRANCH]))
            assert status == 400, "an operator speaks for its own SAEs"
        assert west.far.next == 0

    run(story())


def test_where_a_key_came_from_is_told_by_its_pad(west: West) -> None:
    async def story() -> None:
        async with west.borders:
            await west.ask(form.EXT_KEYS, transfer(target_sae_ids=[BRANCH]))
            assert await west.borders.west.store.call(lambda store: relayed.origin(store, KEY_ID)) is None
            await west.round()
            found = await west.borders.west.store.call(lambda store: relayed.origin(store, KEY_ID))
            assert found == (EAST, Named(FAR, 1, (0,)))

    run(story())


def test_an_account_of_a_way_is_what_it_was() -> None:
    way = Way("/ack", (Named(FAR, 1, (4, 7)),), void=True)
    assert relayed.way_of(relayed.written(way)) == way
    assert WEST != FAR
