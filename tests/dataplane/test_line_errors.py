"""A line over a fibre that flips, drops, doubles, reorders and breaks: counted, alarmed, never delivered."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsotn.dataplane.alignment import MultiframeAligner
from qsotn.dataplane.confirmation import GenerationKeys
from qsotn.dataplane.events import Alarm, AlarmCleared, Encrypted
from qsotn.dataplane.g709 import FRAME_SIZE, FRAMES, MULTIFRAME_SIZE
from qsotn.dataplane.line import Impairment, bit_errors, flip
from qsotn.dataplane.loopback import Loopback
from qsotn.domain import Direction, End, KeyId, LineId, Secret

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


def is_subsequence(part: list[bytes], whole: list[bytes]) -> bool:
    rest = iter(whole)
    return all(any(frame == other for other in rest) for frame in part)


# What the fibre does

LAST_ROW = 3 * 4080


@pytest.mark.parametrize(
    ("at", "lost", "counters"),
    [
        (0, 0, {}),
        (2, 0, {}),
        (6, 0, {}),
        (7, 0, {}),
        (8, 0, {"section_violations": 1}),
        (9, 0, {}),
        (LAST_ROW, 0, {}),
        (2 * 4080 + 10, 0, {"path_violations": 1}),
        (2 * 4080 + 11, 0, {}),
        (4000, 0, {}),
        (14, 1, {"authentication_failures": 1, "section_violations": 1, "path_violations": 1}),
        (LAST_ROW + 14, 0, {"section_violations": 1, "path_violations": 1}),
        (LAST_ROW + 15, 1, {"authentication_failures": 1, "section_violations": 1, "path_violations": 1}),
        (500, 1, {"authentication_failures": 1, "section_violations": 1, "path_violations": 1}),
        (3 * FRAME_SIZE + 15, 1, {"authentication_failures": 1, "section_violations": 1, "path_violations": 1}),
        (3 * FRAME_SIZE + LAST_ROW + 15, 1, {"authentication_failures": 1, "section_violations": 1}),
        (3 * FRAME_SIZE + LAST_ROW + 3823, 1, {"authentication_failures": 1, "section_violations": 1}),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_one_wrong_bit_is_counted_costs_at_most_its_multiframe_and_passes(
    at: int, lost: int, counters: dict[str, int]
) -> None:
    line = encrypted(new_line())
    line.fibre.impair(Direction.A_TO_B, lambda chunk: [flip(chunk, 8 * at + 1)])
    line.run(1)
    line.fibre.impair(Direction.A_TO_B, None)
    line.offer(A, client_frames(30))
    line.run(8)
    found = line.ends[B].counters()
    assert found.missing_multiframes == lost
    assert {name: getattr(found, name) for name in counters} == counters
    if "section_violations" not in counters:
        assert found.section_violations == 0
    assert line.ends[A].counters().far_end_violations == found.path_violations
    # Behind a gap the first frame is only met in PRESYNC, which delivers nothing.
    assert line.delivered[B] == line.offered[A][lost:]
    assert line.ends[B].alarms() == set()


@given(st.lists(st.lists(st.integers(0, 8 * MULTIFRAME_SIZE - 1), max_size=6), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_whatever_bits_flip_nothing_wrong_is_delivered_and_the_line_recovers(damage: list[list[int]]) -> None:
    line = encrypted(new_line())
    plan = iter(damage)
    line.fibre.impair(Direction.A_TO_B, lambda chunk: [flip(chunk, *set(next(plan, [])))])
    line.offer(A, client_frames(60))
    line.run(len(damage) + 2)
    line.offer(A, client_frames(20, seed=5))
    line.run(12)
    assert is_subsequence(line.delivered[B], line.offered[A])
    assert line.delivered[B][-10:] == line.offered[A][-10:]


def test_steady_bit_errors_are_counted_and_never_delivered() -> None:
    line = encrypted(new_line())
    line.fibre.impair(Direction.A_TO_B, bit_errors(40, random.Random(3).randbytes))
    line.offer(A, client_frames(200))
    line.run(30)
    line.fibre.impair(Direction.A_TO_B, None)
    found = line.ends[B].counters()
    assert line.delivered[B] == []
    assert found.authentication_failures == 30
    assert found.section_violations > 300
    assert Alarm.AUTHENTICATION_FAILURE in line.ends[B].alarms()
    assert Alarm.BACKWARD_DEFECT in line.ends[A].alarms()
    line.offer(A, client_frames(20, seed=2))
    line.run(10)
    assert line.delivered[B][-10:] == line.offered[A][-10:]
    assert line.ends[B].alarms() == line.ends[A].alarms() == set()


def reorder() -> Impairment:
    held: list[bytes] = []

    def swap(chunk: bytes) -> list[bytes]:
        held.append(chunk)
        if len(held) < 2:
            return []
        first, second = held
        held.clear()
        return [second, first]

    return swap


def every_third(action: Callable[[bytes], list[bytes]]) -> Impairment:
    passed = [0]

    def sometimes(chunk: bytes) -> list[bytes]:
        passed[0] += 1
        return action(chunk) if passed[0] % 3 == 0 else [chunk]

    return sometimes


@pytest.mark.parametrize(
    ("impairment", "counter"),
    [
        (every_third(lambda _: []), "missing_multiframes"),
        (every_third(lambda chunk: [chunk, chunk]), "replays"),
        (every_third(lambda chunk: [chunk, chunk[:FRAME_SIZE]]), "out_of_multiframe"),
        (every_third(lambda chunk: [chunk[: 3 * FRAME_SIZE]]), "authentication_failures"),
        (every_third(lambda chunk: [chunk[:30_000], chunk[30_007:]]), "out_of_frame"),
        (reorder(), "replays"),
    ],
    ids=["dropped", "doubled", "one frame doubled", "one frame dropped", "slipped", "reordered"],
)
def test_multiframes_dropped_doubled_or_reordered(impairment: Impairment, counter: str) -> None:
    line = encrypted(new_line())
    line.fibre.impair(Direction.A_TO_B, impairment)
    line.offer(A, client_frames(250))
    line.run(30)
    line.fibre.impair(Direction.A_TO_B, None)
    line.run(8)
    line.offer(A, client_frames(20, seed=8))
    line.run(4)
    assert getattr(line.ends[B].counters(), counter) > 0
    assert is_subsequence(line.delivered[B], line.offered[A])
    # A gap takes the descrambler's memory with it, and that costs the first frame behind it.
    assert line.delivered[B][-19:] == line.offered[A][-19:]


def test_a_cut_fibre_is_a_loss_of_frame_until_it_is_spliced() -> None:
    line = encrypted(new_line())
    line.fibre.cut(Direction.A_TO_B)
    line.run(12)
    assert Alarm.LOSS_OF_FRAME in line.ends[B].alarms()
    assert line.ends[A].alarms() == {Alarm.BACKWARD_DEFECT}
    dark = line.ends[B].counters()
    line.fibre.impair(Direction.A_TO_B, None)
    line.run(12)
    line.offer(A, client_frames(10))
    line.run(3)
    assert line.delivered[B] == line.offered[A]
    assert line.ends[A].alarms() == line.ends[B].alarms() == set()
    assert AlarmCleared(Alarm.LOSS_OF_FRAME) in line.ends[B].events()
    assert line.ends[B].counters().section_violations == dark.section_violations


def test_after_loss_of_alignment_the_count_of_frames_is_taken_anew_at_once() -> None:
    """FAS is damaged in five frames and the sixth is gone: what follows must not be counted on from before."""
    line = encrypted(new_line())
    first = flip(bytes(MULTIFRAME_SIZE), *(8 * (frame * FRAME_SIZE + 2) for frame in range(FRAMES)))
    plan = iter((first, first[:FRAME_SIZE]))

    def damage(chunk: bytes) -> list[bytes]:
        pattern = next(plan)
        damaged = bytes(x ^ y for x, y in zip(chunk, pattern, strict=False))
        return [damaged] if len(pattern) == len(chunk) else [damaged, chunk[2 * FRAME_SIZE :]]

    line.fibre.impair(Direction.A_TO_B, damage)
    line.run(2)
    line.fibre.impair(Direction.A_TO_B, None)
    line.run(10)
    found = line.ends[B].counters()
    assert (found.out_of_frame, found.out_of_multiframe, found.authentication_failures) == (1, 0, 0)


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=30))
@settings(max_examples=15, deadline=None)
def test_bytes_may_arrive_cut_anywhere(cuts: list[int]) -> None:
    line = encrypted(new_line())
    line.offer(A, client_frames(40))
    signal = b"".join(line.ends[A].transmit() for _ in range(6))
    position = 0
    for cut in [*cuts, len(signal)]:
        line.ends[B].receive(signal[position : position + cut])
        position += cut
    assert line.ends[B].deliver() == line.offered[A]


@given(
    start=st.integers(0, 255),
    wrong=st.dictionaries(st.integers(0, 39), st.integers(0, 255), max_size=12),
    sizes=st.lists(st.sampled_from([1, 3, 4, 5, 8]), min_size=1, max_size=12),
)
def test_multiframes_are_the_same_however_many_frames_arrive_at_once(
    start: int, wrong: dict[int, int], sizes: list[int]
) -> None:
    frames = np.zeros((40, 4, 4080), np.uint8)
    frames[:, 0, 6] = (start + np.arange(40)) % 256
    frames[:, 0, 7] = np.arange(40)
    for place, mfas in wrong.items():
        frames[place, 0, 6] = mfas
    ends = [0, *np.minimum(np.cumsum(sizes), 40), 40]
    together, alone = MultiframeAligner(), MultiframeAligner()
    expected = [whole for frame in frames for whole in alone.feed(frame[np.newaxis])]
    found = [whole for first, end in pairwise(ends) for whole in together.feed(frames[first:end])]
    assert [(one.consecutive, one.frames[:, 0, 7].tolist()) for one in found] == [
        (one.consecutive, one.frames[:, 0, 7].tolist()) for one in expected
    ]
    assert together.out_of_multiframe_count == alone.out_of_multiframe_count


def test_one_transmission_is_four_frames() -> None:
    assert len(new_line().ends[A].transmit()) == MULTIFRAME_SIZE == FRAMES * FRAME_SIZE
