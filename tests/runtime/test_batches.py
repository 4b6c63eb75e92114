"""Many datagrams in one transaction: what comes of them is what comes of the same datagrams one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from tests.procedures.liars import refuse_everything, retold
from tests.runtime.held import gather, outbox, take
from tests.runtime.rounds import Item, Rounds
from tests.runtime.shapes import shapes
from tests.world import Sent, World, Worlds, whole_story

from qsotn import wire
from qsotn.app.province import CPE_A, CPE_B, LINE, PMP, POMP, QSSP_A, SERIALS
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import (
    BadProof,
    BadSignature,
    MalformedMessage,
    ReplayedMessage,
    WrongParty,
)
from qsotn.interfaces import IOQ, Seat
from qsotn.messages import (
    BindingResponse,
    BindingRevocation,
    InitializationResponse,
    ProcedureRefusal,
    RegistrationReport,
    ServiceReport,
    ServiceResponse,
    SessionKeyAgreement,
)
from qsotn.parties.pomp import LineState
from qsotn.ports import StoredRow
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.turn import Row, State, read_row
from qsotn.runtime.outcomes import Intake

# --- a whole run ------------------------------------------------------------------------------------------------------


class Meddler:
    """Puts forged, repeated, belated and early datagrams into a batch, and says what each must come to."""

    def __init__(self, world: World, chance: random.Random, elsewhere: Sequence[Sent]) -> None:
        self._world, self._chance = world, chance
        self._elsewhere = elsewhere
        self._delivered: dict[PartyId, list[Item]] = {}

    def __call__(self, hop: PartyId, honest: Sequence[Item]) -> list[Item]:
        kinds = (self._forged, self._again, self._early, self._twice)
        bad = [item for kind in kinds if self._chance.random() < 0.4 for item in kind(hop, honest)]
        self._delivered.setdefault(hop, []).extend(honest)
        return bad

    def _forged(self, _: PartyId, honest: Sequence[Item]) -> list[Item]:
        data, bearer = self._chance.choice(honest)
        datagram = wire.unpack(data)
        bent = bytearray(datagram.body)
        bent[self._chance.randrange(len(bent))] ^= 1 << self._chance.randrange(8)
        if wire.interface_of(data) == "Iaq":
            return [(b"noise" + data, bearer)]  # a courier cannot tell a forged sealed datagram from an honest one
        return [(wire.encode(msgspec.structs.replace(datagram, body=bytes(bent))), bearer)]

    def _again(self, hop: PartyId, _: Sequence[Item]) -> list[Item]:
        # What is said again to a device whose gate is shut is refused for as long as it lives: the run would not end.
        earlier = self._delivered.get(hop, []) if self._world.line_state() is not LineState.DELETED else []
        return [self._chance.choice(earlier)] if earlier else []

    def _early(self, hop: PartyId, honest: Sequence[Item]) -> list[Item]:
        mine = [sent.data for sent in self._elsewhere if sent.hop == hop]
        return [(self._chance.choice(mine), honest[0][1])] if mine else []

    def _twice(self, _: PartyId, honest: Sequence[Item]) -> list[Item]:
        return [self._chance.choice(honest)]


class WatchedStore:
    """A store that looks at every row that is put into it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.versions: dict[str, int] = {}
        self.written = 0

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self.inner.transaction() as transaction:
            yield WatchedTransaction(self, transaction)

    def close(self) -> None:
        self.inner.close()


class WatchedTransaction:
    def __init__(self, store: WatchedStore, inner: Any) -> None:
        self._store, self._inner = store, inner
        self._put: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put_row(self, stored: StoredRow) -> None:
        row, old = read_row(stored.content), self._inner.row(stored.procedure, stored.seat)
        before = Row(row.procedure, row.ladder, row.seat, "", {}, 0, 0) if old is None else read_row(old)
        assert row.key not in self._put, "written twice in one transaction"
        assert row.version == before.version + 1
        assert msgspec.structs.replace(row, version=before.version) != before, "written without a change"
        self._put.add(row.key)
        self._store.written += 1
        self._inner.put_row(stored)


def watched(world: World) -> list[WatchedStore]:
    stores = []
    for node in world.nodes.values():
        node._store = WatchedStore(node._store)
        stores.append(node._store)
    return stores


