from __future__ import annotations

import numpy as np
import pytest

from qsotn.quantum.estimation import Observed, observe
from qsotn.quantum.failures import TooFewDetections, TooManyErrors
from qsotn.quantum.parameters import DecoyProtocol
from qsotn.quantum.sifting import Sifted

PROTOCOL = DecoyProtocol(max_error_rate=0.05)


def sifted(key: int, test: int) -> Sifted:
    pattern = np.array([0, 0, 1, 2], np.uint8)
    zeros = np.zeros(max(key, test), np.uint8)
    return Sifted(key + test, zeros[:key], np.resize(pattern, key), zeros[:test], np.resize(pattern, test))


def test_detections_and_errors_are_counted_per_intensity() -> None:
    far = np.zeros(400, np.uint8)
    far[[0, 1, 2, 4, 7]] = 1  # intensities 0, 0, 1, 0, 2
    observed = observe(sifted(800, 400), far, PROTOCOL)
    assert observed == Observed(key=(400, 200, 200), test=(200, 100, 100), test_errors=(3, 1, 1))
    assert observed.error_rate == 5 / 400


@pytest.mark.parametrize(("key", "test"), [(255, 400), (400, 255), (0, 0)])
def test_too_few_detections_end_the_block(key: int, test: int) -> None:
    with pytest.raises(TooFewDetections, match=f"{key} key and {test} test bits"):
        observe(sifted(key, test), np.zeros(test, np.uint8), PROTOCOL)


@pytest.mark.parametrize(("errors", "stops"), [(20, False), (21, True)])
def test_more_errors_than_the_limit_end_the_block(errors: int, stops: bool) -> None:
    far = np.zeros(400, np.uint8)
    far[:errors] = 1
    if not stops:
        observe(sifted(400, 400), far, PROTOCOL)
        return
    with pytest.raises(TooManyErrors, match=r"5\.25% errors: the limit is 5\.00%"):
        observe(sifted(400, 400), far, PROTOCOL)
