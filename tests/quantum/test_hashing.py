from __future__ import annotations

import numpy as np
import pytest

from qsotn.errors import LocalError
from qsotn.quantum import hashing
from qsotn.quantum.hashing import seed_length, toeplitz_fft, toeplitz_rows
from qsotn.quantum.optics import Bits


def bits(count: int, seed: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8)


def matrix(rows: int, columns: int, seed: Bits) -> Bits:
    i, j = np.ogrid[:rows, :columns]
    selected: Bits = seed[i - j + columns - 1]
    return selected


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (9, 1), (50, 333), (128, 1000), (700, 701)])
def test_both_ways_give_the_matrix_product(rows: int, columns: int) -> None:
    key, seed = bits(columns, 1), bits(seed_length(rows, columns), 2)
    product = matrix(rows, columns, seed).astype(np.int64) @ key % 2
    assert toeplitz_rows(key, seed).tolist() == product.tolist()
    assert toeplitz_fft(key, seed).tolist() == product.tolist()


def test_the_fast_way_is_exact_at_the_size_of_a_block() -> None:
    key, seed = bits(400_000, 3), bits(seed_length(120_000, 400_000), 4)
    fast = toeplitz_fft(key, seed)
    assert len(fast) == 120_000
    for start in (0, 77_777, 119_990):
        assert fast[start : start + 10].tolist() == toeplitz_rows(key, seed[start : start + 400_009]).tolist()


def test_the_worst_case_of_rounding_all_ones_is_exact() -> None:
    key, seed = np.ones(400_000, np.uint8), np.ones(seed_length(1000, 400_000), np.uint8)
    assert toeplitz_fft(key, seed).tolist() == [0] * 1000
    assert toeplitz_fft(key[1:], seed[1:]).tolist() == [1] * 1000


def test_a_transform_that_loses_precision_is_an_error_not_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = np.fft.irfft
    monkeypatch.setattr(np.fft, "irfft", lambda *arguments: exact(*arguments) + 0.3)
    with pytest.raises(LocalError, match=r"off by 0\.3"):
        toeplitz_fft(bits(100, 5), bits(seed_length(10, 100), 6))


def test_two_keys_that_differ_collide_as_rarely_as_a_universal_hash_must() -> None:
    """Four rows: for a fixed difference, one seed in 16 gives a collision."""
    one, other = bits(64, 7), bits(64, 8)
    seeds = np.random.default_rng(9).integers(0, 2, (4000, seed_length(4, 64)), dtype=np.uint8)
    collisions = sum(toeplitz_rows(one, seed).tolist() == toeplitz_rows(other, seed).tolist() for seed in seeds)
    assert abs(collisions - 250) < 4.5 * (250 * 15 / 16) ** 0.5


@pytest.mark.parametrize("least", [1, 7, 1000, 531_441, 530_000])
def test_transform_sizes_are_smooth_and_just_large_enough(least: int) -> None:
    size = hashing._smooth_size(least)
    assert least <= size <= 1.1 * least + 1
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    assert size == 1
