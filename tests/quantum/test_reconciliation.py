from __future__ import annotations

import math

import numpy as np
import pytest

from qsotn.quantum.cascade import Cascade, Pass, Question
from qsotn.quantum.failures import ContradictoryParities
from qsotn.quantum.finite_key import binary_entropy
from qsotn.quantum.optics import Bits, Indices
from qsotn.quantum.reconciliation import PASSES, KeyParities, Shuffles

SEED = bytes(range(16))


def keys(length: int, error_rate: float, seed: int) -> tuple[Bits, Bits]:
    random = np.random.default_rng(seed)
    alice = random.integers(0, 2, length, dtype=np.uint8)
    return alice, alice ^ (random.random(length) < error_rate).astype(np.uint8)


def reconcile(alice: Bits, bob: Bits, expected: float) -> tuple[Bits, list[Question], int]:
    shuffles = Shuffles(len(alice), SEED)
    hers, his = KeyParities(alice, shuffles), KeyParities(bob, Shuffles(len(bob), SEED))
    cascade, asked = Cascade(shuffles, expected), []
    while (question := cascade.ask()) is not None:
        asked.append(question)
        parities = hers.of(question.pass_number, question.blocks)
        cascade.tell(question, parities ^ his.of(question.pass_number, question.blocks))
    return bob ^ cascade.corrections, asked, cascade.compared


@pytest.mark.parametrize("length", [256, 257, 1000, 4097, 60_000])
@pytest.mark.parametrize("error_rate", [0.01, 0.02, 0.03, 0.05])
def test_bob_ends_with_alices_key(length: int, error_rate: float) -> None:
    alice, bob = keys(length, error_rate, length)
    corrected, asked, compared = reconcile(alice, bob, error_rate)
    assert np.array_equal(corrected, alice)
    assert compared == sum(len(question.blocks) for question in asked)


@pytest.mark.parametrize(
    ("error_rate", "limit"), [(0.005, 1.08), (0.01, 1.07), (0.02, 1.07), (0.03, 1.08), (0.05, 1.09)]
)
def test_each_direction_leaks_little_more_than_the_shannon_limit(error_rate: float, limit: float) -> None:
    alice, bob = keys(100_000, error_rate, 1)
    corrected, _, compared = reconcile(alice, bob, error_rate)
    assert np.array_equal(corrected, alice)
    assert 1 < compared / (100_000 * binary_entropy(float((alice != bob).mean()))) < limit


@pytest.mark.parametrize("guess", [0.0, 0.001, 0.2])
def test_a_wrong_guess_of_the_error_rate_costs_parities_not_correctness(guess: float) -> None:
    alice, bob = keys(20_000, 0.02, 3)
    assert np.array_equal(reconcile(alice, bob, guess)[0], alice)


def test_equal_keys_stay_as_they_are() -> None:
    alice, _ = keys(5000, 0.0, 4)
    corrected, _, compared = reconcile(alice, alice, 0.0)
    assert np.array_equal(corrected, alice)
    assert compared == 32 + 31 * (PASSES - 1)


def test_the_questions_depend_on_the_comparisons_alone() -> None:
    """The leakage argument: other keys with the same errors are asked about in exactly the same way."""
    alice, bob = keys(10_000, 0.03, 5)
    other = np.random.default_rng(6).integers(0, 2, 10_000, dtype=np.uint8)
    _, asked, _ = reconcile(alice, bob, 0.03)
    _, asked_of_others, _ = reconcile(other, other ^ alice ^ bob, 0.03)
    assert [(q.pass_number, q.blocks.tolist()) for q in asked] == [
        (q.pass_number, q.blocks.tolist()) for q in asked_of_others
    ]


def test_nothing_is_asked_twice_and_nothing_that_follows_from_what_is_known() -> None:
    alice, bob = keys(10_000, 0.03, 5)
    _, asked, compared = reconcile(alice, bob, 0.03)
    blocks = [(q.pass_number, block) for q in asked for block in q.blocks.tolist()]
    assert len(set(blocks)) == len(blocks) == compared
    tops = sum(len(q.blocks) for q in _first_of_each_pass(asked))
    halves = {(p, b) for p, b in blocks}
    assert sum((p, b ^ 1) in halves for p, b in blocks) <= tops  # beyond the first blocks, never both halves


