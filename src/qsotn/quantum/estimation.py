"""Parameter estimation: what was detected per intensity, and how often the test bits differ.

The convention is that of Lim et al. 2014, section II: the key is made from the X basis, errors are counted in the Z
basis, whose bits both parties announce. The key's own bits are never compared. The phase error rate of the X bits is
bounded from the Z errors in `finite_key`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsotn.quantum.failures import TooFewDetections, TooManyErrors
from qsotn.quantum.optics import Bits
from qsotn.quantum.parameters import DecoyProtocol
from qsotn.quantum.sifting import Sifted

Counts = tuple[int, int, int]
"""One number per intensity μ1, μ2, μ3."""


@dataclass(frozen=True)
class Observed:
    """Lim et al.'s n_X,k, n_Z,k and m_Z,k: the same at Alice and Bob, because both compute them from what was said."""

    key: Counts
    test: Counts
    test_errors: Counts

    @property
    def error_rate(self) -> float:
        """QBER of the test basis over all intensities."""
        return sum(self.test_errors) / sum(self.test)


def observe(sifted: Sifted, far_test_bits: Bits, protocol: DecoyProtocol) -> Observed:
    """Count, and refuse a block that is not worth going on with.

    Raises `TooFewDetections` if an intensity was never seen in one of the bases, and `TooManyErrors` above the
    protocol's limit.
    """
    wrong = sifted.test_intensity[sifted.test_bits != far_test_bits]
    observed = Observed(_count(sifted.key_intensity), _count(sifted.test_intensity), _count(wrong))
    if min(sum(observed.key), sum(observed.test)) < MINIMUM_SIFTED_BITS:
        raise TooFewDetections(
            f"{sum(observed.key)} key and {sum(observed.test)} test bits were sifted of {sifted.detections} detections:"
            f" expected at least {MINIMUM_SIFTED_BITS} of each"
        )
    if observed.error_rate > protocol.max_error_rate:
        raise TooManyErrors(
            f"the test basis shows {observed.error_rate:.2%} errors: the limit is {protocol.max_error_rate:.2%}",
            observed.error_rate,
        )
    return observed


MINIMUM_SIFTED_BITS = 256
"""Below this, no choice of parameters leaves a key; it also keeps every later formula defined."""


def _count(intensity: Bits) -> Counts:
    signal, weak, vacuum = np.bincount(intensity, minlength=3).tolist()
    return signal, weak, vacuum
