"""The envelope of every message: signed by its sender, and on Iaq, through the PMP, sealed to its recipient.

COSE_Sign1 (RFC 9052, section 4.2) with ML-DSA (RFC 9964), tag 18, over deterministic CBOR. The key identifier is the
party's identifier in UTF-8. RFC 9964 fixes ML-DSA's own context string to the empty string, so the purpose of a message
is bound where COSE has a place for it: `external_aad` is the message type's context label.

A message that is signed alone carries what it says as the payload of the COSE_Sign1; its protected header is exactly
{1: algorithm, 4: key identifier}, its unprotected header is empty. Of several that are signed together, each is a
Receipt of Inclusion (RFC 9942, section 5.2.1) in the tree over all of them (`merkle`). The signature is over the root,
which the message leaves out, as that RFC advises, so that a receiver has to compute it:

    18([<< {1: algorithm, 4: key identifier, 395: 1 (RFC9162_SHA256), -65537: tree size} >>,
        {396: {-1: [<< [tree size, index, [hashes]] >>]}, -65538: what the message says}, null, signature])

-65537 and -65538 are of the range for private use, all other numbers are registered (RFC 9942, section 8).

COSE signs no unprotected header, and none need be signed here. The root that is verified is computed from what the
message says, index and path. The size is signed because the root does not hold it; 395 is, so that neither form passes
for the other. With root and size fixed an entry has one proof (`merkle` says why), and `sign_all` puts nothing into a
tree twice. What opens under a batch's signature is therefore, byte for byte, one of the messages that `sign_all`
returned, and a digest names one message, as it does for those signed alone: ML-DSA is strongly unforgeable (FIPS 204),
so nobody but the signer has another signature of the same bytes.

Two things differ in a batch. It rests on SHA-256 against collisions, besides ML-DSA: NIST's category 2, where ML-DSA-65
is in 3 and ML-DSA-87 in 5; RFC 9942 has no longer hash. And a message holds hashes of others that may have gone to
somebody else: one that must stay secret needs something in it that cannot be guessed, as the nonce of `wire.Envelope`.

HPKE (RFC 9180) is used in single-shot base mode. It does not authenticate the sender and has no replay protection:
both come from the signature around it and from the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha384
from threading import Lock
from typing import Any, Final

from cryptography.exceptions import InvalidTag

from qsotn.crypto import cbor, merkle
from qsotn.crypto.identity import Identity
from qsotn.crypto.suites import ML_DSA_65, ML_DSA_87, KemKeyPair, SignatureScheme, Suite, VerificationKey, verify
from qsotn.errors import BadProof, MalformedMessage

_COSE_SIGN1_TAG: Final = b"\xd2"  # tag 18 in its one-byte form, the only tag this project writes or reads


class _Header:
    """The header parameters of both forms (RFC 9052, section 3.1; RFC 9942, section 2; two for private use)."""

    ALGORITHM: Final = 1
    KEY_IDENTIFIER: Final = 4
    STRUCTURE: Final = 395  # vds
    PROOFS: Final = 396  # vdp
    TREE_SIZE: Final = -65537
    PAYLOAD: Final = -65538


class _Proof:
    """The proof types of RFC9162_SHA256 that are in use here (RFC 9942, section 4.2)."""

    INCLUSION: Final = -1


_RFC9162_SHA256: Final = 1  # RFC 9942, section 4.1
_ALONE: Final = frozenset({_Header.ALGORITHM, _Header.KEY_IDENTIFIER})
_IN_BATCH: Final = _ALONE | {_Header.STRUCTURE, _Header.TREE_SIZE}
_SCHEMES: Final = {scheme.cose_algorithm: scheme for scheme in (ML_DSA_65, ML_DSA_87)}


@dataclass(frozen=True, slots=True)
class Signed:
    """A message whose signature holds: who signed it, what it says, and the digest of all its bytes."""

    kid: bytes
    payload: bytes = field(repr=False)
    digest: bytes = field(repr=False)


def digest(*parts: bytes) -> bytes:
    """Return SHA-384 over the parts, each after its length in four bytes, so that no two lists of parts collide."""
    state = sha384()
    for part in parts:
        state.update(len(part).to_bytes(4))
        state.update(part)
    return state.digest()


def sign(identity: Identity, context: bytes, payload: bytes) -> bytes:
    """Return the COSE_Sign1 message of a payload under the identity's key, for one context."""
    protected = cbor.encode(_signer(identity))
    signature = identity.signing_key.sign(_to_be_signed(protected, context, payload))
    return _COSE_SIGN1_TAG + cbor.encode([protected, {}, payload, signature])


