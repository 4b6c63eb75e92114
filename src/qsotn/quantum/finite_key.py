"""How long a secret key the observed counts allow: Lim, Curty, Walenta, Xu and Zbinden, PRA 89, 022307 (2014).

Equation numbers are theirs; logarithms are to base 2 except `ln`. Their ε_sec is split evenly into 21 terms, hence
the constant 21. The statement holds against general attacks, for a block whose number of pulses was fixed beforehand
and for keys of the length computed here whenever the block is not abandoned. Two points are ours:

* λ_EC counts the reconciliation of both directions (`reconciliation` has the argument).
* λ_EC is known only after Cascade ran. Let ρ̃ be the state within smoothing distance whose min-entropy the formula
  bounds; Cascade splits it into orthogonal classes by the number λ that was leaked, at most n_X of them give a key,
  and class λ has at most 2^λ transcripts, so its min-entropy lost at most λ. Hashing class λ to ℓ(λ) bits leaves a
  distance of at most 2^(−(H−λ−ℓ)/2)/2 for each; their sum stays within the budget when every ℓ(λ) is 2·log2(n_X)
  shorter. The smoothing distance is paid once, because the classes are orthogonal. `length_classes` is that price.

The counts themselves, too, vary from block to block. Adjusting ℓ to them is what every implementation of the formula
does; a proof for variable length (Tupkary, Tan and Lütkenhaus 2024) asks for its own, slightly different bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qsotn.quantum.estimation import Counts, Observed
from qsotn.quantum.parameters import DecoyProtocol


@dataclass(frozen=True)
class Secrecy:
    """Bounds on the X detections: from vacuum pulses, from single photons, and the phase error rate of the latter."""

    vacuum_events: float
    single_photon_events: float
    phase_error_rate: float
    """Upper bound; 0.5 if nothing can be said."""


def binary_entropy(probability: float) -> float:
    """h(x), bits; 1 from one half on, as it is used on upper bounds of error rates."""
    if probability <= 0:
        return 0.0
    if probability >= 0.5:
        return 1.0
    return -probability * math.log2(probability) - (1 - probability) * math.log2(1 - probability)


def photon_number_probability(protocol: DecoyProtocol, photons: int) -> float:
    """τ_n = Σ_k p_k·e^(−k)·kⁿ/n!, that a pulse of any intensity has n photons (below eq. 2)."""
    choices = zip(protocol.intensities, protocol.intensity_probabilities, strict=True)
    return sum(p * math.exp(-k) * k**photons / math.factorial(photons) for k, p in choices)


class _Scaled:
    """n±_k = (e^k/p_k)·[n_k ± √(n/2·ln(21/ε_sec))], with n the total over the intensities (eq. 3 and Hoeffding)."""

    def __init__(self, counts: Counts, protocol: DecoyProtocol) -> None:
        self._counts = counts
        self._protocol = protocol
        self._deviation = math.sqrt(sum(counts) / 2 * math.log(21 / protocol.epsilon_secrecy))

    def low(self, k: int) -> float:
        """n⁻ of intensity number k."""
        return self._scale(k) * (self._counts[k] - self._deviation)

    def high(self, k: int) -> float:
        """n⁺ of intensity number k."""
        return self._scale(k) * (self._counts[k] + self._deviation)

    def _scale(self, k: int) -> float:
        return math.exp(self._protocol.intensities[k]) / self._protocol.intensity_probabilities[k]


def vacuum_events(counts: Counts, protocol: DecoyProtocol) -> float:
    """s0 ≥ τ0·(μ2·n⁻_μ3 − μ3·n⁺_μ2)/(μ2 − μ3), at least zero (eq. 2)."""
    _, weak, vacuum = protocol.intensities
    n = _Scaled(counts, protocol)
    bound = (weak * n.low(2) - vacuum * n.high(1)) / (weak - vacuum)
    return max(0.0, photon_number_probability(protocol, 0) * bound)


def single_photon_events(counts: Counts, protocol: DecoyProtocol) -> float:
    """s1 ≥ τ1·μ1·[n⁻_μ2 − n⁺_μ3 − (μ2² − μ3²)/μ1²·(n⁺_μ1 − s0/τ0)] / [μ1(μ2 − μ3) − μ2² + μ3²] (eq. 4)."""
    signal, weak, vacuum = protocol.intensities
    n = _Scaled(counts, protocol)
    multiphoton = n.high(0) - vacuum_events(counts, protocol) / photon_number_probability(protocol, 0)
    numerator = n.low(1) - n.high(2) - (weak**2 - vacuum**2) / signal**2 * multiphoton
    denominator = signal * (weak - vacuum) - weak**2 + vacuum**2
    return max(0.0, photon_number_probability(protocol, 1) * signal * numerator / denominator)


def single_photon_errors(errors: Counts, protocol: DecoyProtocol) -> float:
    """v1 ≤ τ1·(m⁺_μ2 − m⁻_μ3)/(μ2 − μ3) (below eq. 5)."""
    _, weak, vacuum = protocol.intensities
    m = _Scaled(errors, protocol)
    return max(0.0, photon_number_probability(protocol, 1) * (m.high(1) - m.low(2)) / (weak - vacuum))


def sampling_deviation(epsilon: float, rate: float, test: float, key: float) -> float:
    """γ(a, b, c, d) = √((c+d)(1−b)b/(c·d·ln 2)·log2((c+d)/(c·d·(1−b)·b)·21²/a²)), random sampling (below eq. 5)."""
    spread = (test + key) / (test * key)
    variance = (1 - rate) * rate
    return math.sqrt(spread * variance / math.log(2) * math.log2(spread / variance * 21**2 / epsilon**2))


def bound_secrecy(observed: Observed, protocol: DecoyProtocol) -> Secrecy:
    """Bound what an eavesdropper cannot know of the X bits, from both bases' counts (eqs. 2 to 5)."""
    vacuum = vacuum_events(observed.key, protocol)
    singles = single_photon_events(observed.key, protocol)
    test_singles = single_photon_events(observed.test, protocol)
    if singles < 1 or test_singles < 1:
        return Secrecy(vacuum, singles, 0.5)
    # Without any error v1 is zero and γ has no value there: one error more than was seen is on the safe side.
    rate = max(1.0, single_photon_errors(observed.test_errors, protocol)) / test_singles
    if rate >= 0.5:
        return Secrecy(vacuum, singles, 0.5)
    phase_error = rate + sampling_deviation(protocol.epsilon_secrecy, rate, test_singles, singles)
    return Secrecy(vacuum, singles, min(0.5, phase_error))


def secret_bits(secrecy: Secrecy, protocol: DecoyProtocol, sifted: int, leaked: int) -> int:
    """ℓ = ⌊s0 + s1·(1 − h(φ)) − λ_EC − 6·log2(21/ε_sec) − log2(2/ε_cor)⌋ (eq. 1), never below zero.

    `leaked` is λ_EC in bits; the last term pays for the verification hash. `sifted` is n_X, for the choice of length.
    """
    entropy = secrecy.vacuum_events + secrecy.single_photon_events * (1 - binary_entropy(secrecy.phase_error_rate))
    overhead = 6 * math.log2(21 / protocol.epsilon_secrecy) + math.log2(2 / protocol.epsilon_correctness)
    return max(0, math.floor(entropy - leaked - overhead - length_classes(sifted)))


def length_classes(sifted: int) -> float:
    """2·log2(n_X) bits: the price of choosing ℓ after the leakage is known (module docstring)."""
    return 2 * math.log2(sifted)
