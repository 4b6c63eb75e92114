"""New keys by the operator's word: answered when the line is encrypted with them, or failed with their rekey."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import msgspec
import pytest
from tests.procedures.liars import Lie, find, lie_before, retold, signed_in
from tests.world import LIFETIME_US, Faults, Sent, World, Worlds

from qsotn import wire
from qsotn.app.province import CPE_A, CPE_B, LINE, PARTIES, PMP, POMP
from qsotn.app.report import steps_taken
from qsotn.domain import LineId, ProcedureId, Role
from qsotn.errors import BadSignature, LineError, Refusal, ReplayedMessage, WrongParty
from qsotn.interfaces import IAQ
from qsotn.messages import (
    DeletionConfirmation,
    Message,
    RekeyDispatch,
    RekeyReport,
    RekeyRequest,
    RekeyResponse,
    SessionKeyDelivery,
)
from qsotn.parties import cpe as cpe_records
from qsotn.parties.cpe import GenerationState
from qsotn.parties.pomp import LineState
from qsotn.procedures import deletion, leased_line
from qsotn.procedures.turn import State
from qsotn.runtime.node import LAST_RETRY_US

STEPS = """
1 RekeyRequest  pomp/shandong pmp/shandong
2 RekeyDispatch pmp/shandong  cpe/jinan-1
3 RekeyResponse cpe/jinan-1   pmp/shandong
4 RekeyReport   pmp/shandong  pomp/shandong
"""


def ends(world: World, procedure: ProcedureId) -> set[str]:
    """How each party's part of a procedure stands."""
    rows = [row for party in PARTIES for row in world.rows(party) if row.procedure == procedure]
    return {row.failure if row.state is State.FAILED else row.state.value for row in rows}


def generations(world: World) -> tuple[int, int]:
    """Which generation the POMP was told of, and which one end A encrypts with."""
    with world.desk(POMP) as pomp, world.desk(CPE_A) as cpe:
        return pomp.lines.require(LINE).generation, cpe.lines.require(LINE).active


def carry_out(world: World) -> None:
    """Let the line run until nobody has anything under way."""
    world.run_line(lambda: not world.running())
    world.settle()


def only(message: type[Message]) -> Callable[[World, Sent], bool]:
    return lambda world, sent: isinstance(world.opened(sent.data).message, message)


def hold(world: World, held: Callable[[World, Sent], bool]) -> None:
    """Lose some datagrams until the wire is free again."""

    def lose(sent: Sent) -> None:
        if held(world, sent):
            raise LineError("held back")

    world.wire.before = lose


def free(world: World) -> None:
    world.wire.before = lambda _: None


def run(world: World, rounds: int) -> None:
    for _ in range(rounds):
        world.pump()


# --- well -------------------------------------------------------------------------------------------------------------


def test_all_four_steps_are_taken_in_order_by_the_parties_of_the_ladder(encrypted: World) -> None:
    procedure = encrypted.order_rekey()
    carry_out(encrypted)
    taken = [
        f"{step.n} {part.message} {part.sender} {part.receiver}".split()
        for step in steps_taken(encrypted.province, procedure)
        for part in step.parts
    ]
    assert taken == [line.split() for line in STEPS.strip().splitlines()]
    assert ends(encrypted, procedure) == {"COMPLETED"}
    assert not any(node.rejections for node in encrypted.nodes.values())


def test_an_order_is_answered_when_the_line_is_encrypted_with_the_new_keys_and_not_before(encrypted: World) -> None:
    procedure = encrypted.order_rekey()
    encrypted.settle()  # the keys are at both devices, and the line carries nothing in between
    assert encrypted.row(POMP, procedure).state is State.RUNNING
    assert generations(encrypted) == (1, 1)
    carry_out(encrypted)
    assert encrypted.row(POMP, procedure).state is State.COMPLETED
    assert generations(encrypted) == (2, 2)
    with encrypted.desk(CPE_A) as cpe:
        assert list(cpe.rekey_orders.values()) == []


def test_the_first_keys_that_a_line_is_encrypted_with_need_not_be_the_first_that_were_drawn(ready: World) -> None:
    """A device restarts with keys that it never used: the line begins with later ones, and the POMP knows."""
    ready.order_line()
    ready.settle()
    ready.connect()
    ready.turn()
    ready.restart(CPE_A)
    ready.encrypt()
    assert generations(ready) == (2, 2)


def test_a_rekey_that_the_device_asks_for_itself_answers_no_order(encrypted: World) -> None:
    encrypted.rekey()
    assert not [row for party in PARTIES for row in encrypted.rows(party) if row.ladder == "rekey-order"]
    assert generations(encrypted) == (1, 2)


