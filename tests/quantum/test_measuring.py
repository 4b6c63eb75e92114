"""The error rate of light, measured without a key."""

from __future__ import annotations

import pytest
from tests.world import Chance

from qsotn.quantum.failures import TooFewDetections
from qsotn.quantum.measuring import measure_error_rate
from qsotn.quantum.optics import intercept_resend
from qsotn.quantum.parameters import METRO, OpticalLink, Parameters


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.4, 1.0])
def test_an_eavesdropper_adds_a_quarter_of_what_she_measures(fraction: float) -> None:
    attack = intercept_resend(fraction) if fraction else None
    rate = measure_error_rate(METRO, Chance("alice"), Chance("bob"), 7, attack=attack)
    quiet = METRO.optics.misalignment
    assert rate == pytest.approx(fraction / 4 + quiet * (1 - fraction), abs=0.02)


def test_light_that_hardly_arrives_is_told_and_not_guessed() -> None:
    dark = Parameters(OpticalLink(length_km=400.0))
    with pytest.raises(TooFewDetections, match="test bits were sifted: expected at least 256"):
        measure_error_rate(dark, Chance("alice"), Chance("bob"), 7)
