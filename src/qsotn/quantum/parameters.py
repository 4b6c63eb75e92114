"""The optical link and the decoy BB84 protocol, as numbers with units and limits.

Names follow Lim et al., Phys. Rev. A 89, 022307 (2014): intensities μ1 > μ2 + μ3 and μ2 > μ3 ≥ 0, chosen with
probabilities p1, p2, p3; the X basis, which makes the key, is chosen with probability qX and Z, which counts errors,
with 1 − qX. The choices are drawn from whole bytes of the party's own entropy, so every probability is a multiple of
1/256, and is then exact.

What always holds: an object of these classes describes a possible link; the constructor raises `UsageError` otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from qsotn.errors import UsageError


def _within(name: str, value: float, low: float, high: float, unit: str) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise UsageError(f"{name} is {value}: expected {low} to {high} {unit}")


def _whole_256ths(name: str, value: float) -> None:
    if value * 256 != round(value * 256):
        raise UsageError(f"{name} is {value}: expected a multiple of 1/256, for example {round(value * 256) / 256}")


@dataclass(frozen=True)
class OpticalLink:
    """Fibre, source clock and detectors. The defaults describe 25 km of metro fibre and superconducting detectors."""

    length_km: float = 25.0
    attenuation_db_per_km: float = 0.2
    detector_efficiency: float = 0.6
    """Probability that a photon at Bob's input makes a click, his optics' own loss included."""
    dark_count_probability: float = 1e-7
    """Per gate and detector."""
    afterpulse_probability: float = 0.0
    """That a click is followed by another of the same detector in the next gate."""
    misalignment: float = 0.005
    """Probability that a photon prepared and measured in the same basis reaches the wrong detector."""
    repetition_rate_hz: float = 200e6

    def __post_init__(self) -> None:
        _within("length_km", self.length_km, 0, 500, "km")
        _within("attenuation_db_per_km", self.attenuation_db_per_km, 0, 10, "dB/km")
        _within("detector_efficiency", self.detector_efficiency, 1e-6, 1, "(probability)")
        _within("dark_count_probability", self.dark_count_probability, 0, 0.1, "per gate")
        _within("afterpulse_probability", self.afterpulse_probability, 0, 0.5, "per click")
        _within("misalignment", self.misalignment, 0, 0.5, "(probability)")
        _within("repetition_rate_hz", self.repetition_rate_hz, 1, 1e11, "Hz")

    @property
    def fibre_transmittance(self) -> float:
        """η of the fibre alone: 10^(−αL/10)."""
        return float(10 ** (-self.attenuation_db_per_km * self.length_km / 10))

    @property
    def transmittance(self) -> float:
        """η of the whole system, fibre and detectors."""
        return self.fibre_transmittance * self.detector_efficiency


@dataclass(frozen=True)
class DecoyProtocol:
    """What Alice and Bob agreed on beforehand. The defaults are tuned for `OpticalLink()`."""

    intensities: tuple[float, float, float] = (0.6, 0.25, 2e-4)
    """Mean photons per pulse: signal μ1, weak decoy μ2, near-vacuum decoy μ3."""
    intensity_probabilities: tuple[float, float, float] = (96 / 256, 96 / 256, 64 / 256)
    key_basis_probability: float = 0.75
    """qX, the same at Alice and Bob (efficient BB84, Lo, Chau and Ardehali 2005)."""
    pulses_per_block: int = 12 << 20
    """Fixed in advance: a block never goes on until enough was sifted, which would bias the sample (Pfister 2016)."""
    max_error_rate: float = 0.08
    """The block is abandoned when more of the test bits differ."""
    epsilon_secrecy: float = 1e-10
    epsilon_correctness: float = 1e-15

    def __post_init__(self) -> None:
        _within("key_basis_probability", self.key_basis_probability, 1 / 256, 255 / 256, "(probability)")
        _whole_256ths("key_basis_probability", self.key_basis_probability)
        _within("pulses_per_block", self.pulses_per_block, 1 << 10, 1 << 28, "pulses")
        _within("max_error_rate", self.max_error_rate, 0.0, 0.25, "(fraction of the test bits)")
        _within("epsilon_secrecy", self.epsilon_secrecy, 1e-30, 0.1, "(probability)")
        _within("epsilon_correctness", self.epsilon_correctness, 1e-30, 0.1, "(probability)")
        self._check_intensities()

    def _check_intensities(self) -> None:
        signal, weak, vacuum = self.intensities
        for name, value in zip(("μ1", "μ2", "μ3"), self.intensities, strict=True):
            _within(f"intensity {name}", value, 0, 2, "photons per pulse")
        if not (signal > weak + vacuum and weak > vacuum):
            raise UsageError(f"intensities are {self.intensities}: expected μ1 > μ2 + μ3 and μ2 > μ3 photons per pulse")
        for index, value in enumerate(self.intensity_probabilities, 1):
            _within(f"probability of μ{index}", value, 1 / 256, 254 / 256, "(probability)")
            _whole_256ths(f"probability of μ{index}", value)
        if sum(self.intensity_probabilities) != 1:
            raise UsageError(f"intensity_probabilities are {self.intensity_probabilities}: expected a sum of 1")

    @property
    def verification_bits(self) -> int:
        """⌈log2(1/ε_cor)⌉, the length of the verification hash."""
        return math.ceil(math.log2(1 / self.epsilon_correctness))


@dataclass(frozen=True)
class Parameters:
    """One QKD link: its physics and its protocol."""

    optics: OpticalLink = field(default_factory=OpticalLink)
    protocol: DecoyProtocol = field(default_factory=DecoyProtocol)


METRO = Parameters()
"""25 km of metro fibre: about 120 000 net secret bits in each block of 63 ms of link time."""
