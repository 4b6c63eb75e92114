"""RS(255,239) against published values and an independent implementation."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tests.dataplane.kernels import KERNELS, kernel_named

from qsotn.dataplane import reed_solomon
from qsotn.dataplane.kernel_interface import Bytes

DVB_GENERATOR = [59, 13, 104, 189, 68, 209, 30, 8, 163, 65, 41, 229, 98, 50, 36, 59]
"""ETSI EN 300 421 clause 4.4.2 (DVB) takes the field and roots of G.709 Annex A; its shortened RS(204,188) so has the
same generator polynomial. Coefficients of x¹⁵ to x⁰, as open implementations print them."""

QR_GENERATOR_EXPONENTS = [120, 104, 107, 109, 102, 161, 76, 3, 91, 191, 147, 169, 182, 194, 225, 120]
"""ISO/IEC 18004 Annex A has the same again, for 16 error correction codewords, as exponents of α."""


def test_the_generator_is_the_published_one() -> None:
    polynomial = reed_solomon.generator()
    assert polynomial[-1] == 1
    assert polynomial[-2::-1] == DVB_GENERATOR
    exponents = [reed_solomon._LOGARITHM[coefficient] for coefficient in polynomial[-2::-1]]
    assert exponents == QR_GENERATOR_EXPONENTS


def row_of(symbols: bytes, codeword: int) -> Bytes:
    """A frame whose only message is `symbols`, in one codeword of its last row."""
    frames = np.zeros((1, 4, 4080), np.uint8)
    reed_solomon.codewords_of(frames)[3, : len(symbols), codeword] = np.frombuffer(symbols, np.uint8)
    return frames


@pytest.mark.parametrize("kernel_name", KERNELS)
@pytest.mark.parametrize(
    ("message", "parity"),
    [
        # A message that is its last symbol alone leaves the generator's coefficients.
        (bytes(238) + b"\1", bytes(DVB_GENERATOR)),
        # Made with reedsolo 1.7.0: RSCodec(16, fcr=0, prim=0x11d, generator=2).encode(message)[239:].
        (bytes(range(239)), bytes.fromhex("3d4a1daccc4a4caa43488e7b4f6559c4")),
        (b"\xff" * 239, bytes.fromhex("eb907407d6ef1d98386c111f5aa16e84")),
    ],
    ids=["generator", "counting", "ones"],
)
def test_parity_is_that_of_an_independent_implementation(kernel_name: str, message: bytes, parity: bytes) -> None:
    with kernel_named(kernel_name) as used:
        for codeword in (0, 9, 15):
            frames = row_of(message, codeword)
            used.encode_fec(frames)
            codewords = reed_solomon.codewords_of(frames)
            assert codewords[3, 239:, codeword].tobytes() == parity
            codewords[3, :, codeword] = 0
            assert not frames.any()


@pytest.mark.parametrize("kernel_name", KERNELS)
def test_eight_errors_in_every_codeword_are_corrected(kernel_name: str) -> None:
    """One burst of 128 bytes a row: that is what the interleaving is for."""
    frames = np.frombuffer(random.Random(1).randbytes(16320), np.uint8).reshape(1, 4, 4080).copy()
    with kernel_named(kernel_name) as used:
        used.encode_fec(frames)
        sent = frames.tobytes()
        frames[:, :, 1000:1128] ^= 0xA5
        assert used.decode_fec(frames) == (512, 0)
        assert frames.tobytes() == sent
        frames[:, :, 1000:1129] ^= 0xA5
        assert used.decode_fec(frames) == (4 * 15 * 8, 4)


@pytest.mark.parametrize("kernel_name", KERNELS)
def test_errors_among_the_parity_symbols_are_corrected_too(kernel_name: str) -> None:
    frames = row_of(b"abc", 4)
    with kernel_named(kernel_name) as used:
        used.encode_fec(frames)
        sent = frames.tobytes()
        frames[0, 3, 3824:][4::32] ^= 0x11
        assert used.decode_fec(frames) == (8, 0)
        assert frames.tobytes() == sent
