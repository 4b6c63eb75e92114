"""RS(255,239) of ITU-T G.709 Annex A on NumPy arrays: the portable twin of `native/fec.c`, and its oracle.

The field is x⁸+x⁴+x³+x²+1, the generator's roots are α⁰ to α¹⁵. Symbol i of codeword c of a row of 4080 columns is
byte 16i+c; symbol 0, which is sent first, is the coefficient of x²⁵⁴. Decoding goes by Euclid's algorithm, where the
compiled kernel goes by Berlekamp's and Massey's: what lies within eight symbols of a codeword has one decoding only, so
both must find the same.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from qsotn.dataplane.kernel_interface import Bytes

CODEWORDS: Final = 16
"""Codewords of a row."""
MESSAGE_SIZE: Final = 239
PARITY_SIZE: Final = 16
CORRECTABLE: Final = PARITY_SIZE // 2
"""Wrong symbols of a codeword that are put right."""

_ORDER: Final = 255
_FIELD_POLYNOMIAL: Final = 0x11D


def _powers() -> list[int]:
    powers = [1]
    while len(powers) < _ORDER:
        doubled = powers[-1] << 1
        powers.append(doubled ^ (_FIELD_POLYNOMIAL if doubled >> 8 else 0))
    return powers


_EXPONENT: Final = _powers() * 2
_LOGARITHM: Final = {value: power for power, value in enumerate(_EXPONENT[:_ORDER])}


def _product(a: int, b: int) -> int:
    return _EXPONENT[_LOGARITHM[a] + _LOGARITHM[b]] if a and b else 0


def _inverse(a: int) -> int:
    return _EXPONENT[_ORDER - _LOGARITHM[a]]


def _times(left: list[int], right: list[int]) -> list[int]:
    """Multiply polynomials, lowest coefficient first."""
    total = [0] * (len(left) + len(right) - 1)
    for degree, factor in enumerate(left):
        for offset, other in enumerate(right):
            total[degree + offset] ^= _product(factor, other)
    return total


def generator() -> list[int]:
    """Return the generator polynomial, lowest coefficient first; its last is 1."""
    polynomial = [1]
    for root in range(PARITY_SIZE):
        polynomial = _times(polynomial, [_EXPONENT[root], 1])
    return polynomial


def _feedback() -> Bytes:
    """Return, for every symbol, its products with the generator's coefficients from x¹⁵ down to x⁰."""
    coefficients = generator()[PARITY_SIZE - 1 :: -1]
    return np.array([[_product(symbol, factor) for factor in coefficients] for symbol in range(256)], np.uint8)


_FEEDBACK: Final = _feedback()


def codewords_of(frames: Bytes) -> Bytes:
    """View OTU rows, (..., 4080), as their codewords: (rows, symbols, 16)."""
    return frames.reshape(-1, _ORDER, CODEWORDS)


def parity_of(frames: Bytes) -> Bytes:
    """Return the parity symbols of all codewords of `frames`, in the shape of `codewords_of`: (rows, 16, 16)."""
    codewords = codewords_of(frames)
    rest = np.zeros((len(codewords), CODEWORDS, PARITY_SIZE), np.uint8)
    for symbol in range(MESSAGE_SIZE):
        added = _FEEDBACK[codewords[:, symbol] ^ rest[:, :, 0]]
        rest[:, :, :-1] = rest[:, :, 1:]
        rest[:, :, -1] = 0
        rest ^= added
    return rest.transpose(0, 2, 1)


def encode(frames: Bytes) -> None:
    """Fill the parity columns, 3825 to 4080, of `frames` in place."""
    codewords_of(frames)[:, MESSAGE_SIZE:] = parity_of(frames)


def decode(frames: Bytes) -> tuple[int, int]:
    """Put right what can be, in place; return (corrected symbols, codewords beyond correction, left as they are)."""
    codewords = codewords_of(frames)
    damaged = (codewords[:, MESSAGE_SIZE:] ^ parity_of(frames)).any(axis=1)
    corrected = uncorrectable = 0
    for row, codeword in zip(*np.nonzero(damaged), strict=True):
        errors = error_pattern(codewords[row, :, codeword].tolist())
        uncorrectable += errors is None
        for symbol, value in (errors or {}).items():
            codewords[row, symbol, codeword] ^= value
            corrected += 1
    return corrected, uncorrectable


def error_pattern(symbols: list[int]) -> dict[int, int] | None:
    """Return what to add to which symbols of a codeword, or None if more than eight are wrong."""
    syndromes = [_value(symbols[::-1], root) for root in range(PARITY_SIZE)]
    if not any(syndromes):
        return {}
    locator, evaluator = _key_equation(syndromes)
    places = [place for place in range(_ORDER) if not _value(locator, -place)]
    if not 0 < len(places) == _degree(locator) <= CORRECTABLE:
        return None
    derivative = [factor if degree % 2 else 0 for degree, factor in enumerate(locator)][1:]
    pattern = {}
    for place in places:
        slope = _value(derivative, -place)
        value = _product(_EXPONENT[place], _product(_value(evaluator, -place), _inverse(slope)))
        pattern[_ORDER - 1 - place] = value
    return pattern


def _value(polynomial: list[int], power: int) -> int:
    """Evaluate a polynomial, lowest coefficient first, at that power of α."""
    total = 0
    at = _EXPONENT[power % _ORDER]
    for factor in reversed(polynomial):
        total = _product(total, at) ^ factor
    return total


def _degree(polynomial: list[int]) -> int:
    return max((degree for degree, factor in enumerate(polynomial) if factor), default=-1)


def _key_equation(syndromes: list[int]) -> tuple[list[int], list[int]]:
    """Return error locator and evaluator by Euclid's algorithm on x¹⁶ and the syndromes (Sugiyama and others)."""
    before, rest = [0] * PARITY_SIZE + [1], syndromes
    former, locator = [0], [1]
    while _degree(rest) >= CORRECTABLE:
        factor, remainder = _divide(before, rest)
        before, rest = rest, remainder
        former, locator = locator, _sum(former, _times(factor, locator))
    if not locator[0]:
        return [0], [0]
    scale = [_inverse(locator[0])]
    return _times(locator, scale), _times(rest, scale)


def _sum(left: list[int], right: list[int]) -> list[int]:
    size = max(len(left), len(right))
    padded = (polynomial + [0] * (size - len(polynomial)) for polynomial in (left, right))
    return [a ^ b for a, b in zip(*padded, strict=True)]


def _divide(dividend: list[int], divisor: list[int]) -> tuple[list[int], list[int]]:
    """Return quotient and remainder; the divisor is not zero."""
    rest, quotient = list(dividend), [0] * len(dividend)
    top = _degree(divisor)
    lead = _inverse(divisor[top])
    for shift in range(_degree(dividend) - top, -1, -1):
        quotient[shift] = _product(rest[shift + top], lead)
        for degree in range(top + 1):
            rest[shift + degree] ^= _product(quotient[shift], divisor[degree])
    return quotient, rest
