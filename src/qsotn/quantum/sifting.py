"""Sifting: what each party prepares or measures, and which of it is kept.

1. Alice draws an intensity, a basis and a bit for every pulse from her own entropy (`Preparations`).
2. Bob draws a basis for every gate from his (`Measurements`); in a gate where both detectors fired he draws the bit,
   as the security proof's squashing map demands.
3. Bob announces the gates with a click and their bases. The light is measured by then: knowing it helps no attacker.
4. Alice answers with the places where the bases agree, and with the intensities of all detected pulses.

What always holds: X∩X detections make the key and never show a bit; Z∩Z detections are for counting errors; nothing
is ever announced about a pulse that Bob did not detect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsotn.domain import Entropy
from qsotn.errors import MalformedMessage
from qsotn.quantum.messages import Detections, Sifting, pack_bits, pack_indices, unpack_bits, unpack_indices
from qsotn.quantum.optics import Bits, Clicks, Indices
from qsotn.quantum.parameters import DecoyProtocol

_ONE, _TWO = np.uint8(1), np.uint8(2)


@dataclass(frozen=True, repr=False)
class Sifted:
    """One party's bits after sifting, with the intensity's index (0, 1 or 2) beside each. Both orders are by gate."""

    detections: int
    key_bits: Bits
    key_intensity: Bits
    test_bits: Bits
    test_intensity: Bits


def bytes_below(entropy: Entropy, count: int) -> Bits:
    """Draw one whole byte for each of `count` choices."""
    return np.frombuffer(entropy(count), dtype=np.uint8)


def draw_bits(entropy: Entropy, count: int) -> Bits:
    """Draw `count` unbiased bits."""
    return np.unpackbits(np.frombuffer(entropy(-(-count // 8)), dtype=np.uint8), count=count)


class Preparations:
    """Alice's record of her pulses. Each takes one byte: bit, basis and intensity in bits 0, 1 and 2–3."""

    def __init__(self, protocol: DecoyProtocol, entropy: Entropy) -> None:
        signal, weak, _ = (round(256 * probability) for probability in protocol.intensity_probabilities)
        self._intensity_of = np.repeat(np.arange(3, dtype=np.uint8), (signal, weak, 256 - signal - weak))
        self._key_basis_below = np.uint8(round(256 * protocol.key_basis_probability))
        self._entropy = entropy
        self._records: list[Bits] = []

    def draw(self, pulses: int) -> tuple[Bits, Bits, Bits]:
        """Choose intensity, basis and bit for the next pulses, remember them, and return the three arrays."""
        intensity = self._intensity_of[bytes_below(self._entropy, pulses)]
        basis = (bytes_below(self._entropy, pulses) < self._key_basis_below).view(np.uint8)
        bit = draw_bits(self._entropy, pulses)
        self._records.append(intensity << _TWO | basis << _ONE | bit)
        return intensity, basis, bit

    def sift(self, announced: Detections, pulses: int) -> tuple[Sifting, Sifted]:
        """Answer Bob's announcement and keep what the bases agree on.

        Raises `MalformedMessage` for gates that are not ascending or beyond the block's pulses.
        """
        gates = unpack_indices(announced.gates)
        if len(gates) and (gates[-1] >= pulses or (np.diff(gates) <= 0).any()):
            raise MalformedMessage(f"the detections are not ascending gates below {pulses}")
        bases = unpack_bits(announced.bases, len(gates))
        record = np.concatenate(self._records)[gates]
        self._records.clear()
        intensity, bit = record >> _TWO, record & _ONE
        same = (record >> _ONE & _ONE) == bases
        answer = Sifting(pack_bits(same), pack_bits(intensity >> _ONE), pack_bits(intensity & _ONE))
        return answer, _keep(bases, same, intensity, bit)


class Measurements:
    """Bob's record of his clicks."""

    def __init__(self, protocol: DecoyProtocol, entropy: Entropy) -> None:
        self._key_basis_below = np.uint8(round(256 * protocol.key_basis_probability))
        self._entropy = entropy
        self._gates: list[Indices] = []
        self._bases: list[Bits] = []
        self._bits: list[Bits] = []
        self._pulses = 0

    def choose_bases(self, pulses: int) -> Bits:
        """Choose a basis for each of the next gates."""
        return (bytes_below(self._entropy, pulses) < self._key_basis_below).view(np.uint8)

    def record(self, bases: Bits, clicks: Clicks) -> None:
        """Keep the clicks of the gates whose bases were chosen last."""
        coin = draw_bits(self._entropy, len(clicks.gate))
        self._gates.append(clicks.gate + self._pulses)
        self._bases.append(bases[clicks.gate])
        self._bits.append(np.where(clicks.zero & clicks.one, coin, clicks.one).astype(np.uint8))
        self._pulses += len(bases)

    def announce(self) -> Detections:
        """Say where the clicks were and in which basis, after the last pulse was measured."""
        return Detections(pack_indices(np.concatenate(self._gates)), pack_bits(np.concatenate(self._bases)))

    def sift(self, answer: Sifting) -> Sifted:
        """Keep what the bases agree on. Raises `MalformedMessage` for an intensity that does not exist."""
        bases, bits = np.concatenate(self._bases), np.concatenate(self._bits)
        self._gates, self._bases, self._bits = [], [], []
        same = unpack_bits(answer.same_basis, len(bits)).view(np.bool_)
        high, low = (unpack_bits(plane, len(bits)) for plane in (answer.intensity_high, answer.intensity_low))
        intensity = high << _ONE | low
        if (intensity > 2).any():
            raise MalformedMessage("an announced intensity is none of the three")
        return _keep(bases, same, intensity, bits)


def _keep(bases: Bits, same: NDArray[np.bool_], intensity: Bits, bit: Bits) -> Sifted:
    key, test = same & (bases == 1), same & (bases == 0)
    return Sifted(len(bases), bit[key], intensity[key], bit[test], intensity[test])
