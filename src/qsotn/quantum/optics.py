"""The physics: a phase-randomised weak-pulse source, a fibre, perhaps an eavesdropper, and Bob's two detectors.

A phase-randomised coherent pulse of mean photon number μ is a Poisson mixture of photon-number states (Lo, Ma and
Chen 2005), and loss takes each photon on its own. So light is a list of photons, each with the index of its pulse
and its polarisation; the photon numbers are drawn once, at the source, and Eve or the fibre act on real photons.

What always holds: the twin's chance comes from the generator given here and never from a party's entropy; Bob's side
gives clicks for the bases he chose and nothing else. Not modelled: dead time, timing, detector mismatch and the
side channels that attacks on real detectors use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsotn.quantum.parameters import OpticalLink

Bits = NDArray[np.uint8]
"""One 0 or 1 in each byte. As bases: 1 is X (the key basis), 0 is Z."""
Indices = NDArray[np.int64]

Attack = Callable[["Light", np.random.Generator], "Light"]
"""What an eavesdropper does to the light at Alice's door."""


@dataclass(frozen=True, repr=False)
class Light:
    """The photons of consecutive pulses: per photon its pulse, the basis of its polarisation and the bit it carries."""

    pulses: int
    pulse: Indices
    basis: Bits
    bit: Bits


@dataclass(frozen=True, repr=False)
class Clicks:
    """The gates in which a detector fired, ascending, and which of the two did (both may)."""

    gate: Indices
    zero: NDArray[np.bool_]
    one: NDArray[np.bool_]


def happens(generator: np.random.Generator, probability: float, count: int) -> NDArray[np.bool_]:
    """Draw `count` independent events of that probability, exact to 2⁻³²."""
    threshold = round(probability * 2**32)
    if threshold == 1 << 32:
        return np.ones(count, dtype=np.bool_)
    return generator.integers(0, 1 << 32, count, dtype=np.uint32) < np.uint32(threshold)


class Source:
    """Alice's laser, intensity modulator and polarisation encoder."""

    def __init__(self, intensities: tuple[float, float, float], generator: np.random.Generator) -> None:
        self._means = np.array(intensities)
        self._generator = generator

    def emit(self, intensity: Bits, basis: Bits, bit: Bits) -> Light:
        """Return the photons of these pulses; `intensity` indexes the three mean photon numbers."""
        draws = self._generator.integers(0, 1 << 32, len(intensity), dtype=np.uint32)
        pulse = np.concatenate([np.empty(0, np.int64), *self._photons(draws, intensity)])
        return Light(len(intensity), pulse, basis[pulse], bit[pulse])

    def _photons(self, draws: NDArray[np.uint32], intensity: Bits) -> Iterator[Indices]:
        """Yield, for k = 1, 2, …, the pulses with at least k photons (the inverse of the Poisson distribution)."""
        term = np.exp(-self._means)
        fewer, count = term.copy(), 1
        lit = np.flatnonzero(draws > self._thresholds(fewer)[intensity])
        while len(lit):
            yield lit
            term = term * self._means / count
            fewer, count = fewer + term, count + 1
            lit = lit[draws[lit] > self._thresholds(fewer)[intensity[lit]]]

    def _thresholds(self, probabilities: NDArray[np.float64]) -> NDArray[np.uint32]:
        return np.minimum(probabilities * 2**32, 2**32 - 1).astype(np.uint32)


class Fibre:
    """The quantum channel: it loses photons, each with the same probability."""

    def __init__(self, link: OpticalLink, generator: np.random.Generator) -> None:
        self._transmittance = link.fibre_transmittance
        self._generator = generator

    def carry(self, light: Light) -> Light:
        """Return the photons that arrive."""
        kept = np.flatnonzero(happens(self._generator, self._transmittance, len(light.pulse)))
        return Light(light.pulses, light.pulse[kept], light.basis[kept], light.bit[kept])


