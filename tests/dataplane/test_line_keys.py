"""Keys of a line from end to end: they come, change, run out and go, and the client notices only their absence."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest

from qsotn.dataplane.confirmation import GenerationKeys
from qsotn.dataplane.events import (
    Alarm,
    AlarmCleared,
    AlarmRaised,
    Encrypted,
    Event,
    KeyErased,
    KeyUse,
    PeerArmed,
    PeerConfirmed,
    Switched,
)
from qsotn.dataplane.g709 import GCC_SIZE, PAYLOAD_SIZE, PT_GFP, PT_NULL, Backward, Content, Framer
from qsotn.dataplane.gfp import ClientQueue, GfpMapper
from qsotn.dataplane.keyslots import SlotState
from qsotn.dataplane.loopback import Eavesdropper, Loopback
from qsotn.dataplane.seal import NULL_HEADER
from qsotn.dataplane.terminal import LineTerminal
from qsotn.domain import Direction, End, KeyId, LineId, Secret
from qsotn.errors import KeyReuse, UsageError

A, B = End.A, End.B
MARKER = b"the client's plain words "


def keys(number: int, salt: str = "") -> GenerationKeys:
    def secret(direction: Direction) -> Secret:
        return Secret(hashlib.sha256(f"{number} {direction} {salt}".encode()).digest())

    return {direction: (KeyId(f"key-{number}-{direction}"), secret(direction)) for direction in Direction}


def client_frames(count: int, seed: int = 0) -> list[bytes]:
    source = random.Random(seed)
    return [
        MARKER + index.to_bytes(4, "big") + source.randbytes(source.choice([20, 400, 1471, 8000]))
        for index in range(count)
    ]


def new_line(**options: int) -> Loopback:
    return Loopback(LineId("line-1"), "ODU0", **options)


def encrypted(line: Loopback, number: int = 0) -> Loopback:
    line.install(number, keys(number))
    line.run(14)
    for terminal in line.ends.values():
        assert Encrypted(number) in terminal.events()
    return line


def saw_client_bytes(eavesdropper: Eavesdropper) -> bool:
    payloads = (payload for direction in Direction for payload in eavesdropper.payloads[direction])
    return bool(eavesdropper.client_frames) or any(MARKER in payload for payload in payloads)


# Keys come, change and go


def test_keys_that_both_ends_hold_are_proven_and_in_use_four_multiframes_later() -> None:
    line = new_line()
    line.run(3)
    line.install(0, keys(0))
    line.run(4)
    for terminal in line.ends.values():
        assert Encrypted(0) in terminal.events()


def test_an_eavesdropper_reads_a_line_that_is_not_encrypted() -> None:
    """Proves the eavesdropper: the same frames without the seal are an open book."""
    queue = ClientQueue(1 << 20)
    for frame in client_frames(5):
        queue.offer(frame)
    payload = np.frombuffer(GfpMapper().fill(queue, PAYLOAD_SIZE), np.uint8)
    framer, eavesdropper = Framer(b"trace"), Eavesdropper("ODU0")
    for _ in range(2):
        signal = framer.build(Content(payload, NULL_HEADER, bytes(GCC_SIZE), PT_GFP), [Backward()] * 4)
        eavesdropper(Direction.A_TO_B, signal)
    assert eavesdropper.client_frames[:4] == client_frames(5)[:4]
    assert saw_client_bytes(eavesdropper)


def test_keys_change_under_full_load_and_no_frame_is_lost_doubled_changed_or_seen() -> None:
    line = new_line()
    eavesdropper = Eavesdropper("ODU0")
    line.fibre.tap(eavesdropper)
    traffic = {end: iter(client_frames(2400, seed=end == A)) for end in End}
    waiting: dict[End, bytes | None] = {end: next(traffic[end]) for end in End}
    happened: list[Event] = []
    for step in range(140):
        if step in (10, 50, 90):
            line.install(step // 40, keys(step // 40))
        for end in End:
            while (frame := waiting[end]) is not None and line.ends[end].offer(frame):
                line.offered[end].append(frame)
                waiting[end] = next(traffic[end], None)
        line.run(1)
        happened += line.ends[A].events()
    line.run(60)
    for end in End:
        assert line.delivered[end.other] == line.offered[end]
        assert len(line.offered[end]) == 2400
    assert happened == [
        AlarmRaised(Alarm.NO_KEY),
        *(
            event
            for number in range(3)
            for event in (
                PeerArmed(number),
                Switched(number, KeyId(f"key-{number}-a-to-b")),
                *([AlarmCleared(Alarm.NO_KEY)] if number == 0 else []),
                Encrypted(number),
                PeerConfirmed(number),
                *([KeyErased(number - 1, tuple(key_id for key_id, _ in keys(number - 1).values()))] if number else []),
            )
        ),
    ]
    assert not saw_client_bytes(eavesdropper)
    assert len(set(eavesdropper.nonces)) == len(eavesdropper.nonces) > 250
    there, back = line.ends[A].counters(), line.ends[B].counters()
    assert there.sent_under == back.received_under
    assert sum(use.multiframes for use in there.sent_under.values()) + there.null_multiframes_sent == 200
    assert there.sent_under[KeyId("key-1-a-to-b")] == KeyUse(40, 160)
    assert (back.client_frames_out, back.client_bytes_out) == (2400, sum(map(len, line.offered[A])))
    assert back.gfp.frames == 2400
    assert back.section_violations == back.authentication_failures == back.missing_multiframes == back.replays == 0


def test_without_keys_only_the_null_client_leaves_and_client_frames_wait() -> None:
    line = new_line(queue_bytes=4000)
    eavesdropper = Eavesdropper("ODU0")
    line.fibre.tap(eavesdropper)
    frame = MARKER.ljust(1500, b".")
    assert [line.ends[A].offer(frame) for _ in range(3)] == [True, True, False]
    line.run(130)
    assert eavesdropper.payload_types == {PT_NULL}
    assert not any(any(payload) for direction in Direction for payload in eavesdropper.payloads[direction])
    assert eavesdropper.nonces == []
    assert line.ends[A].counters().null_multiframes_sent == 130
    assert line.ends[A].alarms() == {Alarm.NO_KEY}
    encrypted(line)
    assert line.delivered[B] == [frame, frame]
    assert line.ends[A].alarms() == set()
    assert line.ends[A].offer(frame)


def test_idle_multiframes_are_encrypted_too() -> None:
    line = encrypted(new_line())
    before = line.ends[A].counters()
    line.run(5)
    after = line.ends[A].counters()
    assert after.null_multiframes_sent == before.null_multiframes_sent
    assert (
        after.sent_under[KeyId("key-0-a-to-b")].multiframes == 5 + before.sent_under[KeyId("key-0-a-to-b")].multiframes
    )


@pytest.mark.parametrize("end", End)
def test_a_one_sided_installation_never_activates(end: End) -> None:
    line = new_line()
    line.install(0, keys(0), [end])
    line.offer(end, client_frames(3))
    line.run(60)
    for terminal in line.ends.values():
        assert terminal.counters().null_multiframes_sent == 60
        assert terminal.events() == [AlarmRaised(Alarm.NO_KEY)]
    assert line.ends[end].slot(0) is SlotState.ARMED


def test_a_one_sided_change_leaves_the_old_generation_in_use() -> None:
    line = encrypted(new_line())
    line.install(1, keys(1), [A])
    line.offer(A, client_frames(30))
    line.run(60)
    assert line.delivered[B] == line.offered[A]
    assert KeyId("key-1-a-to-b") not in line.ends[A].counters().sent_under


def test_another_key_at_the_far_end_carries_nothing_and_is_alarmed() -> None:
    line = new_line()
    line.install(0, keys(0), [A])
    line.install(0, keys(0, "wrong"), [B])
    line.offer(A, client_frames(3))
    line.run(40)
    for terminal in line.ends.values():
        assert terminal.alarms() == {Alarm.NO_KEY, Alarm.KEY_MISMATCH}
        assert terminal.counters().proof_failures > 0
        assert terminal.counters().null_multiframes_sent == 40
    assert line.delivered[B] == []


def test_a_fibre_looped_back_to_its_sender_activates_nothing() -> None:
    terminal = new_line().ends[A]
    terminal.install(0, 0, keys(0))
    for _ in range(40):
        terminal.receive(terminal.transmit())
    assert terminal.counters().null_multiframes_sent == 40
    assert terminal.counters().proof_failures > 0


def test_a_spent_key_stops_the_line_until_the_next_and_no_frame_is_lost() -> None:
    line = encrypted(new_line(invocation_limit=30))
    line.run(40)
    assert line.ends[A].alarms() == {Alarm.NO_KEY}
    assert line.ends[A].counters().sent_under[KeyId("key-0-a-to-b")].multiframes == 30
    line.offer(A, client_frames(20))
    line.run(5)
    assert line.delivered[B] == []
    line.install(1, keys(1))
    line.run(16)
    assert line.delivered[B] == line.offered[A]


def test_a_discarded_active_generation_stops_the_line() -> None:
    line = encrypted(new_line())
    line.offer(A, client_frames(5))
    line.ends[A].discard(0)
    line.run(20)
    assert Alarm.NO_KEY in line.ends[A].alarms()
    assert line.delivered[B] == []
    with pytest.raises(KeyReuse):
        line.install(0, keys(0), [A])


# Restarts


def test_no_nonce_repeats_when_both_ends_restart_with_the_same_keys() -> None:
    line = new_line()
    eavesdropper = Eavesdropper("ODU0")
    line.fibre.tap(eavesdropper)
    encrypted(line)
    for epoch in (2, 3):
        for end in End:
            line.restart(end, epoch)
        encrypted(line)
    assert {nonce[:4] for _, _, nonce in eavesdropper.nonces} == {
        bytes((sign, 0, 0, epoch)) for sign in (0x00, 0x80) for epoch in (1, 2, 3)
    }
    assert len(set(eavesdropper.nonces)) == len(eavesdropper.nonces)


def test_a_restarted_receiver_takes_nothing_that_was_recorded_before() -> None:
    line = new_line()
    recorded: list[bytes] = []
    line.fibre.tap(lambda direction, data: recorded.append(data) if direction is Direction.A_TO_B else None)
    encrypted(line)
    line.offer(A, client_frames(40))
    line.run(8)
    assert line.delivered[B] == line.offered[A]
    line.restart(B, epoch=2)
    line.install(0, keys(0), [B])
    for signal in recorded:
        line.ends[B].receive(signal)
    assert line.ends[B].deliver() == []
    assert line.ends[B].counters().authentication_failures > 8
    line.run(14)
    line.offer(A, client_frames(10, seed=4))
    line.run(3)
    assert line.delivered[B] == line.offered[A][:40] + line.offered[A][41:]


def test_a_restarted_sender_is_followed_into_its_new_epoch() -> None:
    line = encrypted(new_line())
    line.restart(A, epoch=2)
    line.install(0, keys(0), [A])
    line.run(12)
    line.offer(A, client_frames(10))
    line.run(3)
    assert line.delivered[B] == line.offered[A]
    assert line.ends[B].counters().missing_multiframes == 0


# What may not be asked


@pytest.mark.parametrize(
    ("odu", "epoch", "text"), [("ODU7", 0, "ODU type"), ("ODU0", 1 << 24, "epoch"), ("ODU0", -1, "epoch")]
)
def test_a_terminal_that_cannot_be_is_refused(odu: str, epoch: int, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        LineTerminal(LineId("line-1"), A, odu, epoch).install(0, 0, keys(0))


@pytest.mark.parametrize("size", [13, 9601])
def test_a_client_frame_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(UsageError):
        new_line().ends[A].offer(bytes(size))


def test_no_key_is_in_anything_a_terminal_shows() -> None:
    line = encrypted(new_line())
    shown = repr(vars(line.ends[A])) + repr(line.ends[A].counters()) + repr(line.ends[A].events())
    for _, secret in keys(0).values():
        assert secret.reveal().hex() not in shown
        assert repr(secret.reveal())[2:-1] not in shown
