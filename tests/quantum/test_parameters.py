from __future__ import annotations

from typing import Any

import pytest

from qsotn.errors import UsageError
from qsotn.quantum.parameters import METRO, DecoyProtocol, OpticalLink


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"length_km": -1.0}, "length_km is -1.0: expected 0 to 500 km"),
        ({"length_km": float("nan")}, "length_km is nan"),
        ({"attenuation_db_per_km": 11.0}, "expected 0 to 10 dB/km"),
        ({"detector_efficiency": 1.2}, "detector_efficiency is 1.2: expected 1e-06 to 1"),
        ({"dark_count_probability": 0.2}, "per gate"),
        ({"afterpulse_probability": 0.6}, "per click"),
        ({"misalignment": 0.51}, "expected 0 to 0.5"),
        ({"repetition_rate_hz": 0.0}, "Hz"),
    ],
)
def test_an_impossible_link_is_refused_with_the_range_and_the_unit(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        OpticalLink(**wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"intensities": (0.4, 0.3, 0.2)}, "expected μ1 > μ2"),
        ({"intensities": (0.4, 0.1, 0.1)}, "μ2 > μ3"),
        ({"intensities": (0.4, 0.1, -0.1)}, "intensity μ3 is -0.1: expected 0 to 2 photons per pulse"),
        ({"intensity_probabilities": (0.5, 0.25, 0.125)}, "expected a sum of 1"),
        ({"intensity_probabilities": (0.5, 0.3, 0.2)}, "probability of μ2 is 0.3: expected a multiple of 1/256"),
        ({"intensity_probabilities": (0.75, 0.25, 0.0)}, "probability of μ3 is 0.0"),
        ({"key_basis_probability": 0.9}, "for example 0.8984375"),
        ({"key_basis_probability": 1.0}, "key_basis_probability is 1.0"),
        ({"pulses_per_block": 1000}, "expected 1024 to 268435456 pulses"),
        ({"max_error_rate": 0.3}, "test bits"),
        ({"epsilon_secrecy": 0.0}, "epsilon_secrecy is 0.0"),
        ({"epsilon_correctness": 1.0}, "epsilon_correctness is 1.0"),
    ],
)
def test_an_impossible_protocol_is_refused_with_the_range_and_the_unit(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace(".", r"\.").replace("(", r"\(")):
        DecoyProtocol(**wrong)


def test_twenty_five_kilometres_at_a_fifth_of_a_decibel_lose_five_decibels() -> None:
    assert METRO.optics.fibre_transmittance == pytest.approx(0.316228, rel=1e-5)
    assert METRO.optics.transmittance == pytest.approx(0.6 * 0.316228, rel=1e-5)


@pytest.mark.parametrize(("epsilon", "bits"), [(1e-15, 50), (2.0**-64, 64), (1e-3, 10)])
def test_the_verification_hash_is_as_long_as_correctness_needs(epsilon: float, bits: int) -> None:
    assert DecoyProtocol(epsilon_correctness=epsilon).verification_bits == bits
