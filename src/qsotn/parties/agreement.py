"""The byte strings that two parties must form alike: contexts of wrappings and proofs."""

from __future__ import annotations

from collections.abc import Sequence

from qsotn.crypto import cbor
from qsotn.crypto.session import possession_proof, verify_possession
from qsotn.domain import KeyId, LineId, PartyId, Secret
from qsotn.errors import BadProof


def delivery_context(
    cpe: PartyId, line: LineId, generation: int, key_ids: Sequence[KeyId], key_file_id: str, entry: int
) -> bytes:
    """The associated data of step 11's wrapping: for whom, which line, generation, keys, and which entry."""
    return cbor.encode([cpe, line, generation, list(key_ids), key_file_id, entry])


def prove_generation(keys: Sequence[Secret], prover: PartyId, line: LineId, generation: int) -> bytes:
    """Prove possession of both keys of a generation, as this prover: one MAC per key, A→B first."""
    context = _proof_context(prover, line, generation)
    return b"".join(possession_proof(key, context) for key in keys)


def verify_generation(keys: Sequence[Secret], proof: bytes, prover: PartyId, line: LineId, generation: int) -> None:
    """Check another's `prove_generation`. Raises `BadProof`."""
    context = _proof_context(prover, line, generation)
    size, rest = divmod(len(proof), len(keys))
    if rest or not size:
        raise BadProof(f"the proof of {prover} for {line}/{generation} has {len(proof)} bytes")
    for index, key in enumerate(keys):
        verify_possession(key, context, proof[index * size : (index + 1) * size])


def _proof_context(prover: PartyId, line: LineId, generation: int) -> bytes:
    return cbor.encode([prover, line, generation])
