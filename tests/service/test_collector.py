"""A device fetches its mail: it confirms what it has, and what it can never have; the rest comes again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import cbor2
import pytest
from tests.runtime.held import gather
from tests.service.desks import Desk, run, until
from tests.world import World

from qsotn import wire
from qsotn.adapters.transport.http import HttpPeer, _numbered
from qsotn.app.province import CPE_A, PMP, POMP, QSSP_A, party_folder
from qsotn.domain import PartyId
from qsotn.errors import LineError, StoreError
from qsotn.messages import InitializationDispatch, VoucherDelivery
from qsotn.service import collector as collectors
from qsotn.service.collector import Collector


@dataclass
class FakePmp:
    """A PMP's mailbox: answers from a list, then keeps the device waiting; a question that fails told it nothing."""

    answers: list[list[tuple[int, bytes]] | LineError] = field(default_factory=list)
    confirmed: list[list[int]] = field(default_factory=list)
    asked: int = 0
    party: PartyId = PMP
    deaf: bool = False
    """Whether a question that brings receipts does not come through."""

    async def collect(self, limit: int, received: Sequence[int] = ()) -> list[tuple[int, bytes]]:
        assert limit > 0
        self.asked += 1
        if self.answers and isinstance(self.answers[0], LineError):
            raise self.answers.pop(0)  # type: ignore[misc]  # this one is an error
        if received and self.deaf:
            await asyncio.Event().wait()
        await self.confirm(received)
        while not self.answers:
            await asyncio.sleep(0.005)
        answer = self.answers.pop(0)
        assert not isinstance(answer, LineError)
        return answer

    async def confirm(self, numbers: Sequence[int]) -> None:
        if numbers:
            self.confirmed.append(list(numbers))


@dataclass(frozen=True)
class Mail:
    """What a PMP has for CPE A while it comes into service, in its order."""

    dispatch: bytes
    voucher: bytes


@pytest.fixture
def device(open_world: Callable[..., World]) -> tuple[Mail, Desk]:
    """A device that was asked for nothing yet, and what its PMP will say to it."""
    world = open_world("provisioned")
    world.initialize(CPE_A)
    (dispatch,) = gather(world, CPE_A, InitializationDispatch)
    desk = Desk(world.folder, CPE_A)
    _copy(world, desk)
    (voucher,) = gather(world, CPE_A, VoucherDelivery)
    return Mail(dispatch, voucher), desk


def _copy(world: World, desk: Desk) -> None:
    """Keep the device as it is now in a folder of its own; the world goes on without it."""
    kept = world.folder / "kept"
    shutil.copytree(party_folder(world.folder, CPE_A), party_folder(kept, CPE_A))
    desk.folder = kept


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectors, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(collectors, "LONGEST_PAUSE_S", 0.04)


