"""Bob's side of Cascade (Brassard and Salvail 1993), with all blocks of a pass searched at once.

One `Pass` is a tree of blocks (`reconciliation` numbers them). For each block it knows, or does not yet know, whether
the original keys differ in an odd number of its bits, and how many of Bob's corrections (modulo 2) fall into it; the
two together say whether an odd number of errors is left. A block that is known to be odd is halved until one bit
remains, asking for one half's parity at each step, because the other's follows. A correction makes blocks of
all other passes odd, and every half that was ever asked for is used again: that is the cascade.

What always holds: the only input is the comparison of each asked parity (Alice's ⊕ Bob's original one); the search
never sees a key. The leakage argument in `reconciliation` rests on it. Every search ends at a true error, so none is
corrected twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsotn.quantum.failures import ContradictoryParities
from qsotn.quantum.optics import Bits, Indices
from qsotn.quantum.reconciliation import PASSES, Shuffles

_NOTHING: Indices = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Question:
    """Blocks of one pass whose parities are to be compared."""

    pass_number: int
    blocks: Indices


FIRST_BLOCKS = (0.9, 5.0)
"""Mean number of errors in the blocks that passes 0 and 1 start from."""
LEAST_DEPTH = 5
"""Later passes start from the 32nd parts of the key; the first two from these or smaller ones."""


def top_depths(length: int, error_rate: float) -> list[int]:
    """Return, per pass, the depth its blocks start from.

    Two passes find nearly all errors; the large blocks of the later ones leak 31 bits a pass, and each pass separates
    a remaining pair with probability 31/32 (the idea of Martinez-Mateo et al. 2015; the figures are measured ones).
    """
    errors = max(1.0, length * error_rate)
    depths = [max(LEAST_DEPTH, round(math.log2(errors / mean))) for mean in FIRST_BLOCKS]
    return depths + [LEAST_DEPTH] * (PASSES - len(depths))


class Pass:
    """What is known about the blocks of one pass."""

    def __init__(self, number: int, top: int, shuffles: Shuffles) -> None:
        self.number = number
        self.top = top
        self._shuffles = shuffles
        self._order = shuffles.order(number).astype(np.int32)
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(shuffles.length, dtype=np.int32)
        blocks = 2 << shuffles.depth
        self._known = np.zeros(blocks, dtype=np.bool_)
        self._difference = np.zeros(blocks, dtype=np.uint8)
        self._corrected = np.zeros(blocks, dtype=np.uint8)
        self.suspects: Indices = _NOTHING
        leaves = np.arange(1 << shuffles.depth, blocks)
        first, end = shuffles.bounds(leaves)
        self._known[leaves[first == end]] = True  # an empty block cannot differ

    def learn_tops(self, differences: Bits) -> None:
        """Take the comparisons of all blocks this pass starts from."""
        tops = np.arange(1 << self.top, 2 << self.top)
        self._known[tops] = True
        self._difference[tops] = differences
        self.suspects = tops

    def learn(self, blocks: Indices, differences: Bits) -> None:
        """Take comparisons of halves of known blocks; the other halves follow."""
        self._difference[blocks] = differences
        self._difference[blocks ^ 1] = self._difference[blocks >> 1] ^ differences
        self._known[blocks] = self._known[blocks ^ 1] = True

    def odd(self, blocks: Indices) -> NDArray[np.bool_]:
        """Tell which of these blocks are known to hold an odd number of errors."""
        odd: NDArray[np.bool_] = self._difference[blocks] != self._corrected[blocks]
        return odd & self._known[blocks]

    def descend(self, blocks: Indices) -> Indices:
        """Follow odd blocks down as far as halves are known. The blocks returned are odd and disjoint.

        Disjoint: neither half of a returned block is known, so no known block lies inside it.
        """
        blocks = np.unique(blocks[self.odd(blocks)])
        reached = [_NOTHING]
        while len(blocks):
            self._complete_halves(blocks[blocks < len(self._known) >> 1])
            stop = (blocks >= len(self._known) >> 1) | ~self._known[np.minimum(2 * blocks, len(self._known) - 1)]
            reached.append(blocks[stop])
            left = 2 * blocks[~stop]
            blocks = np.where(self.odd(left), left, left + 1)
        return np.unique(np.concatenate(reached))

    def _complete_halves(self, blocks: Indices) -> None:
        left = 2 * blocks
        half_known = self._known[left] != self._known[left + 1]
        known = np.where(self._known[left], left, left + 1)[half_known]
        self.learn(known, self._difference[known])

    def is_bit(self, blocks: Indices) -> NDArray[np.bool_]:
        """Tell which blocks are single bits."""
        return blocks >= len(self._known) >> 1

    def places_of(self, bits: Indices) -> Indices:
        """Return the key's places that one-bit blocks stand for."""
        return self._order[self._shuffles.bounds(bits)[0]].astype(np.int64)

    def correct(self, places: Indices) -> None:
        """Count corrections at these places of the key; blocks that became odd are suspects."""
        leaves = self._shuffles.leaves(self._place[places].astype(np.int64))
        shifts = np.arange(self._shuffles.depth - self.top + 1)
        blocks = (leaves[:, None] >> shifts).ravel()
        np.bitwise_xor.at(self._corrected, blocks, np.uint8(1))
        self.suspects = np.unique(np.concatenate((self.suspects, blocks[self.odd(blocks)])))


