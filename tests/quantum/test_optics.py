"""The twin's physics against the closed formulas of decoy BB84 (Ma, Qi, Zhao and Lo 2005, eqs. 8 to 11)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qsotn.quantum.optics import Bits, Clicks, QuantumChannel, Source, happens, intercept_resend
from qsotn.quantum.parameters import OpticalLink

PULSES = 1 << 20
INTENSITIES = (0.6, 0.25, 0.0)


def uniform(seed: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 2, PULSES, dtype=np.uint8)


def errors(clicks: Clicks, sent: Bits) -> float:
    """Wrong bits among the clicks; a double click is half an error, as the coin for it makes it."""
    wrong = np.where(sent[clicks.gate] == 1, clicks.zero, clicks.one)
    both = clicks.zero & clicks.one
    return float(np.where(both, 0.5, wrong).sum())


def within(observed: float, probability: float, trials: float, sigmas: float = 4.5) -> bool:
    return abs(observed - probability * trials) <= sigmas * math.sqrt(trials * probability * (1 - probability)) + 1


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(
    "link",
    [
        OpticalLink(dark_count_probability=1e-4, misalignment=0.01),
        OpticalLink(length_km=0.0, detector_efficiency=1.0, misalignment=0.03),
        OpticalLink(length_km=75.0, dark_count_probability=5e-4, misalignment=0.0),
    ],
)
def test_gain_and_error_rate_are_those_of_the_formulas(link: OpticalLink, index: int) -> None:
    basis, bit = uniform(1), uniform(2)
    channel = QuantumChannel(link, INTENSITIES, seed=3 + index)
    channel.emit(np.full(PULSES, index, np.uint8), basis, bit)
    clicks = channel.measure(basis)
    lit = 1 - math.exp(-link.transmittance * INTENSITIES[index])
    background = 1 - (1 - link.dark_count_probability) ** 2
    gain = 1 - (1 - lit) * (1 - background)  # Q = Y0 + 1 − e^(−ημ), without counting coincidences twice
    assert within(len(clicks.gate), gain, PULSES)
    wrong = 0.5 * background + link.misalignment * lit  # E·Q = e0·Y0 + ed·(1 − e^(−ημ))
    coincidences = background * lit + (link.transmittance * INTENSITIES[index]) ** 3 * link.misalignment
    assert abs(errors(clicks, bit) - wrong * PULSES) <= 4.5 * math.sqrt(wrong * PULSES) + 1 + coincidences * PULSES


def test_photon_numbers_are_poissonian() -> None:
    source = Source((0.6, 0.25, 0.0), np.random.default_rng(4))
    light = source.emit(np.zeros(PULSES, np.uint8), uniform(5), uniform(6))
    number = np.bincount(light.pulse, minlength=PULSES)
    for photons in range(5):
        expected = math.exp(-0.6) * 0.6**photons / math.factorial(photons)
        assert within(int(np.count_nonzero(number == photons)), expected, PULSES)


def test_the_vacuum_intensity_emits_nothing() -> None:
    source = Source((0.6, 0.25, 0.0), np.random.default_rng(4))
    assert len(source.emit(np.full(PULSES, 2, np.uint8), uniform(5), uniform(6)).pulse) == 0


def test_the_wrong_basis_shows_a_coin_not_the_bit() -> None:
    basis, bit = uniform(1), uniform(2)
    channel = QuantumChannel(OpticalLink(misalignment=0.0, dark_count_probability=0.0), INTENSITIES, seed=7)
    channel.emit(np.zeros(PULSES, np.uint8), basis, bit)
    clicks = channel.measure(1 - basis)
    assert within(errors(clicks, bit), 0.5, len(clicks.gate))


def test_without_misalignment_and_dark_counts_the_right_basis_shows_every_bit() -> None:
    basis, bit = uniform(1), uniform(2)
    channel = QuantumChannel(OpticalLink(misalignment=0.0, dark_count_probability=0.0), INTENSITIES, seed=7)
    channel.emit(np.zeros(PULSES, np.uint8), basis, bit)
    assert errors(channel.measure(basis), bit) == 0


def test_afterpulses_follow_clicks_in_the_next_gate_even_across_chunks() -> None:
    link = OpticalLink(dark_count_probability=0.01, afterpulse_probability=0.5, length_km=0)
    channel = QuantumChannel(link, INTENSITIES, seed=8)
    gates, clicks = 64, 0
    for _ in range(4000):  # vacuum pulses: all clicks are dark counts or their afterpulses
        channel.emit(np.full(gates, 2, np.uint8), np.zeros(gates, np.uint8), np.zeros(gates, np.uint8))
        found = channel.measure(np.zeros(gates, np.uint8))
        clicks += int(found.zero.sum() + found.one.sum())
    # Without the carry over a chunk's end, one in 64 afterpulses would be missing: 2.6 sigma less.
    assert within(clicks, 0.01 * 1.5 - 0.01 * 0.01 * 0.5, 2 * 4000 * gates, sigmas=6)


def test_the_last_gate_of_a_chunk_can_afterpulse_into_the_next() -> None:
    link = OpticalLink(length_km=0, detector_efficiency=1.0, dark_count_probability=0.0, afterpulse_probability=0.5)
    one, dark = np.ones(1, np.uint8), np.full(1, 2, np.uint8)
    after = 0
    for seed in range(200):
        channel = QuantumChannel(link, (2.0, 0.5, 0.0), seed)
        channel.emit(np.zeros(1, np.uint8), one, one)
        if len(channel.measure(one).gate):
            channel.emit(dark, one, one)
            after += len(channel.measure(one).gate)
    assert within(after, 0.5, 200 * (1 - math.exp(-2)))


def test_light_can_be_measured_once() -> None:
    channel = QuantumChannel(OpticalLink(), INTENSITIES, seed=1)
    some = np.zeros(8, np.uint8)
    channel.emit(some, some, some)
    with pytest.raises(RuntimeError, match="before the last ones were measured"):
        channel.emit(some, some, some)
    channel.measure(some)
    with pytest.raises(RuntimeError, match="0 pulses in flight"):
        channel.measure(some)


@pytest.mark.parametrize("fraction", [0.2, 1.0])
def test_intercept_and_resend_turns_a_quarter_of_the_stolen_bits(fraction: float) -> None:
    basis, bit = uniform(1), uniform(2)
    link = OpticalLink(misalignment=0.0, dark_count_probability=0.0)
    channel = QuantumChannel(link, INTENSITIES, 9, intercept_resend(fraction))
    channel.emit(np.zeros(PULSES, np.uint8), basis, bit)
    clicks = channel.measure(basis)
    assert within(errors(clicks, bit), fraction / 4, len(clicks.gate), sigmas=6)


@pytest.mark.parametrize("probability", [0.0, 1e-4, 0.3, 1.0])
def test_events_happen_as_often_as_they_should(probability: float) -> None:
    count = int(happens(np.random.default_rng(1), probability, PULSES).sum())
    assert within(count, probability, PULSES) if 0 < probability < 1 else count == probability * PULSES


def test_the_same_seed_gives_the_same_clicks() -> None:
    def run(seed: int) -> list[int]:
        channel = QuantumChannel(OpticalLink(), INTENSITIES, seed)
        channel.emit(np.zeros(PULSES, np.uint8), uniform(1), uniform(2))
        gates: list[int] = channel.measure(uniform(1)).gate.tolist()
        return gates

    assert run(5) == run(5) != run(6)