def sign_all(identity: Identity, context: bytes, payloads: Sequence[bytes]) -> list[bytes]:
    """Return a message for each payload, in order, all for one context, at the price of one signature for up to 256.

    Each is complete by itself and opens as if it were signed alone; a single one is, and so is every one of a suite
    that has no batches. Equal payloads get equal messages.
    """
    distinct = list(dict.fromkeys(payloads))
    messages: dict[bytes, bytes] = {}
    size = merkle.LARGEST_TREE if identity.suite.batches else 1
    for start in range(0, len(distinct), size):
        batch = distinct[start : start + size]
        messages |= zip(batch, _sign_batch(identity, context, batch), strict=True)
    return [messages[payload] for payload in payloads]


def open_signed(message: bytes, context: bytes, verify_with: Callable[[bytes], VerificationKey]) -> Signed:
    """Verify a message signed alone or with others; `verify_with` finds the key of the claimed signer, or raises.

    Raises `MalformedMessage` for anything that neither `sign` nor `sign_all` writes, `BadSignature` if the signature
    does not hold.
    """
    parts = _parse(message)
    key = verify_with(parts.kid)
    _verify_once(parts.scheme, key, parts.signature, _to_be_signed(parts.protected, context, parts.covered))
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
    covered: bytes = field(repr=False)
    """What the signature is over: the payload itself, or the root of the tree it is in."""
    signature: bytes = field(repr=False)


def _parse(message: bytes) -> _Parts:
    if message[:1] != _COSE_SIGN1_TAG:
        raise MalformedMessage("the message is no COSE_Sign1: expected tag 18")
    match cbor.decode(message[1:]):
        case [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature] if not unprotected:
            scheme, kid, _ = _read_header(protected, _ALONE)
            return _Parts(protected, scheme, kid, payload, payload, signature)
        case [bytes() as protected, dict() as unprotected, None, bytes() as signature]:
            scheme, kid, size = _read_header(protected, _IN_BATCH)
            payload, root = _payload_and_root(unprotected, size)
            return _Parts(protected, scheme, kid, payload, root, signature)
    raise MalformedMessage("the COSE_Sign1 is neither [protected, {}, payload, signature] nor a receipt of inclusion")


_LONGEST_KEPT: Final = 256
"""Bytes of a protected header that is remembered: whoever sends one decides how long it is, before it is verified."""


def _read_header(protected: bytes, labels: frozenset[int]) -> tuple[SignatureScheme, bytes, int]:
    """Return the scheme, the claimed signer, and the size of the tree that was signed (0: signed alone)."""
    return (_known_header if len(protected) <= _LONGEST_KEPT else _header_of)(protected, labels)


def _header_of(protected: bytes, labels: frozenset[int]) -> tuple[SignatureScheme, bytes, int]:
    header = _header(protected, labels)
    scheme, kid = _scheme_and_kid(header)
    return scheme, kid, _signed_size(header) if _Header.TREE_SIZE in labels else 0


# A party's headers are few, and what they say depends on nothing but their bytes. Failures are not kept.
_known_header = lru_cache(maxsize=1024)(_header_of)


def _header(protected: bytes, labels: frozenset[int]) -> dict[Any, object]:
    header = cbor.decode(protected)
    if not isinstance(header, dict) or header.keys() != labels:
        raise MalformedMessage(f"the protected header is not a map of exactly the parameters {sorted(labels)}")
    return header


