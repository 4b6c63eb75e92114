"""Toeplitz hashing: the universal₂ family for verification and for privacy amplification.

A Toeplitz matrix over GF(2) of m rows and n columns is fixed by n + m − 1 seed bits: T[i, j] = seed[i − j + n − 1].
For a uniform seed, two different inputs collide with probability 2^−m, and nothing less than the whole family is used
(Carter and Wegman 1979; Krawczyk 1994). The leftover hash lemma asks for exactly this property.

Two ways to the same product: row by row for the short verification hash, one fast Fourier transform for the long key.
"""

from __future__ import annotations

import numpy as np

from qsotn.errors import LocalError
from qsotn.quantum.optics import Bits

_ROUNDING_LIMIT = 0.25
"""Half of the distance at which a rounded sum would become the wrong integer."""


def seed_length(rows: int, columns: int) -> int:
    """Return how many seed bits a Toeplitz matrix of this shape takes."""
    return rows + columns - 1


def toeplitz_rows(bits: Bits, seed: Bits) -> Bits:
    """Return T·bits for few rows; their number follows from the seed's length. Exact integer arithmetic."""
    rows = len(seed) - len(bits) + 1
    backwards = bits[::-1]
    return np.array([np.count_nonzero(seed[i : i + len(bits)] & backwards) & 1 for i in range(rows)], dtype=np.uint8)


def toeplitz_fft(bits: Bits, seed: Bits) -> Bits:
    """Return T·bits for many rows, as a convolution of integers modulo 2.

    The convolution is cyclic over at least as many places as the seed has; what wraps falls on places that are not
    used. Its values are integers below len(bits), far inside double precision, and the distance of each from an
    integer is checked: `LocalError` rather than a wrong key bit.
    """
    rows = len(seed) - len(bits) + 1
    size = _smooth_size(len(seed))
    spectrum = np.fft.rfft(seed, size)
    spectrum *= np.fft.rfft(bits, size)
    sums = np.fft.irfft(spectrum, size)[len(bits) - 1 : len(bits) - 1 + rows]
    rounded = np.rint(sums)
    worst = float(np.abs(sums - rounded).max())
    if not worst < _ROUNDING_LIMIT:
        raise LocalError(f"the Fourier transform of privacy amplification is off by {worst:.3g}: expected below 0.25")
    return (rounded.astype(np.int64) & 1).astype(np.uint8)


def _smooth_size(least: int) -> int:
    """Return the smallest 2^a·3^b·5^c that is not below `least`: sizes the transform is fast for."""
    best = 1 << (least - 1).bit_length()
    fives = [5**c for c in range(12)]
    for odd in (3**b * five for b in range(12) for five in fives):
        quotient = -(-least // odd)
        best = min(best, odd << (quotient - 1).bit_length())
    return best