class Cascade:
    """The whole search. Alternate `ask` and `tell` until `ask` returns None; then `corrections` is complete."""

    def __init__(self, shuffles: Shuffles, error_rate: float) -> None:
        self._shuffles = shuffles
        self._tops = top_depths(shuffles.length, error_rate)
        self._passes: list[Pass] = []
        self._searched: Pass | None = None
        self._blocks: Indices = _NOTHING
        self.corrections: Bits = np.zeros(shuffles.length, dtype=np.uint8)
        self.compared = 0
        """Parities compared so far: the leakage in each direction, in bits."""

    def ask(self) -> Question | None:
        """Return the next blocks to compare, or None when the last pass is done and no odd block is known."""
        while self._searched is not None or any(len(each.suspects) for each in self._passes):
            question = self._search()
            if question is not None:
                return question
        if len(self._passes) == len(self._tops):
            return None
        return self._open_pass()

    def tell(self, question: Question, differences: Bits) -> None:
        """Take the comparisons a question asked for, in its order."""
        self.compared += len(differences)
        if self._searched is None:
            self._start_pass(differences)
        else:
            self._searched.learn(question.blocks, differences)

    def _open_pass(self) -> Question:
        number = len(self._passes)
        top = self._tops[number]
        blocks = np.arange(1 << top, 2 << top)
        return Question(number, blocks if number == 0 else blocks[:-1])  # the last follows from the whole key's parity

    def _start_pass(self, differences: Bits) -> None:
        if not self._passes:
            self._whole_difference = np.bitwise_xor.reduce(differences)
        else:
            last = self._whole_difference ^ np.bitwise_xor.reduce(differences)
            differences = np.append(differences, last).astype(np.uint8)
        started = Pass(len(self._passes), self._tops[len(self._passes)], self._shuffles)
        started.correct(np.flatnonzero(self.corrections))
        started.learn_tops(differences)
        self._passes.append(started)

    def _search(self) -> Question | None:
        """Go on with the pass being searched, or begin with the first (smallest blocks) that has suspects."""
        if self._searched is None:
            self._searched = next(each for each in self._passes if len(each.suspects))
            self._blocks, self._searched.suspects = self._searched.suspects, _NOTHING
        self._blocks = self._searched.descend(self._blocks)
        whole = self._blocks[~self._searched.is_bit(self._blocks)]
        if len(whole):
            return Question(self._searched.number, 2 * whole)
        places, self._searched = self._searched.places_of(self._blocks), None
        if self.corrections[places].any():  # true parities lead to true errors, never twice to one; so this also ends
            raise ContradictoryParities("the parities of different passes contradict each other")
        self.corrections[places] = 1
        for each in self._passes:
            each.correct(places)
        return None