@pytest.mark.parametrize("seed", range(2))
def test_an_order_is_carried_out_once_whatever_is_lost_doubled_reordered_or_killed(
    open_world: Callable[..., World], seed: int
) -> None:
    world = open_world("ready", seed=seed)
    world.order_line()
    world.settle()
    world.connect()
    world.encrypt()
    world.wire.faults = Faults(loss=0.2, receipt_loss=0.2, duplicate=0.2, delay=0.2, crash=0.02)
    procedure = world.order_rekey()
    world.run_line(lambda: world.row(POMP, procedure).state is not State.RUNNING, turns=3000)
    world.wire.faults = Faults()
    world.settle()
    assert ends(world, procedure) == {"COMPLETED"}
    recorded, active = generations(world)
    assert 2 <= recorded <= active
    assert set().union(*(node.rejections for node in world.nodes.values())) <= {"OutOfOrder"}


# --- not well ---------------------------------------------------------------------------------------------------------


def test_a_rekey_that_times_out_fails_its_order_everywhere_and_the_next_order_succeeds(encrypted: World) -> None:
    """The device's request never reaches its QSSP: nobody but the device, and its clock, knows of the rekey."""
    hold(encrypted, lambda _, sent: wire.unpack(sent.data).interface == IAQ.name)
    procedure = encrypted.order_rekey()
    run(encrypted, 20)
    encrypted.clock.advance(LIFETIME_US)
    free(encrypted)
    encrypted.nodes[CPE_A].tick()
    encrypted.settle()
    assert ends(encrypted, procedure) == {"TIMEOUT"}
    with encrypted.desk(CPE_A) as cpe:
        assert list(cpe.rekey_orders.values()) == []
    again = encrypted.order_rekey()
    carry_out(encrypted)
    assert ends(encrypted, again) == {"COMPLETED"}


@pytest.mark.parametrize("message", [RekeyRequest, RekeyResponse])
def test_an_order_that_is_lost_on_its_way_times_out_and_the_line_goes_on(
    encrypted: World, message: type[Message]
) -> None:
    hold(encrypted, only(message))
    procedure = encrypted.order_rekey()
    for _ in range(60):
        encrypted.turn()
    free(encrypted)
    encrypted.clock.advance(LIFETIME_US)
    for node in encrypted.nodes.values():
        node.tick()
    encrypted.settle()
    assert encrypted.row(POMP, procedure).failure == "TIMEOUT"
    assert encrypted.line_state() is LineState.ENCRYPTED
    assert not encrypted.running()
    again = encrypted.order_rekey()
    carry_out(encrypted)
    assert ends(encrypted, again) == {"COMPLETED"}


def test_a_line_that_is_not_in_service_is_not_rekeyed(ready: World) -> None:
    for _ in range(2):  # never ordered, then ordered and not encrypted
        with pytest.raises(Refusal, match="NOT_CONFIRMED"):
            ready.order_rekey()
        if ready.line_state() is None:
            ready.order_line()


# --- while a line is deleted ------------------------------------------------------------------------------------------


def order_deletion(world: World) -> None:
    world.begin(POMP, partial(deletion.begin, line=LINE, pmp=PMP, lifetime_us=LIFETIME_US))


def test_a_line_that_is_being_deleted_or_is_deleted_is_not_rekeyed(encrypted: World) -> None:
    order_deletion(encrypted)
    with pytest.raises(Refusal, match="DELETING"):
        encrypted.order_rekey()
    encrypted.settle()
    with pytest.raises(Refusal, match="DELETED"):
        encrypted.order_rekey()


@pytest.mark.parametrize(
    ("held", "code"),
    [
        (RekeyRequest, "UNKNOWN_LINE"),  # the PMP released the line before the order came
        (RekeyDispatch, "NOT_CONFIRMED"),  # the device stopped before the order came
        (SessionKeyDelivery, "NOT_CONFIRMED"),  # the device stopped before the keys came
        (RekeyResponse, "UNKNOWN_LINE"),  # the line was released before the device's answer came
    ],
)
def test_an_order_that_a_deletion_overtakes_fails_and_the_deletion_does_not(
    encrypted: World, held: type[Message], code: str
) -> None:
    hold(encrypted, only(held))
    procedure = encrypted.order_rekey()
    for _ in range(40):
        encrypted.turn()
    order_deletion(encrypted)
    run(encrypted, 30)
    assert encrypted.line_state() is LineState.DELETED
    free(encrypted)
    encrypted.settle(rounds=2000)
    assert ends(encrypted, procedure) == {code}
    assert encrypted.line_state() is LineState.DELETED
    with encrypted.desk(CPE_A) as cpe:
        assert cpe.lines.require(LINE).state is cpe_records.LineState.STOPPED
        assert {kept.wrapped for kept in cpe.generations.values()} == {()}
        assert list(cpe.rekey_orders.values()) == []