def _scheme_and_kid(header: dict[Any, object]) -> tuple[SignatureScheme, bytes]:
    algorithm, kid = header[_Header.ALGORITHM], header[_Header.KEY_IDENTIFIER]
    if type(algorithm) is not int or algorithm not in _SCHEMES or not isinstance(kid, bytes):
        raise MalformedMessage(f"the protected header names no known algorithm ({sorted(_SCHEMES)}) or no signer")
    return _SCHEMES[algorithm], kid


def _signed_size(header: dict[Any, object]) -> int:
    structure, size = header[_Header.STRUCTURE], header[_Header.TREE_SIZE]
    if type(structure) is not int or structure != _RFC9162_SHA256 or type(size) is not int:
        raise MalformedMessage("the protected header names another structure than RFC9162_SHA256 (1), or no tree size")
    return size


def _payload_and_root(unprotected: dict[Any, object], signed_size: int) -> tuple[bytes, bytes]:
    match unprotected:
        case {
            _Header.PAYLOAD: bytes() as payload,
            _Header.PROOFS: {_Proof.INCLUSION: [bytes() as proof], **other},
            **more,
        } if not other and not more:
            return payload, merkle.proven_root(payload, proof, signed_size)
    raise MalformedMessage("the unprotected header is not exactly {396: {-1: [inclusion proof]}, -65538: payload}")


def _signer(identity: Identity) -> dict[int, object]:
    return {_Header.ALGORITHM: identity.suite.signature.cose_algorithm, _Header.KEY_IDENTIFIER: identity.party.encode()}


def _sign_batch(identity: Identity, context: bytes, payloads: list[bytes]) -> list[bytes]:
    if len(payloads) == 1:
        return [sign(identity, context, payloads[0])]
    root, proofs = merkle.prove(payloads)
    protected = cbor.encode(_signer(identity) | {_Header.STRUCTURE: _RFC9162_SHA256, _Header.TREE_SIZE: len(payloads)})
    signature = identity.signing_key.sign(_to_be_signed(protected, context, root))
    return [_receipt(protected, payload, proof, signature) for payload, proof in zip(payloads, proofs, strict=True)]


def _receipt(protected: bytes, payload: bytes, proof: bytes, signature: bytes) -> bytes:
    unprotected = {_Header.PROOFS: {_Proof.INCLUSION: [proof]}, _Header.PAYLOAD: payload}
    return _COSE_SIGN1_TAG + cbor.encode([protected, unprotected, None, signature])


def _to_be_signed(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    """Return Sig_structure of RFC 9052, section 4.4."""
    return cbor.encode(["Signature1", protected, external_aad, payload])


class _Successes:
    """The names of the last verifications that succeeded; the one unused for longest is forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: dict[bytes, None] = {}  # a dictionary keeps the order in which its keys were put in
        self._lock = Lock()

    def holds(self, name: bytes) -> bool:
        """Say whether this verification succeeded before, and count that as a use."""
        with self._lock:
            if name not in self._names:
                return False
            self._names[name] = self._names.pop(name)
            return True

    def add(self, name: bytes) -> None:
        """Keep a verification that has just succeeded."""
        with self._lock:
            self._names[name] = None
            if len(self._names) > self._most:
                del self._names[next(iter(self._names))]


_SUCCESSES: Final = _Successes(4096)


def _verify_once(scheme: SignatureScheme, key: VerificationKey, signature: bytes, data: bytes) -> None:
    """Verify, unless just this verification has succeeded before; raises `BadSignature`.

    All messages of a batch share one, and a message that comes twice (received, then relayed as evidence) is verified
    once. That is sound because whether a signature verifies depends on nothing but the four arguments, and the name is
    a SHA-384 of all four: to find the entry of another signature, context, header or payload is to find a collision,
    and the public key's own bytes are in it, so a signature that held under one key says nothing of another, of
    whatever party. Whose key it is, and whether it still is, is asked of `verify_with` each time and never kept. A
    failure is not kept either: it raises before `add`, so nobody can fill the table without a signature that holds.
    Names are kept and not what was signed, which may be secret, and large.
    """
    name = digest(scheme.name.encode(), key.public_bytes_raw(), signature, data)
    if not _SUCCESSES.holds(name):
        verify(scheme, key, signature, data)
        _SUCCESSES.add(name)
