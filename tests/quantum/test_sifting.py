from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qsotn.domain import Entropy
from qsotn.errors import MalformedMessage
from qsotn.quantum.messages import Detections, Sifting, pack_bits, pack_indices
from qsotn.quantum.optics import Bits, Clicks
from qsotn.quantum.parameters import DecoyProtocol
from qsotn.quantum.sifting import Measurements, Preparations

PULSES = 1 << 16
PROTOCOL = DecoyProtocol(pulses_per_block=PULSES)
EntropyOf = Callable[[int], Entropy]


def perfect_clicks(bases: Bits, sent_basis: Bits, sent_bit: Bits, coin: Bits) -> Clicks:
    seen = np.where(bases == sent_basis, sent_bit, coin)
    gate = np.arange(0, len(bases), 3)
    return Clicks(gate, seen[gate] == 0, seen[gate] == 1)


def test_choices_have_exactly_the_probabilities_of_the_protocol() -> None:
    every_byte = np.tile(np.arange(256, dtype=np.uint8), 4).tobytes()
    intensity, basis, _ = Preparations(PROTOCOL, lambda size: every_byte[:size]).draw(1024)
    assert np.bincount(intensity).tolist() == [4 * 96, 4 * 96, 4 * 64]
    assert int(basis.sum()) == 1024 * 3 // 4
    assert int(Measurements(PROTOCOL, lambda size: every_byte[:size]).choose_bases(1024).sum()) == 1024 * 3 // 4


def test_both_keep_the_same_pulses_and_over_a_perfect_channel_the_same_bits(entropy_of: EntropyOf) -> None:
    alice, bob = Preparations(PROTOCOL, entropy_of(1)), Measurements(PROTOCOL, entropy_of(2))
    sent = []
    for _ in range(2):
        intensity, basis, bit = alice.draw(PULSES // 2)
        bases = bob.choose_bases(PULSES // 2)
        bob.record(bases, perfect_clicks(bases, basis, bit, bit[::-1]))
        sent.append((intensity, basis, bit, bases))
    answer, hers = alice.sift(bob.announce(), PULSES)
    his = bob.sift(answer)
    assert hers.detections == his.detections == 2 * len(range(0, PULSES // 2, 3))
    for name in ("key_bits", "key_intensity", "test_bits", "test_intensity"):
        assert np.array_equal(getattr(hers, name), getattr(his, name))
    seen = np.concatenate([np.array(half)[:, ::3] for half in sent], axis=1)
    assert np.array_equal(hers.key_bits, seen[2][(seen[1] == 1) & (seen[3] == 1)])
    assert np.array_equal(hers.test_intensity, seen[0][(seen[1] == 0) & (seen[3] == 0)])


def test_a_double_click_becomes_bobs_own_coin(entropy_of: EntropyOf) -> None:
    bob = Measurements(PROTOCOL, entropy_of(2))
    both = np.ones(PULSES, dtype=np.bool_)
    bob.record(np.ones(PULSES, np.uint8), Clicks(np.arange(PULSES), both, both))
    ones = int(bob.sift(Sifting(pack_bits(both), pack_bits(~both), pack_bits(~both))).key_bits.sum())
    assert abs(ones - PULSES / 2) < 4.5 * PULSES**0.5 / 2


def test_the_answer_says_nothing_about_bits_or_undetected_pulses(entropy_of: EntropyOf) -> None:
    """Alice's answer is the same whatever her bits were: flipping the bytes she drew them from changes nothing."""

    def answer(flip: int) -> Sifting:
        draw, calls = entropy_of(1), iter(range(100))

        def entropy(size: int) -> bytes:  # third call: the bits
            mask = flip if next(calls) == 2 else 0
            return bytes(np.frombuffer(draw(size), np.uint8) ^ np.uint8(mask))

        alice = Preparations(PROTOCOL, entropy)
        alice.draw(4096)
        return alice.sift(Detections(pack_indices(np.arange(0, 4096, 5)), pack_bits(np.ones(820, np.uint8))), 4096)[0]

    assert answer(0) == answer(255)


@pytest.mark.parametrize("gates", [[5, 4], [5, 5], [5, PULSES]])
def test_detections_that_cannot_be_are_refused(entropy_of: EntropyOf, gates: list[int]) -> None:
    alice = Preparations(PROTOCOL, entropy_of(1))
    alice.draw(PULSES)
    with pytest.raises(MalformedMessage, match="ascending gates below 65536"):
        alice.sift(Detections(pack_indices(np.array(gates)), b"\xc0"), PULSES)


def test_a_fourth_intensity_is_refused(entropy_of: EntropyOf) -> None:
    bob = Measurements(PROTOCOL, entropy_of(2))
    one = np.ones(1, np.bool_)
    bob.record(np.ones(1, np.uint8), Clicks(np.zeros(1, np.int64), one, ~one))
    with pytest.raises(MalformedMessage, match="none of the three"):
        bob.sift(Sifting(b"\x80", b"\x80", b"\x80"))