def test_an_answer_that_comes_while_the_line_is_deleted_changes_nothing_but_the_record(encrypted: World) -> None:
    """The order ends well: the line was encrypted with these keys until it stopped."""
    hold(encrypted, only(RekeyReport))
    procedure = encrypted.order_rekey()
    encrypted.run_line(lambda: generations(encrypted)[1] == 2)
    run(encrypted, 5)
    order_deletion(encrypted)
    hold(encrypted, lambda world, sent: only(DeletionConfirmation)(world, sent) or only(RekeyReport)(world, sent))
    run(encrypted, 20)
    hold(encrypted, only(DeletionConfirmation))
    encrypted.clock.advance(LAST_RETRY_US)
    run(encrypted, 5)
    assert (generations(encrypted)[0], encrypted.line_state()) == (2, LineState.DELETED)
    free(encrypted)
    encrypted.settle(rounds=1000)
    assert ends(encrypted, procedure) == {"COMPLETED"}
    assert encrypted.line_state() is LineState.DELETED


# --- two at once ------------------------------------------------------------------------------------------------------


def test_a_second_order_while_the_keys_of_the_first_are_on_their_way_is_refused(encrypted: World) -> None:
    first, second = encrypted.order_rekey(), encrypted.order_rekey()
    carry_out(encrypted)
    assert ends(encrypted, first) == {"COMPLETED"}
    assert ends(encrypted, second) == {"REKEY_UNDER_WAY"}
    assert generations(encrypted) == (2, 2)


def test_an_order_while_the_device_itself_asks_for_keys_is_refused(encrypted: World) -> None:
    encrypted.begin(CPE_A, partial(leased_line.begin_rekey, line=LINE, lifetime_us=LIFETIME_US))
    order = encrypted.order_rekey()
    carry_out(encrypted)
    assert ends(encrypted, order) == {"REKEY_UNDER_WAY"}
    assert generations(encrypted) == (1, 2)


def test_keys_that_newer_ones_overtake_before_they_are_used_answer_both_orders(encrypted: World) -> None:
    """The keys of the first are at both devices, and not in use, when the second is given: one slot is for both."""
    first = encrypted.order_rekey()
    encrypted.settle()
    second = encrypted.order_rekey()
    encrypted.settle()
    carry_out(encrypted)
    assert ends(encrypted, first) == ends(encrypted, second) == {"COMPLETED"}
    assert generations(encrypted) == (4, 4)
    with encrypted.desk(CPE_A) as cpe:
        kept = {one.generation: (one.state, one.wrapped) for one in cpe.generations.values()}
    assert kept[2] == (GenerationState.ERASED, ())
    assert told(encrypted) == {first: 4, second: 4}


def test_an_order_is_not_answered_by_keys_that_are_older_than_its_own(encrypted: World) -> None:
    """The line proves the first order's keys when the second's have been delivered too."""
    first = encrypted.order_rekey()
    encrypted.settle()
    second = encrypted.order_rekey()
    encrypted.settle()
    for generation, waiting in ((2, [second]), (4, [])):
        encrypted.nodes[CPE_A].line_encrypted(LINE, generation, encrypted.clock())
        encrypted.settle()
        assert [row.procedure for row in encrypted.rows(POMP) if row.state is State.RUNNING] == waiting
    assert told(encrypted) == {first: 2, second: 4}


def test_keys_whose_slot_was_taken_into_use_meanwhile_do_not_hold_the_next_ones_up(encrypted: World) -> None:
    """The device asks for generation 4 when 2 is proved and not yet in use; then 2 is in use, where 4 would go."""
    assert encrypted.line is not None
    first = encrypted.order_rekey()
    encrypted.settle()
    encrypted.turn()
    hold(encrypted, lambda world, sent: only(SessionKeyDelivery)(world, sent) and _of(world, sent) != first)
    second = encrypted.order_rekey()
    encrypted.run_line(lambda: generations(encrypted) == (2, 2))
    free(encrypted)
    encrypted.clock.advance(LAST_RETRY_US)
    encrypted.run_line(lambda: bool(_armed(encrypted)))
    for _ in range(30):
        encrypted.turn()
    assert _armed(encrypted) == [4]
    assert encrypted.row(POMP, second).state is State.RUNNING
    assert encrypted.line.a.may_ask
    encrypted.line.rekey()
    carry_out(encrypted)
    assert generations(encrypted) == (5, 5)
    assert _armed(encrypted) == []
    assert told(encrypted) == {first: 2, second: 5}


def told(world: World) -> dict[ProcedureId, int]:
    """Which generation end A answered each order with."""
    answers = [world.opened(sent.data) for sent in world.wire.sent if sent.sender == CPE_A]
    return {
        answer.envelope.procedure: answer.message.generation
        for answer in answers
        if isinstance(answer.message, RekeyResponse)
    }