def told(world: World, rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The shape of a province after the whole story."""
    stores = watched(world)
    rounds.install(monkeypatch)
    whole_story(world)
    assert set(world.states().values()) == {"COMPLETED"}
    assert all(store.written for store in stores)
    monkeypatch.undo()
    return shapes(world)


@pytest.fixture(scope="module")
def one_by_one(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole run in which every datagram has a transaction of its own: its shape, and what was sent in it."""
    world = worlds.begin(worlds.provisioned, tmp_path_factory.mktemp("one") / "world", seed=77)
    with pytest.MonkeyPatch.context() as patch:
        came_to = told(world, Rounds(world, 1, random.Random(0)), patch)
    sent = [
        Sent(wire.unpack(data).sender, PartyId(hop), data)
        for store in world.province.stores.values()
        for hop, data in store._connection.execute("SELECT next_hop, datagram FROM outbox")
    ]
    early = [one for one in sent if one.hop == wire.unpack(one.data).receiver and not _begins(world, one)]
    world.close()
    return came_to, early


def _begins(world: World, sent: Sent) -> bool:
    """Whether a datagram would begin a procedure wherever it came."""
    content = world.opened(sent.data).envelope
    return LADDERS[content.ladder].inbound(content.receiver_seat)[0].label == content.step


@pytest.mark.parametrize("seed", range(2))
def test_a_run_in_batches_comes_to_what_it_comes_to_one_by_one(
    open_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, one_by_one: Any, seed: int
) -> None:
    world = open_world("provisioned", seed=seed)
    rounds = Rounds(world, 64, random.Random(seed))
    assert told(world, rounds, monkeypatch) == one_by_one[0]
    assert max(rounds.batches) > 1
    assert not any(node.rejections for node in world.nodes.values())


@pytest.mark.parametrize("seed", range(2))
def test_what_is_forged_repeated_early_or_doubled_in_a_batch_changes_nothing_of_what_the_others_come_to(
    open_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, one_by_one: Any, seed: int
) -> None:
    expected, elsewhere = one_by_one
    world, chance = open_world("provisioned", seed=seed), random.Random(seed)
    rounds = Rounds(world, 64, chance, Meddler(world, chance, elsewhere))
    assert told(world, rounds, monkeypatch) == expected
    assert rounds.meddled > 100
    refused = set().union(*(node.rejections for node in world.nodes.values()))
    assert {"MalformedMessage", "BadSignature", "OutOfOrder"} <= refused
    assert "ReplayedMessage" not in refused


# --- one batch --------------------------------------------------------------------------------------------------------


def bent(data: bytes) -> bytes:
    return wire.encode(msgspec.structs.replace(wire.unpack(data), body=wire.unpack(data).body[:-1] + b"\0"))


@pytest.fixture
def answers(ready: World) -> list[bytes]:
    """Both devices' answers of step 3 of a line, on their way to the PMP."""
    ready.order_line()
    return gather(ready, PMP, ServiceResponse)


def test_both_ends_answers_in_one_batch_open_the_barrier_once(ready: World, answers: list[bytes]) -> None:
    procedure = ready.opened(answers[0]).envelope.procedure
    before = ready.row(PMP, procedure)
    intake = take(ready, PMP, *answers)
    assert (intake.taken, intake.refused) == ({0: procedure, 1: procedure}, {})
    row = ready.row(PMP, procedure)
    assert row.version == before.version + 1
    assert {"3:cpe-a", "3:cpe-b"} <= row.heard.keys()
    assert outbox(ready, PMP).count((POMP, ServiceReport.__name__)) == 1
    with ready.province.stores[PMP].transaction() as transaction:
        assert [one.sender for one in transaction.taken(procedure) if one.number == 3] == [
            ready.opened(data).envelope.sender for data in answers
        ]


def test_one_that_is_refused_does_not_disturb_its_neighbours(ready: World, answers: list[bytes]) -> None:
    one, other = answers
    intake = take(ready, PMP, bent(one), one, b"noise", bent(other), other)
    assert set(intake.taken) == {1, 4}
    assert {at: type(error) for at, error in intake.refused.items()} == {
        0: BadSignature,
        2: MalformedMessage,
        3: BadSignature,
    }
    assert ready.nodes[PMP].rejections == {"BadSignature": 2, "MalformedMessage": 1}
    assert outbox(ready, PMP).count((POMP, ServiceReport.__name__)) == 1


def test_what_one_had_written_when_it_was_refused_is_undone_before_the_next(ready: World, answers: list[bytes]) -> None:
    """The PMP keeps a device's answer, and then finds that it proves another token."""
    one, other = answers
    wrong = retold(ready, Sent(CPE_A, PMP, one), body={"token_digest": bytes(48)})
    intake = take(ready, PMP, wrong, other)
    assert (set(intake.taken), type(intake.refused[0])) == ({1}, BadProof)
    with ready.desk(PMP) as pmp:
        assert set(pmp.reservations.require(LINE).responses) == {ready.opened(other).envelope.sender}
    assert set(take(ready, PMP, one).taken) == {0}


def test_the_same_datagram_several_times_in_a_batch_is_taken_once(ready: World, answers: list[bytes]) -> None:
    one, other = answers
    intake = take(ready, PMP, one, one, other, one, other)
    assert set(intake.taken) == set(range(5))
    assert outbox(ready, PMP).count((POMP, ServiceReport.__name__)) == 1
    procedure = ready.opened(one).envelope.procedure
    with ready.province.stores[PMP].transaction() as transaction:
        assert len([taken for taken in transaction.taken(procedure) if taken.number == 3]) == 2


def test_another_version_of_a_message_in_the_same_batch_is_a_replay(ready: World, answers: list[bytes]) -> None:
    one, other = answers
    again = retold(ready, Sent(CPE_A, PMP, one), nonce=bytes(16))
    intake = take(ready, PMP, one, again, other)
    assert set(intake.taken) == {0, 2}
    assert type(intake.refused[1]) is ReplayedMessage


def test_a_courier_passes_on_once_what_comes_twice_in_a_batch(ready: World) -> None:
    sealed = wire.encode(wire.Datagram("Iaq", CPE_A, QSSP_A, b"sealed"))
    other = wire.encode(wire.Datagram("Iaq", CPE_A, QSSP_A, b"other"))
    take(ready, PMP, sealed, other, sealed)
    take(ready, PMP, sealed)
    rows = ready.province.stores[PMP]._connection.execute("SELECT datagram FROM outbox").fetchall()
    assert [data for (data,) in rows].count(sealed) == [data for (data,) in rows].count(other) == 1


# --- a decision, and what hangs on it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [True, False], ids=["in one batch", "one by one"])
def test_a_step_that_decides_no_is_undone_alone_and_its_refusal_told(
    open_world: Callable[..., World], batched: bool
) -> None:
    """Both devices state who they are; the PMP has heard that one of them is revoked."""
    world = open_world("provisioned")
    procedures = {cpe: world.initialize(cpe) for cpe in (CPE_A, CPE_B)}
    statements = gather(world, PMP, InitializationResponse)
    with world.desk(PMP) as pmp:
        pmp.revoke(CPE_A, SERIALS[CPE_A])
    for group in [statements] if batched else [[data] for data in statements]:
        assert not take(world, PMP, *group).refused
    assert (world.row(PMP, procedures[CPE_A]).state, world.row(PMP, procedures[CPE_A]).failure) == (
        State.FAILED,
        "DEVICE_REVOKED",
    )
    assert world.row(PMP, procedures[CPE_B]).state is State.RUNNING
    with world.desk(PMP) as pmp:
        assert [known.cpe for known in pmp.registrations.values()] == [CPE_B]
    refusals = [(hop, name) for hop, name in outbox(world, PMP) if name == ProcedureRefusal.__name__]
    assert sorted(refusals) == [(CPE_A, ProcedureRefusal.__name__), (POMP, ProcedureRefusal.__name__)]


@pytest.mark.parametrize("batched", [True, False], ids=["in one batch", "one by one"])
def test_a_row_that_fails_later_in_the_batch_tells_whom_it_had_just_spoken_to(
    open_world: Callable[..., World], batched: bool
) -> None:
    """The PMP reports a device, and gives up the moment after: the QSSP has been asked, and must hear of it."""
    world = open_world("provisioned")
    procedure = world.initialize(CPE_A)
    (report,) = gather(world, POMP, RegistrationReport)
    refuse_everything(world, PMP)
    (refusal,) = set(gather(world, POMP, RegistrationReport, ProcedureRefusal)) - {report}
    for group in [[report, refusal]] if batched else [[report], [refusal]]:
        assert not take(world, POMP, *group).refused
    assert world.row(POMP, procedure).failure == "SPITE"
    told_to_qssp = [name for hop, name in outbox(world, POMP) if hop == QSSP_A]
    assert told_to_qssp == ["BindingRequest", "ProcedureRefusal"]
    world.settle()
    assert world.row(QSSP_A, procedure).failure == "SPITE"


@pytest.mark.parametrize("batched", [True, False], ids=["in one batch", "one by one"])
@pytest.mark.parametrize("quoted", [b"", bytes(48)])
def test_nobody_answers_a_message_that_is_not_signed_yet(
    open_world: Callable[..., World], batched: bool, quoted: bytes
) -> None:
    """A QSSP that guesses it will be asked answers in the batch that makes the POMP ask."""
    world = open_world("provisioned")
    procedure = world.initialize(CPE_A)
    (report,) = gather(world, POMP, RegistrationReport)
    answer = _guessed(world, procedure, quoted)
    intakes = [take(world, POMP, *group) for group in ([[report, answer]] if batched else [[report], [answer]])]
    (error,) = [error for intake in intakes for error in intake.refused.values()]
    assert type(error) is WrongParty
    assert "6:qssp" not in world.row(POMP, procedure).heard


def _guessed(world: World, procedure: ProcedureId, quoted: bytes) -> bytes:
    now = world.clock()
    content = wire.Envelope(
        version=wire.VERSION,
        interface=IOQ.name,
        procedure=procedure,
        ladder="initialization",
        step="6",
        message=BindingResponse.__name__,
        sender=QSSP_A,
        receiver=POMP,
        sender_seat=Seat.QSSP,
        receiver_seat=Seat.POMP,
        issued_at=now,
        expires_at=now + 1_000_000,
        nonce=bytes(16),
        answers=quoted,
        body=wire.body_of(BindingResponse(CPE_A, "binding", bytes(32), "file", bytes(48))),
    )
    return wire.encode(wire.pack(IOQ, content, wire.sign(world.nodes[QSSP_A].identity, content), None))


# --- what cannot be answered ------------------------------------------------------------------------------------------


@pytest.fixture
def unanswerable(encrypted: World) -> tuple[World, bytes, bytes]:
    """Two datagrams for a QSSP: one whose answer is sealed to a device it has lost the certificate of, and another."""
    world = encrypted
    world.order_rekey()
    (agreement,) = gather(world, QSSP_A, SessionKeyAgreement)
    with world.desk(QSSP_A) as qssp:
        qssp.desk.certificates.delete(CPE_A)
    return world, agreement, _revocation(world)


def _revocation(world: World) -> bytes:
    """The POMP has another device of this city revoked."""
    now = world.clock()
    content = wire.Envelope(
        version=wire.VERSION,
        interface=IOQ.name,
        procedure=ProcedureId("00000000-0000-4000-8000-00000000000a"),
        ladder="revocation",
        step="3",
        message=BindingRevocation.__name__,
        sender=POMP,
        receiver=QSSP_A,
        sender_seat=Seat.POMP,
        receiver_seat=Seat.QSSP,
        issued_at=now,
        expires_at=now + 1_000_000,
        nonce=bytes(16),
        answers=b"",
        body=wire.body_of(BindingRevocation(PartyId("cpe/jinan-9"))),
    )
    return wire.encode(wire.pack(IOQ, content, wire.sign(world.nodes[POMP].identity, content), None))


def test_a_batch_with_something_that_cannot_be_answered_is_taken_by_nobody_and_singly_by_the_others(
    unanswerable: tuple[World, bytes, bytes],
) -> None:
    world, agreement, other = unanswerable
    before, counted = world.dump(QSSP_A), world.nodes[QSSP_A].rejections.copy()
    for order in ((agreement, other), (other, agreement)):
        with pytest.raises(BadSignature):
            take(world, QSSP_A, *order)
        assert world.dump(QSSP_A) == before
        assert world.nodes[QSSP_A].rejections == counted  # nobody knows yet whose fault it is
    with pytest.raises(BadSignature):
        take(world, QSSP_A, agreement)
    assert world.dump(QSSP_A) == before
    assert world.nodes[QSSP_A].rejections["BadSignature"] == counted["BadSignature"] + 1
    assert not take(world, QSSP_A, other).refused


def test_an_empty_batch_is_nothing(ready: World) -> None:
    before = ready.dump(PMP)
    assert take(ready, PMP) == Intake({}, {})
    assert ready.dump(PMP) == before
