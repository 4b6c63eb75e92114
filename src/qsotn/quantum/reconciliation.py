"""Reconciliation by Cascade: Bob makes his key equal to Alice's by asking for parities of blocks of it.

This file holds what both roles need: the public shuffles, the numbering of blocks, and a key's parities under them.
Alice needs no more (`KeyParities.of`); Bob's search is in `cascade`.

Blocks. In each pass the key is shuffled and cut in halves again and again. Block 1 is the whole key, block b has the
halves 2b and 2b + 1: the block number j at depth d (b = 2^d + j) holds the shuffled places ⌊j·n/2^d⌋ to
⌊(j+1)·n/2^d⌋ − 1. At the last depth, ⌈log2 n⌉, every block holds one bit or none.

Leakage. Everything said in reconciliation is a function of two kinds of bits: the parities that Alice answers, and the
comparisons (Alice's parity ⊕ Bob's, one per answer) that decide what Bob asks next. The second kind is often left out,
as if Bob's questions told nothing; Tupkary and Lütkenhaus (2023, "Using Cascade in quantum key distribution") show that
this is wrong, because the questions depend on both keys. `Cascade` takes nothing but comparisons as input, so a
transcript with m answers is one of at most 2^(2m), and by the chain rule it lowers the min-entropy of Alice's key by at
most 2m bits: m from Alice to Bob, m from Bob to Alice. That is what the ledger charges. It is safe and about twice
what one-directional accounting charges; their refinement, which hands Eve the error pattern instead, is not used.
Shuffles are public and drawn by Alice independently of the key, so they tell nothing.
"""

from __future__ import annotations

import numpy as np

from qsotn.quantum.optics import Bits, Indices

SHUFFLE_SEED_BYTES = 16
PASSES = 6
"""How many shuffles are searched."""


class Shuffles:
    """The public permutation of each pass, the same at both parties for the same seed.

    Pass 0 keeps the order of sifting. Others sort the places by a word of PCG64, whose raw stream NumPy guarantees
    never to change (NEP 19); the place itself in the low bits makes the order unambiguous.
    """

    def __init__(self, length: int, seed: bytes) -> None:
        self.length = length
        self.depth = (length - 1).bit_length()
        self._seed = int.from_bytes(seed, "little")
        self._latest = 0, np.arange(length)

    def order(self, pass_number: int) -> Indices:
        """Return the key's places in the order of this pass."""
        if self._latest[0] != pass_number:  # Bob asks twice in a row: for his parities and for his search
            self._latest = pass_number, self._shuffle(pass_number)
        return self._latest[1]

    def _shuffle(self, pass_number: int) -> Indices:
        seed = np.random.SeedSequence(self._seed, spawn_key=(pass_number,))
        words = np.random.PCG64(seed).random_raw(self.length)
        place_bits = np.uint64(self.depth)
        words = words >> place_bits << place_bits | np.arange(self.length, dtype=np.uint64)
        words.sort()
        return (words & np.uint64((1 << self.depth) - 1)).astype(np.int64)

    def numbers(self, blocks: Indices) -> bool:
        """Tell whether these are all numbers of blocks."""
        return bool((blocks >= 1).all() and (blocks < 2 << self.depth).all())

    def bounds(self, blocks: Indices) -> tuple[Indices, Indices]:
        """Return each block's first shuffled place and the one after its last."""
        depth = np.frexp(blocks.astype(np.float64))[1].astype(np.int64) - 1
        j = blocks - (1 << depth)
        return j * self.length >> depth, (j + 1) * self.length >> depth

    def leaves(self, places: Indices) -> Indices:
        """Return the one-bit blocks that hold these shuffled places."""
        return (1 << self.depth) + (((places + 1) << self.depth) - 1) // self.length


class KeyParities:
    """One party's key, ready to give the parity of any block of any pass."""

    def __init__(self, key: Bits, shuffles: Shuffles) -> None:
        self._key = key
        self._shuffles = shuffles
        self._prefixes: dict[int, Bits] = {}

    def of(self, pass_number: int, blocks: Indices) -> Bits:
        """Return the parity of each block; an empty block has parity 0."""
        if pass_number not in self._prefixes:
            self._prefixes[pass_number] = self._prefix(pass_number)
        prefix = self._prefixes[pass_number]
        first, end = self._shuffles.bounds(blocks)
        return prefix[first] ^ prefix[end]

    def _prefix(self, pass_number: int) -> Bits:
        prefix = np.zeros(len(self._key) + 1, dtype=np.uint8)
        np.bitwise_xor.accumulate(self._key[self._shuffles.order(pass_number)], out=prefix[1:])
        return prefix