class Detectors:
    """Bob's basis switch and two threshold detectors, gated with the pulses."""

    def __init__(self, link: OpticalLink, generator: np.random.Generator) -> None:
        self._link = link
        self._generator = generator
        self._last_gate = np.zeros(2, dtype=np.bool_)

    def measure(self, light: Light, bases: Bits) -> Clicks:
        """Return the clicks of the gates of `light`, measured in these bases (one per gate)."""
        fired = np.zeros((2, light.pulses), dtype=np.bool_)
        self._photon_clicks(fired, light, bases)
        self._dark_counts(fired)
        self._afterpulses(fired)
        gate = np.flatnonzero(fired[0] | fired[1])
        return Clicks(gate, fired[0, gate], fired[1, gate])

    def _photon_clicks(self, fired: NDArray[np.bool_], light: Light, bases: Bits) -> None:
        seen = np.flatnonzero(happens(self._generator, self._link.detector_efficiency, len(light.pulse)))
        gate = light.pulse[seen]
        strayed = happens(self._generator, self._link.misalignment, len(seen))
        coin = happens(self._generator, 0.5, len(seen))
        aligned = light.basis[seen] == bases[gate]
        outcome = light.bit[seen] ^ np.where(aligned, strayed, coin)
        fired[outcome, gate] = True

    def _dark_counts(self, fired: NDArray[np.bool_]) -> None:
        for detector in fired:
            count = self._generator.binomial(len(detector), self._link.dark_count_probability)
            detector[self._generator.choice(len(detector), count, replace=False, shuffle=False)] = True

    def _afterpulses(self, fired: NDArray[np.bool_]) -> None:
        probability = self._link.afterpulse_probability
        if not probability:
            return
        for number, detector in enumerate(fired):
            clicked = np.flatnonzero(detector)
            again = clicked[happens(self._generator, probability, len(clicked))] + 1
            carried = self._last_gate[number]
            self._last_gate[number] = len(again) > 0 and again[-1] == len(detector)
            detector[again[again < len(detector)]] = True
            detector[0] |= carried


class QuantumChannel:
    """Everything between Alice's encoder and Bob's click counter. She calls `emit`, he is given `measure`.

    The light in flight is this object's own: Bob holds only the bound method `measure`.
    """

    def __init__(
        self, link: OpticalLink, intensities: tuple[float, float, float], seed: int, attack: Attack | None = None
    ) -> None:
        self._generator = np.random.Generator(np.random.SFC64(seed))
        self._source = Source(intensities, self._generator)
        self._fibre = Fibre(link, self._generator)
        self._detectors = Detectors(link, self._generator)
        self._attack = attack
        self._in_flight: Light | None = None

    def emit(self, intensity: Bits, basis: Bits, bit: Bits) -> None:
        """Send pulses, one element each; they must be measured before the next are sent."""
        if self._in_flight is not None:
            raise RuntimeError("pulses were emitted before the last ones were measured")
        light = self._source.emit(intensity, basis, bit)
        self._in_flight = self._fibre.carry(self._attack(light, self._generator) if self._attack else light)

    def measure(self, bases: Bits) -> Clicks:
        """Measure the pulses in flight, one basis each; measured light is gone."""
        light, self._in_flight = self._in_flight, None
        if light is None or light.pulses != len(bases):
            raise RuntimeError(f"{len(bases)} bases were given for {light.pulses if light else 0} pulses in flight")
        return self._detectors.measure(light, bases)


def intercept_resend(fraction: float) -> Attack:
    """Return the attack that measures this fraction of the pulses in a random basis and sends on what it saw.

    It adds `fraction`/4 to the error rate of either basis (half of the bases are wrong, half of those bits then).
    """

    def attack(light: Light, generator: np.random.Generator) -> Light:
        taken = happens(generator, fraction, light.pulses)[light.pulse]
        basis = happens(generator, 0.5, light.pulses).astype(np.uint8)[light.pulse]
        coin = happens(generator, 0.5, light.pulses).astype(np.uint8)[light.pulse]
        seen = np.where(basis == light.basis, light.bit, coin)
        resent_bit = np.where(taken, seen, light.bit).astype(np.uint8)
        return Light(light.pulses, light.pulse, np.where(taken, basis, light.basis).astype(np.uint8), resent_bit)

    return attack
