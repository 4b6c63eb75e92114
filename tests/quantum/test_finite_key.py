"""The finite-key formulas against the paper they come from: Lim et al., PRA 89, 022307 (2014)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from qsotn.quantum.estimation import Counts, Observed
from qsotn.quantum.finite_key import (
    Secrecy,
    binary_entropy,
    bound_secrecy,
    photon_number_probability,
    sampling_deviation,
    secret_bits,
    single_photon_errors,
    single_photon_events,
    vacuum_events,
)
from qsotn.quantum.parameters import DecoyProtocol

# The model of section IV: dedicated fibre, InGaAs detectors, afterpulses.
ATTENUATION, EFFICIENCY, DARK, AFTERPULSE, MISALIGNED, F_EC, KAPPA = 0.2, 0.1, 6e-7, 0.04, 5e-3, 1.16, 1e-15


def rates(protocol: DecoyProtocol, kilometres: float) -> tuple[list[float], list[float]]:
    """Return R_k and e_k·R_k of each intensity; e_k with η_sys, which alone gives the printed ratio."""
    eta = EFFICIENCY * 10 ** (-ATTENUATION * kilometres / 10)
    clicks = [1 - (1 - 2 * DARK) * math.exp(-eta * k) for k in protocol.intensities]
    wrong = [
        DARK + MISALIGNED * (1 - math.exp(-eta * k)) + AFTERPULSE * d / 2
        for k, d in zip(protocol.intensities, clicks, strict=True)
    ]
    return [d * (1 + AFTERPULSE) for d in clicks], wrong


def counts(pulses: float, probabilities: tuple[float, ...], per_pulse: list[float]) -> Counts:
    signal, weak, vacuum = (round(pulses * p * r) for p, r in zip(probabilities, per_pulse, strict=True))
    return signal, weak, vacuum


def key_rate(protocol: DecoyProtocol, kilometres: float, sifted: float) -> float:
    """Return R = ℓ/N for a block of that many sifted X bits, with ε_sec = κ·ℓ as in the paper."""
    click, wrong = rates(protocol, kilometres)
    p, q = protocol.intensity_probabilities, protocol.key_basis_probability
    per_pulse = sum(a * b for a, b in zip(p, click, strict=True))
    pulses = sifted / (q**2 * per_pulse)
    test = pulses * (1 - q) ** 2
    observed = Observed(counts(pulses * q**2, p, click), counts(test, p, click), counts(test, p, wrong))
    error_rate = sum(a * b for a, b in zip(p, wrong, strict=True)) / per_pulse
    leaked = round(F_EC * sifted * binary_entropy(error_rate))
    length = 1e5
    for _ in range(3):
        chosen = replace(protocol, epsilon_secrecy=max(1e-30, KAPPA * length))
        length = secret_bits(bound_secrecy(observed, chosen), chosen, round(sifted), leaked)
    return length / pulses


def best_rate(kilometres: float, sifted: float) -> float:
    """Optimise qX, p1, p2, μ1 and μ2, as the paper does, by a shrinking random search with a fixed seed."""
    random = np.random.default_rng(1)
    best, rate = np.array([0.8, 0.5, 0.3, 0.5, 0.2]), 0.0
    for step in np.geomspace(0.15, 0.005, 600):
        q, p1, p2, signal, weak = best + step * random.standard_normal(5)
        q, p1, p2 = (round(256 * x) / 256 for x in (q, p1, p2))
        if not (0.1 < q < 0.99 and p1 > 0.01 and p2 > 0.01 and p1 + p2 < 0.99 and 1 > signal > weak + 2e-4 > 5e-3):
            continue
        protocol = DecoyProtocol((signal, weak, 2e-4), (p1, p2, 1 - p1 - p2), q, epsilon_correctness=KAPPA)
        found = key_rate(protocol, kilometres, sifted)
        if found > rate:
            best, rate = np.array([q, p1, p2, signal, weak]), found
    return rate


def test_a_hundred_times_the_block_gives_the_printed_gain_at_100_km() -> None:
    """Section IV: R at n_X = 10⁹ over R at 10⁷ is about 1.75 at 100 km."""
    assert best_rate(100, 1e9) / best_rate(100, 1e7) == pytest.approx(1.75, abs=0.09)


def test_the_bounds_meet_the_truth_from_the_right_side_as_blocks_grow() -> None:
    protocol = DecoyProtocol((0.5, 0.1, 2e-4), (0.5, 0.25, 0.25), epsilon_secrecy=1e-10)
    eta, dark, wrong = 0.05, 2e-6, 0.01
    gain = [1 - (1 - dark) * math.exp(-eta * k) for k in protocol.intensities]
    errors = [dark / 2 + wrong * (1 - math.exp(-eta * k)) for k in protocol.intensities]
    true_vacuum = photon_number_probability(protocol, 0) * dark
    true_singles = photon_number_probability(protocol, 1) * (eta + dark)
    true_errors = photon_number_probability(protocol, 1) * (eta * wrong + dark / 2)
    gaps = []
    for pulses in (1e9, 1e12, 1e15):
        clicks = counts(pulses, protocol.intensity_probabilities, gain)
        mistakes = counts(pulses, protocol.intensity_probabilities, errors)
        assert vacuum_events(clicks, protocol) <= true_vacuum * pulses
        assert single_photon_events(clicks, protocol) <= true_singles * pulses
        assert single_photon_errors(mistakes, protocol) >= true_errors * pulses
        gaps.append(1 - single_photon_events(clicks, protocol) / (true_singles * pulses))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.04  # what three intensities cannot tell apart, however long the block


def test_the_length_is_the_sum_of_its_terms() -> None:
    protocol = DecoyProtocol(epsilon_secrecy=21 * 2.0**-40, epsilon_correctness=2.0**-49)
    secrecy = Secrecy(vacuum_events=100.25, single_photon_events=10_000, phase_error_rate=0.11)
    entropy = 100.25 + 10_000 * (1 - binary_entropy(0.11))
    # 6·log2(21/ε_sec) = 240, log2(2/ε_cor) = 50, 2·log2(2^14) = 28
    assert secret_bits(secrecy, protocol, sifted=1 << 14, leaked=1000) == math.floor(entropy - 1000 - 240 - 50 - 28)
    assert secret_bits(secrecy, protocol, sifted=1 << 14, leaked=6000) == 0


def test_the_bounds_are_the_printed_formulas_with_the_printed_constant() -> None:
    """Equations 2 to 5 by hand, for ε_sec = 21·e^(−18): the deviation is then √(n/2·18) = 3·√n."""
    protocol = DecoyProtocol((0.5, 0.25, 0.0), (0.5, 0.25, 0.25), epsilon_secrecy=21 * math.exp(-18))
    n = (6000, 3000, 1000)  # in all 10⁴: the deviation is 300
    tau0 = 0.5 * math.exp(-0.5) + 0.25 * math.exp(-0.25) + 0.25
    tau1 = 0.25 * math.exp(-0.5) + 0.0625 * math.exp(-0.25)
    signal_high, weak_high, weak_low = 2 * math.exp(0.5) * 6300, 4 * math.exp(0.25) * 3300, 4 * math.exp(0.25) * 2700
    vacuum_low, vacuum_high = 4 * 700, 4 * 1300
    assert vacuum_events(n, protocol) == pytest.approx(tau0 * vacuum_low)
    singles = tau1 * 0.5 * (weak_low - vacuum_high - 0.25 * (signal_high - vacuum_low)) / (0.5 * 0.25 - 0.25**2)
    assert single_photon_events(n, protocol) == pytest.approx(singles)
    assert single_photon_errors(n, protocol) == pytest.approx(tau1 * (weak_high - vacuum_low) / 0.25)


def test_the_phase_error_rate_is_sampled_with_the_printed_deviation() -> None:
    """γ written out for a = 2.1e-9, b = 0.02, c = 10⁴, d = 10⁵: by hand, √(1.1e-4·0.0196/ln 2·log2(…))."""
    inner = 1.1e5 / (1e9 * 0.98 * 0.02) * 1e20
    assert sampling_deviation(2.1e-9, 0.02, 1e4, 1e5) == pytest.approx(
        math.sqrt(1.1e5 * 0.98 * 0.02 / (1e9 * math.log(2)) * math.log2(inner)), rel=1e-12
    )


GOOD = Observed(key=(240_000, 105_000, 100), test=(27_000, 11_700, 20), test_errors=(140, 60, 8))


def test_more_errors_more_leakage_or_fewer_detections_never_lengthen_the_key() -> None:
    protocol = DecoyProtocol()

    def length(observed: Observed, leaked: int = 40_000) -> int:
        return secret_bits(bound_secrecy(observed, protocol), protocol, sum(observed.key), leaked)

    assert length(GOOD) > 10_000
    assert length(GOOD, 40_001) == length(GOOD) - 1
    assert length(replace(GOOD, test_errors=(280, 120, 8))) < length(GOOD)
    assert length(replace(GOOD, key=(120_000, 52_500, 50))) < length(GOOD)


@pytest.mark.parametrize(
    "observed",
    [
        replace(GOOD, key=(445_000, 100, 0)),  # the weak decoys were suppressed: photon-number splitting
        replace(GOOD, test_errors=(140, 6000, 8)),
        Observed(key=(300, 300, 300), test=(300, 300, 300), test_errors=(0, 0, 0)),
    ],
)
def test_counts_that_prove_nothing_give_nothing(observed: Observed) -> None:
    secrecy = bound_secrecy(observed, DecoyProtocol())
    assert secrecy.phase_error_rate == 0.5
    assert secret_bits(secrecy, DecoyProtocol(), sum(observed.key), 0) <= secrecy.vacuum_events


def test_a_block_without_a_single_error_is_defined() -> None:
    secrecy = bound_secrecy(replace(GOOD, test_errors=(0, 0, 0)), DecoyProtocol())
    assert 0 < secrecy.phase_error_rate < 0.02


@pytest.mark.parametrize(("probability", "entropy"), [(0.0, 0.0), (0.11, 0.49992), (0.5, 1.0), (0.7, 1.0)])
def test_binary_entropy_never_falls_again(probability: float, entropy: float) -> None:
    assert binary_entropy(probability) == pytest.approx(entropy, abs=1e-5)
