"""The named sets of algorithms, and a key's way from bytes to an object and back.

Every message names its suite by number, so that a set can be replaced without guessing. Post-quantum algorithms alone
suffice in each of them; suites 1 and 2 add a classical exchange (hybrid KEM), and QKD material only ever adds.

| number | KEM (HPKE)                           | signature            |
| ------ | ------------------------------------ | -------------------- |
| 1      | X-Wing: ML-KEM-768 with X25519       | ML-DSA-65 (COSE −49) |
| 2      | ML-KEM-1024 with P-384               | ML-DSA-87 (COSE −50) |
| 3      | ML-KEM-1024 alone (as CNSA 2.0 asks) | ML-DSA-87 (COSE −50) |

All use HKDF-SHA384 and AES-256-GCM (RFC 9180). A private key is its seed: 32 bytes for ML-DSA (FIPS 204, section 5.1),
64 for ML-KEM (FIPS 203, section 7.1: d ‖ z), 32 for the two hybrids, expanded by SHAKE256 as X-Wing and the HPKE-PQ
draft do. What is stored is therefore small, and it cannot be inconsistent with itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mldsa

from qsotn.crypto import kem
from qsotn.domain import Entropy, Secret
from qsotn.errors import BadSignature, MalformedMessage

SigningKey: TypeAlias = mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
VerificationKey: TypeAlias = mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey

_SIGNING_SEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class SignatureScheme:
    """One ML-DSA parameter set and its number in COSE (RFC 9964)."""

    name: str
    cose_algorithm: int
    from_seed: Callable[[bytes], SigningKey] = field(repr=False)
    from_public: Callable[[bytes], VerificationKey] = field(repr=False)
    verification_type: type[VerificationKey] = field(repr=False)


ML_DSA_65: Final = SignatureScheme(
    "ML-DSA-65",
    -49,
    mldsa.MLDSA65PrivateKey.from_seed_bytes,
    mldsa.MLDSA65PublicKey.from_public_bytes,
    mldsa.MLDSA65PublicKey,
)
ML_DSA_87: Final = SignatureScheme(
    "ML-DSA-87",
    -50,
    mldsa.MLDSA87PrivateKey.from_seed_bytes,
    mldsa.MLDSA87PublicKey.from_public_bytes,
    mldsa.MLDSA87PublicKey,
)


@dataclass(frozen=True, slots=True)
class KemKeyPair:
    """A KEM key pair: its seed, its public bytes, and the parsed object (re-parsing costs more than decapsulating)."""

    suite_number: int
    public: bytes = field(repr=False)
    seed: Secret
    handle: Any = field(repr=False, compare=False)

    def erase(self) -> None:
        """Forget the key pair, as far as `Secret` can; a later `unseal` with its seed is refused."""
        self.seed.erase()


@dataclass(frozen=True, slots=True)
class Suite:
    """One row of the table above, with the key operations that depend on the row."""

    number: int
    kem: kem.Kem
    signature: SignatureScheme
    batches: bool = True
    """Whether one signature may stand for several messages: their tree is of SHA-256, which CNSA 2.0 does not list."""

    @property
    def hpke(self) -> hpke.Suite:
        """The HPKE suite (RFC 9180)."""
        return self.kem.hpke

    def generate_signing_key(self, entropy: Entropy) -> SigningKey:
        """Draw an ML-DSA key from 32 bytes of entropy (FIPS 204, algorithm 1)."""
        return self.signature.from_seed(entropy(_SIGNING_SEED_BYTES))

    def signing_key(self, seed: Secret) -> SigningKey:
        """Return the signing key of this 32-byte seed; the inverse of `signing_seed`."""
        return self.signature.from_seed(seed.reveal())

    def verification_key(self, public: bytes) -> VerificationKey:
        """Parse a raw ML-DSA public key; raises `MalformedMessage` if it is not one of this suite."""
        try:
            return self.signature.from_public(public)
        except ValueError as error:
            raise MalformedMessage(f"{len(public)} bytes are no {self.signature.name} public key") from error

    def generate_kem_key(self, entropy: Entropy) -> KemKeyPair:
        """Draw a KEM key pair from entropy."""
        return self.kem_key(Secret(entropy(self.kem.seed_bytes)))

    def kem_key(self, seed: Secret) -> KemKeyPair:
        """Return the KEM key pair of this seed (32 bytes for the hybrids, 64 for ML-KEM-1024)."""
        if len(seed) != self.kem.seed_bytes:
            raise ValueError(f"a {self.kem.name} seed is {self.kem.seed_bytes} bytes, not {len(seed)}")
        handle, public = self.kem.key_pair(seed.reveal())
        return KemKeyPair(self.number, public, seed, handle)

    def kem_public_key(self, public: bytes) -> Any:
        """Parse a raw KEM public key; raises `MalformedMessage` if it is not one of this suite."""
        try:
            return self.kem.public_key(public)
        except ValueError as error:
            raise MalformedMessage(f"{len(public)} bytes are no {self.kem.name} public key") from error


SUITES: Final[dict[int, Suite]] = {
    1: Suite(1, kem.MLKEM768_X25519, ML_DSA_65),
    2: Suite(2, kem.MLKEM1024_P384, ML_DSA_87),
    3: Suite(3, kem.MLKEM1024, ML_DSA_87, batches=False),
}
DEFAULT_SUITE: Final = SUITES[1]


def suite(number: object) -> Suite:
    """Return the suite of that number; raises `MalformedMessage` for one that does not exist."""
    if type(number) is not int or number not in SUITES:
        raise MalformedMessage(f"suite {number!r} does not exist: expected one of {sorted(SUITES)}")
    return SUITES[number]


def signing_seed(key: SigningKey) -> Secret:
    """Return the 32-byte seed that is the whole of an ML-DSA private key."""
    return Secret(key.private_bytes_raw())


def verify(scheme: SignatureScheme, key: VerificationKey, signature: bytes, data: bytes) -> None:
    """Verify with the empty ML-DSA context string (RFC 9964); raises `BadSignature`."""
    if not isinstance(key, scheme.verification_type):
        raise BadSignature(
            f"the message is signed with {scheme.name}, its claimed signer has a key of another algorithm"
        )
    try:
        key.verify(signature, data)
    except InvalidSignature as error:
        raise BadSignature(f"the {scheme.name} signature does not verify under its claimed signer's key") from error
