"""The envelope of every message: signed by its sender, and on Iaq, through the PMP, sealed to its recipient.

COSE_Sign1 (RFC 9052, section 4.2) with ML-DSA (RFC 9964), tag 18, over deterministic CBOR. The protected header is
exactly {1: algorithm, 4: key identifier}, the key identifier is the party's identifier in UTF-8, the unprotected header
is empty. RFC 9964 fixes ML-DSA's own context string to the empty string, so the purpose of a message is bound where
COSE has a place for it: `external_aad` is the message type's context label.

HPKE (RFC 9180) is used in single-shot base mode. It does not authenticate the sender and has no replay protection:
both come from the signature around it and from the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes

from qsotn.crypto import cbor
from qsotn.crypto.identity import Identity
from qsotn.crypto.suites import ML_DSA_65, ML_DSA_87, KemKeyPair, SignatureScheme, Suite, VerificationKey, verify
from qsotn.errors import BadProof, MalformedMessage

_COSE_SIGN1_TAG: Final = b"\xd2"  # tag 18 in its one-byte form, the only tag this project writes or reads
_ALGORITHM: Final = 1
_KEY_IDENTIFIER: Final = 4
_SCHEMES: Final = {scheme.cose_algorithm: scheme for scheme in (ML_DSA_65, ML_DSA_87)}


@dataclass(frozen=True, slots=True)
class Signed:
    """A message whose signature holds: who signed it, what it says, and the digest of all its bytes."""

    kid: bytes
    payload: bytes = field(repr=False)
    digest: bytes = field(repr=False)


def digest(*parts: bytes) -> bytes:
    """Return SHA-384 over the parts, each after its length in four bytes, so that no two lists of parts collide."""
    state = hashes.Hash(hashes.SHA384())
    for part in parts:
        state.update(len(part).to_bytes(4))
        state.update(part)
    return state.finalize()


def sign(identity: Identity, context: bytes, payload: bytes) -> bytes:
    """Return the COSE_Sign1 message of a payload under the identity's key, for one context."""
    header = {_ALGORITHM: identity.suite.signature.cose_algorithm, _KEY_IDENTIFIER: identity.party.encode()}
    protected = cbor.encode(header)
    signature = identity.signing_key.sign(_to_be_signed(protected, context, payload))
    return _COSE_SIGN1_TAG + cbor.encode([protected, {}, payload, signature])


def open_signed(message: bytes, context: bytes, verify_with: Callable[[bytes], VerificationKey]) -> Signed:
    """Verify a COSE_Sign1 message; `verify_with` finds the key of the claimed signer, or raises.

    Raises `MalformedMessage` for anything that `sign` does not write, `BadSignature` if the signature does not hold.
    """
    parts = _parse(message)
    key = verify_with(parts.kid)
    verify(parts.scheme, key, parts.signature, _to_be_signed(parts.protected, context, parts.payload))
    return Signed(parts.kid, parts.payload, digest(message))


def claimed_signer(message: bytes) -> bytes:
    """Return the key identifier a message claims. NOT verified: good for finding a key, never for a decision."""
    return _parse(message).kid


def claimed_payload(message: bytes) -> bytes:
    """Return what a message says. NOT verified: good for finding the certificates it carries, never for a decision."""
    return _parse(message).payload


def seal(suite: Suite, recipient_public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Encrypt to a raw KEM public key; returns HPKE's enc ‖ ciphertext. `info` binds the context.

    Raises `MalformedMessage` if the key is not one of the suite, `BadProof` if no exchange with it is possible.
    """
    key = suite.kem_public_key(recipient_public)
    try:
        return suite.hpke.encrypt(plaintext, key, info=info)
    except ValueError as error:  # a classical public key of small order gives an all-zero secret
        raise BadProof(f"nothing can be sealed to this {suite.kem.name} public key") from error


def unseal(suite: Suite, private: KemKeyPair, sealed: bytes, info: bytes) -> bytes:
    """Inverse of `seal`; raises `BadProof` for another key, another info, or changed bytes."""
    if private.suite_number != suite.number:
        raise BadProof(f"sealed for suite {suite.number}, and the key is of suite {private.suite_number}")
    if not len(private.seed):
        raise BadProof("sealed to a key that was erased")
    try:
        return suite.hpke.decrypt(sealed, private.handle, info=info)
    except (InvalidTag, ValueError) as error:
        raise BadProof(f"the {suite.kem.name} sealed bytes do not open under this key and context") from error


@dataclass(frozen=True, slots=True)
class _Parts:
    protected: bytes = field(repr=False)
    scheme: SignatureScheme
    kid: bytes
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def _parse(message: bytes) -> _Parts:
    if message[:1] != _COSE_SIGN1_TAG:
        raise MalformedMessage("the message is no COSE_Sign1: expected tag 18")
    match cbor.decode(message[1:]):
        case [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature] if not unprotected:
            scheme, kid = _header(protected)
            return _Parts(protected, scheme, kid, payload, signature)
    raise MalformedMessage("the COSE_Sign1 is not [protected, {}, payload, signature]")


def _header(protected: bytes) -> tuple[SignatureScheme, bytes]:
    header = cbor.decode(protected)
    if not isinstance(header, dict) or header.keys() != {_ALGORITHM, _KEY_IDENTIFIER}:
        raise MalformedMessage("the protected header is not exactly {1: algorithm, 4: key identifier}")
    algorithm, kid = header[_ALGORITHM], header[_KEY_IDENTIFIER]
    if type(algorithm) is not int or algorithm not in _SCHEMES or not isinstance(kid, bytes):
        raise MalformedMessage(f"the protected header names no known algorithm ({sorted(_SCHEMES)}) or no signer")
    return _SCHEMES[algorithm], kid


def _to_be_signed(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    """Return Sig_structure of RFC 9052, section 4.4."""
    return cbor.encode(["Signature1", protected, external_aad, payload])