def _first_of_each_pass(asked: list[Question]) -> list[Question]:
    seen: dict[int, Question] = {}
    for question in asked:
        seen.setdefault(question.pass_number, question)
    return list(seen.values())


@pytest.mark.parametrize("lie", ["random", "ones"])
def test_answers_that_fit_no_key_end_the_search(lie: str) -> None:
    random = np.random.default_rng(7)
    cascade = Cascade(Shuffles(1000, SEED), 0.02)

    def listen_to_lies() -> None:
        while (question := cascade.ask()) is not None:
            count = len(question.blocks)
            said = random.integers(0, 2, count) if lie == "random" else np.ones(count)
            cascade.tell(question, said.astype(np.uint8))

    with pytest.raises(ContradictoryParities):
        listen_to_lies()


@pytest.mark.parametrize("length", [2, 3, 256, 300, 1023, 5000])
def test_blocks_of_one_depth_cut_the_key_without_gap_or_overlap(length: int) -> None:
    shuffles = Shuffles(length, SEED)
    for depth in range(shuffles.depth + 1):
        first, end = shuffles.bounds(np.arange(1 << depth, 2 << depth))
        assert first[0] == 0
        assert end[-1] == length
        assert np.array_equal(first[1:], end[:-1])
    places = np.arange(length)
    first, end = shuffles.bounds(shuffles.leaves(places))
    assert np.array_equal(first, places)
    assert np.array_equal(end, places + 1)


def test_shuffles_are_public_permutations_fixed_by_the_seed() -> None:
    orders: list[Indices] = [Shuffles(1000, SEED).order(number) for number in range(PASSES)]
    for number, order in enumerate(orders):
        assert np.array_equal(np.sort(order), np.arange(1000))
        assert np.array_equal(order, Shuffles(1000, SEED).order(number))
    assert len({tuple(order.tolist()) for order in orders}) == PASSES
    assert orders[1].tolist() != Shuffles(1000, SEED[::-1]).order(1).tolist()
    assert orders[1][:6].tolist() == FIRST_PLACES  # pinned: two parties with different NumPy releases must agree


FIRST_PLACES = [260, 306, 429, 940, 918, 975]


def test_a_parity_is_the_sum_of_its_bits() -> None:
    alice, _ = keys(777, 0.0, 8)
    shuffles = Shuffles(777, SEED)
    parities = KeyParities(alice, shuffles)
    for pass_number in (0, 3):
        blocks = np.arange(1, 2 << shuffles.depth)
        said = parities.of(pass_number, blocks)
        shuffled = alice[shuffles.order(pass_number)]
        for block, first, end in zip(blocks, *shuffles.bounds(blocks), strict=True):
            assert said[block - 1] == int(shuffled[first:end].sum()) % 2


def test_blocks_beyond_the_tree_are_not_numbered() -> None:
    shuffles = Shuffles(1000, SEED)
    assert shuffles.numbers(np.array([1, 2047]))
    assert not shuffles.numbers(np.array([0]))
    assert not shuffles.numbers(np.array([2048]))


def test_searched_blocks_never_overlap() -> None:
    """Two nested suspects lead to one search: a second correction of the same bit would undo the first."""
    searched = Pass(0, 0, Shuffles(8, SEED))
    searched.learn_tops(np.array([1], np.uint8))
    searched.learn(np.array([2]), np.array([1], np.uint8))
    assert searched.descend(np.array([1, 2])).tolist() == [2]


def test_the_search_survives_a_burst() -> None:
    alice, bob = keys(20_000, 0.0, 9)
    bob[5000:5200] ^= 1
    corrected, _, compared = reconcile(alice, bob, 0.01)
    assert np.array_equal(corrected, alice)
    assert compared < 20_000
    assert math.isfinite(compared)
