"""What the two ends of a link show each other of a block: MACs under a key derived from it.

They hide the block computationally, and are no secret: each end tells its own to the other. They are worked out when
the block is deposited and kept for as long as its record is: an end that was asked before may be asked again when units
of the block are gone.
"""

from __future__ import annotations

from hmac import compare_digest

import msgspec

from qsotn.crypto import cbor
from qsotn.crypto.session import possession_proof
from qsotn.domain import PartyId, Secret
from qsotn.parties.desk import Collection, Desk


class BlockProofs(msgspec.Struct, frozen=True):
    """What shows that this end, and the far end, holds a block."""

    own: bytes
    far: bytes

    def are(self, others: BlockProofs) -> bool:
        """Whether they are of the same block."""
        return compare_digest(self.own, others.own) and compare_digest(self.far, others.far)

    def hold(self, proof: bytes) -> bool:
        """Whether the far end has shown that it holds the block."""
        return compare_digest(self.far, proof)


class Shown(msgspec.Struct, frozen=True):
    """What a proof is about: a block, by link, number and units."""

    link: str
    number: int
    units: int

    def proofs(self, own: PartyId, far: PartyId, bits: Secret) -> BlockProofs:
        """Work out what both ends have to show."""
        return BlockProofs(*(possession_proof(bits, self._context(prover)) for prover in (own, far)))

    def _context(self, prover: PartyId) -> bytes:
        return cbor.encode([prover, self.link, self.number, self.units])


def block_proofs(desk: Desk) -> Collection[BlockProofs]:
    """What was kept, by `link/number`; nothing of a block that an older release deposited."""
    return desk.collection("block-proofs", BlockProofs)