def _armed(world: World) -> list[int]:
    with world.desk(CPE_A) as cpe:
        return [kept.generation for kept in cpe.armed_generations(LINE)]


def test_an_older_answer_that_comes_late_does_not_turn_the_record_back(encrypted: World) -> None:
    first = encrypted.order_rekey()
    hold(encrypted, lambda world, sent: only(RekeyReport)(world, sent))
    encrypted.run_line(lambda: generations(encrypted)[1] == 2)
    run(encrypted, 5)
    hold(encrypted, lambda world, sent: only(RekeyReport)(world, sent) and _of(world, sent) == first)
    second = encrypted.order_rekey()
    encrypted.run_line(lambda: encrypted.row(POMP, second).state is State.COMPLETED)
    assert generations(encrypted)[0] == 3
    free(encrypted)
    carry_out(encrypted)
    assert ends(encrypted, first) == {"COMPLETED"}
    assert generations(encrypted) == (3, 3)


def _of(world: World, sent: Sent) -> ProcedureId:
    return world.opened(sent.data).envelope.procedure


# --- who lies ---------------------------------------------------------------------------------------------------------


def test_a_pomp_that_did_not_order_the_devices_orders_no_keys(encrypted: World, worlds: Worlds) -> None:
    stranger = worlds.impostors.identities[Role.POMP]
    fresh = ProcedureId("00000000-0000-4000-8000-000000000001")
    tried = lie_before(
        encrypted,
        RekeyRequest,
        lambda sent: [Lie(retold(encrypted, sent, author=stranger, procedure=fresh), WrongParty)],
    )
    encrypted.order_rekey()
    carry_out(encrypted)
    assert tried


def test_a_pmp_passes_on_nothing_but_what_the_pomp_ordered_in_this_procedure(encrypted: World, worlds: Worlds) -> None:
    """An older order, one it wrote itself; nor does another PMP, though the device may know it."""
    older = encrypted.order_rekey()
    carry_out(encrypted)
    old = signed_in(encrypted, RekeyRequest)
    itself = encrypted.opened(find(encrypted, RekeyRequest).data).envelope
    stranger = worlds.impostors.identities[Role.PMP]
    forged = wire.sign(encrypted.nodes[PMP].identity, itself)
    with encrypted.desk(CPE_A) as cpe:
        cpe.desk.remember(stranger.chain)

    def lies(sent: Sent) -> Iterable[Lie]:
        yield Lie(retold(encrypted, sent, body={"request_signed": old}), ReplayedMessage)
        yield Lie(retold(encrypted, sent, body={"request_signed": forged}), BadSignature)
        yield Lie(retold(encrypted, sent, author=stranger), WrongParty)

    tried = lie_before(encrypted, RekeyDispatch, lies)
    again = encrypted.order_rekey()
    carry_out(encrypted)
    assert len(tried) == 3
    assert ends(encrypted, again) == ends(encrypted, older) == {"COMPLETED"}


def test_a_device_answers_for_its_own_line(encrypted: World) -> None:
    tried = lie_before(
        encrypted,
        RekeyResponse,
        lambda sent: [Lie(retold(encrypted, sent, body={"line": "line-9"}), WrongParty)],
    )
    encrypted.order_rekey()
    carry_out(encrypted)
    assert tried


def test_the_pomp_believes_no_one_but_end_a_and_no_older_answer(encrypted: World) -> None:
    encrypted.order_rekey()
    carry_out(encrypted)
    old = signed_in(encrypted, RekeyResponse)

    def lies(sent: Sent) -> Iterable[Lie]:
        answer = encrypted.opened(find_last(encrypted, RekeyResponse).data).envelope
        other_end = wire.sign(encrypted.nodes[CPE_B].identity, _by(answer, CPE_B))
        other_line = wire.sign(encrypted.nodes[CPE_A].identity, _about(answer, LineId("line-9")))
        yield Lie(retold(encrypted, sent, body={"response_signed": old}), ReplayedMessage)
        yield Lie(retold(encrypted, sent, body={"response_signed": other_end}), WrongParty)
        yield Lie(retold(encrypted, sent, body={"response_signed": other_line}), WrongParty)

    tried = lie_before(encrypted, RekeyReport, lies)
    encrypted.order_rekey()
    carry_out(encrypted)
    assert len(tried) == 3


def find_last(world: World, message: type[Message]) -> Sent:
    return next(sent for sent in reversed(world.wire.sent) if isinstance(world.opened(sent.data).message, message))


def _by(answer: wire.Envelope, party: str) -> wire.Envelope:
    return msgspec.structs.replace(answer, sender=party)


def _about(answer: wire.Envelope, line: LineId) -> wire.Envelope:
    return msgspec.structs.replace(answer, body={**answer.body, "line": line})