def told(desk: Desk, pmp: FakePmp, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        await desk.worker.start()
        collector = Collector(desk.worker, cast("HttpPeer", pmp))
        await collector.start()
        try:
            await story()
        finally:
            await collector.stop()
            await desk.worker.stop()

    run(whole())


def test_what_is_taken_is_confirmed_by_its_number(device: tuple[Mail, Desk]) -> None:
    mail, desk = device
    pmp = FakePmp([[(17, mail.dispatch)]])

    async def story() -> None:
        await until(lambda: bool(pmp.confirmed))
        assert pmp.confirmed == [[17]]
        assert await desk.worker.call(lambda node: node.settle()) == 1  # its answer of step 3 waits to be sent

    told(desk, pmp, story)


def test_the_same_mail_again_is_confirmed_again(device: tuple[Mail, Desk]) -> None:
    mail, desk = device
    pmp = FakePmp([[(17, mail.dispatch)], [(17, mail.dispatch), (18, mail.dispatch)]])

    async def story() -> None:
        await until(lambda: len(pmp.confirmed) == 2)
        assert pmp.confirmed == [[17], [17, 18]]

    told(desk, pmp, story)


def test_a_receipt_is_told_once(device: tuple[Mail, Desk]) -> None:
    mail, desk = device
    pmp = FakePmp([[(17, mail.dispatch)], [], []])

    async def story() -> None:
        await until(lambda: pmp.asked == 4)
        assert pmp.confirmed == [[17]]

    told(desk, pmp, story)


def test_what_comes_too_early_stays_and_is_taken_when_its_time_has_come(device: tuple[Mail, Desk]) -> None:
    """The voucher overtakes the dispatch: the device knows neither the procedure nor the PMP's certificate yet."""
    mail, desk = device
    pmp = FakePmp([[(2, mail.voucher)], [(1, mail.dispatch), (2, mail.voucher)]])

    async def story() -> None:
        await until(lambda: bool(pmp.confirmed))
        assert pmp.confirmed == [[1, 2]]
        assert set(desk.node.rejections) == {"BadSignature"}

    told(desk, pmp, story)


def test_what_is_out_of_order_from_a_party_it_knows_stays_too(device: tuple[Mail, Desk], ready: World) -> None:
    """A device whose store has another procedure: the voucher is of none it knows."""
    mail, _ = device
    desk = Desk(ready.folder, CPE_A)
    pmp = FakePmp([[(2, mail.voucher)]])

    async def story() -> None:
        await until(lambda: pmp.asked == 2)
        assert pmp.confirmed == []
        assert desk.node.rejections == {"OutOfOrder": 1}

    told(desk, pmp, story)


NEVER = {
    "noise": b"noise",
    "for another": wire.encode(wire.Datagram("Ax", PMP, PartyId("cpe/qingdao-1"), b"")),
    "from one who did not hand it over": wire.encode(wire.Datagram("Ioa", POMP, CPE_A, b"")),
    "sealed to another": wire.encode(wire.Datagram("Iaq", QSSP_A, CPE_A, bytes(2000))),
}


@pytest.mark.parametrize("name", NEVER)
def test_what_can_never_be_taken_is_confirmed_and_its_neighbours_are_taken(
    device: tuple[Mail, Desk], name: str
) -> None:
    mail, desk = device
    pmp = FakePmp([[(1, NEVER[name]), (2, mail.dispatch), (3, NEVER[name])]])

    async def story() -> None:
        await until(lambda: bool(pmp.confirmed))
        assert pmp.confirmed == [[1, 2, 3]]
        assert desk.node.rejections.total() == 2

    told(desk, pmp, story)


def test_what_came_too_late_is_confirmed(device: tuple[Mail, Desk]) -> None:
    mail, desk = device
    pmp = FakePmp()

    async def story() -> None:
        desk.clock.advance(2 * 3600 * 1_000_000)
        pmp.answers.append([(5, mail.dispatch)])
        await until(lambda: bool(pmp.confirmed))
        assert (pmp.confirmed, desk.node.rejections) == ([[5]], {"ExpiredMessage": 1})

    told(desk, pmp, story)


def test_what_the_devices_own_store_could_not_keep_is_not_confirmed(device: tuple[Mail, Desk]) -> None:
    mail, desk = device
    pmp = FakePmp()

    async def story() -> None:
        def full(what: str) -> None:
            if what == "commit":
                raise StoreError("the disk is full")

        desk.store.fails = full
        pmp.answers.append([(5, mail.dispatch)])
        await until(lambda: pmp.asked == 2)
        assert pmp.confirmed == []
        desk.store.fails = lambda _: None
        pmp.answers.append([(5, mail.dispatch)])
        await until(lambda: bool(pmp.confirmed))
        assert pmp.confirmed == [[5]]

    told(desk, pmp, story)


def test_it_goes_on_when_its_pmp_was_away_and_when_receipts_were_lost(device: tuple[Mail, Desk]) -> None:
    mail, desk = device
    away = LineError("away")
    pmp = FakePmp([away, away, [], [(1, mail.dispatch)], away, away, [(2, mail.dispatch)]])

    async def story() -> None:
        await until(lambda: len(pmp.confirmed) == 2)
        assert (pmp.confirmed, pmp.answers) == ([[1], [2]], [])

    told(desk, pmp, story)


def test_pauses_grow_while_the_pmp_is_away_and_begin_anew_when_it_is_back(
    device: tuple[Mail, Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, desk = device
    away: list[Any] = [LineError("away") for _ in range(4)]
    pmp = FakePmp([*away, [], LineError("away"), []])
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds >= 0.01:
            pauses.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr("qsotn.service.collector.asyncio.sleep", noted)

    async def story() -> None:
        await until(lambda: pmp.asked == 8)

    told(desk, pmp, story)
    assert pauses == [0.01, 0.02, 0.04, 0.04, 0.01]


def test_when_it_stops_it_confirms_what_it_took_last(device: tuple[Mail, Desk]) -> None:
    mail, desk = device
    pmp = FakePmp([[(17, mail.dispatch)]], deaf=True)

    async def story() -> None:
        await until(lambda: pmp.asked == 2)
        assert pmp.confirmed == []

    told(desk, pmp, story)
    assert pmp.confirmed == [[17]]


@pytest.mark.parametrize(
    "answer", [b"\xff", b"\x82\x01", b"\x18", cbor2.dumps([1, 2]), cbor2.dumps(["1", b""]), cbor2.dumps(b"")]
)
def test_a_mailbox_that_answers_with_something_else_is_a_line_that_failed(answer: bytes) -> None:
    """Not a defect: the device asks again later."""
    with pytest.raises(LineError, match="the mailbox holds"):
        _numbered(answer)


def test_a_mailbox_is_a_sequence_of_numbered_datagrams() -> None:
    assert _numbered(cbor2.dumps([7, b"a"]) + cbor2.dumps([9, b""])) == [(7, b"a"), (9, b"")]
    assert _numbered(b"") == []
