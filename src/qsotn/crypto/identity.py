"""Who a party is: its two key pairs, the certificate that binds them, and the check of another's.

Two roots, as in Figure 3: the manufacturer's certifies devices (`cpe/…`: the IDevID a CPE is born with), the operator's
certifies the platform's parties. Neither is accepted for the other's roles, so a stolen manufacturer key makes no
QSSP, and the operator cannot invent a device. (A device's LDevID, issued by the operator, is requested with
`certificate_request`.)

What always holds: `verify_certificate` returns only after path, window, usage, name, role and both keys were checked;
its results are cached by certificate, never its clock.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from qsotn.crypto import cbor, certificates, labels
from qsotn.crypto.certificates import DEFAULT_TRUST_DOMAIN
from qsotn.crypto.paths import TrustAnchors as TrustAnchors
from qsotn.crypto.paths import Window, certified_path, serial_of
from qsotn.crypto.suites import DEFAULT_SUITE, KemKeyPair, SigningKey, Suite, VerificationKey, signing_seed, suite
from qsotn.domain import Entropy, PartyId, Role, Secret, role_of
from qsotn.errors import BadProof, MalformedMessage, StoreError

ROOT_LIFETIME: Final = dt.timedelta(days=3650)
_CACHED_PATHS: Final = 1024
_SERIAL_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Identity:
    """A party's own keys and the certificate chain (DER, its own first, the root left out) that certifies them."""

    party: PartyId
    chain: tuple[bytes, ...] = field(repr=False)
    suite: Suite = field(repr=False)
    signing_key: SigningKey = field(repr=False, compare=False)
    kem: KemKeyPair = field(repr=False, compare=False)

    @classmethod
    def create(
        cls,
        party: PartyId,
        authority: CertificateAuthority,
        not_before: dt.datetime,
        not_after: dt.datetime,
        entropy: Entropy,
        serial_number: str | None = None,
        chosen: Suite = DEFAULT_SUITE,
    ) -> Identity:
        """Draw both key pairs and have them certified."""
        signing_key, kem = chosen.generate_signing_key(entropy), chosen.generate_kem_key(entropy)
        public = signing_key.public_key().public_bytes_raw()
        leaf = authority.issue(party, public, kem.public, not_before, not_after, serial_number, chosen)
        return cls(party, (leaf,), chosen, signing_key, kem)

    @property
    def certificate_sha384(self) -> bytes:
        """SHA-384 of the party's own certificate."""
        return certificates.read_certificate(self.chain[0]).fingerprint(hashes.SHA384())

    def to_secret(self) -> Secret:
        """Serialise the whole identity for the party's own store, where it is kept wrapped."""
        public = [labels.IDENTITY_STATE, self.party, self.suite.number, self.chain]
        return Secret(cbor.encode([*public, signing_seed(self.signing_key).reveal(), self.kem.seed.reveal()]))

    @classmethod
    def from_secret(cls, secret: Secret) -> Identity:
        """Inverse of `to_secret`; raises `StoreError` for anything else."""
        try:
            match cbor.decode(secret.reveal()):
                case [labels.IDENTITY_STATE, str(party), int(number), list(chain), bytes(signing), bytes(kem_seed)]:
                    chosen = suite(number)
                    keys = chosen.signing_key(Secret(signing)), chosen.kem_key(Secret(kem_seed))
                    return cls(PartyId(party), tuple(chain), chosen, *keys)
        except (MalformedMessage, ValueError):
            pass  # told below, and without the cause: it could quote what it failed on
        raise StoreError("the stored identity is not one: expected what Identity.to_secret wrote")


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A root: the operator's or a manufacturer's."""

    certificate: bytes = field(repr=False)
    name: str
    trust_domain: str
    signing_key: SigningKey = field(repr=False, compare=False)
    entropy: Entropy = field(repr=False, compare=False)

    @classmethod
    def create(
        cls, name: str, entropy: Entropy, now: dt.datetime, trust_domain: str = DEFAULT_TRUST_DOMAIN
    ) -> CertificateAuthority:
        """Draw a root key (ML-DSA-65) and certify it by itself for ten years from `now`."""
        key = DEFAULT_SUITE.generate_signing_key(entropy)
        public, subject = key.public_key(), certificates.subject_of(PartyId(name), None)
        root = certificates.build_certificate(
            subject,
            public,
            subject,
            key,
            _serial(entropy),
            (now, now + ROOT_LIFETIME),
            certificates.root_extensions(public),
        )
        return cls(root.public_bytes(Encoding.DER), name, trust_domain, key, entropy)

    def issue(
        self,
        party: PartyId,
        signing_public: bytes,
        kem_public: bytes,
        not_before: dt.datetime,
        not_after: dt.datetime,
        serial_number: str | None = None,
        chosen: Suite = DEFAULT_SUITE,
    ) -> bytes:
        """Certify a party's two raw public keys of one suite; returns DER. `serial_number` is a device's."""
        chosen.kem_public_key(kem_public)
        extensions = certificates.end_entity_extensions(party, self.trust_domain, chosen.number, kem_public)
        public = chosen.verification_key(signing_public)
        return self.certify(party, public, (not_before, not_after), extensions, serial_number)

    def certify(
        self,
        party: PartyId,
        public: VerificationKey,
        window: tuple[dt.datetime, dt.datetime],
        extensions: list[certificates.Extension],
        serial_number: str | None,
    ) -> bytes:
        """Sign an end-entity certificate with these extensions and those that every one carries; returns DER."""
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.signing_key.public_key())
        certificate = certificates.build_certificate(
            certificates.subject_of(certificates.checked_party(party), serial_number),
            public,
            certificates.subject_of(PartyId(self.name), None),
            self.signing_key,
            _serial(self.entropy),
            window,
            [*extensions, *certificates.issuing_extensions(), (authority_key, False)],
        )
        return certificate.public_bytes(Encoding.DER)

    def to_secret(self) -> Secret:
        """Serialise the root for its owner's store."""
        seed = signing_seed(self.signing_key).reveal()
        return Secret(cbor.encode([labels.AUTHORITY_STATE, self.certificate, self.name, self.trust_domain, seed]))

    @classmethod
    def from_secret(cls, secret: Secret, entropy: Entropy) -> CertificateAuthority:
        """Inverse of `to_secret`; raises `StoreError` for anything else."""
        try:
            match cbor.decode(secret.reveal()):
                case [labels.AUTHORITY_STATE, bytes(certificate), str(name), str(trust_domain), bytes(seed)]:
                    return cls(certificate, name, trust_domain, DEFAULT_SUITE.signing_key(Secret(seed)), entropy)
        except (MalformedMessage, ValueError):
            pass  # as above
        raise StoreError("the stored root is not one: expected what CertificateAuthority.to_secret wrote")


@dataclass(frozen=True, slots=True)
class Verified:
    """Another party, proven by its certificate."""

    party: PartyId
    role: Role
    serial: str | None
    suite: Suite = field(repr=False)
    verification_key: VerificationKey = field(repr=False, compare=False)
    kem_public: bytes = field(repr=False)
    certificate_sha384: bytes = field(repr=False)


def verify_certificate(chain: tuple[bytes, ...], trust: TrustAnchors, now: dt.datetime) -> Verified:
    """Check a chain (DER, end entity first, root left out) at a moment; raises `BadProof` with the reason.

    The path and RFC 5280's rules are checked by `cryptography`; the name, the role's root and the HPKE key here.
    """
    verified, window = _verified(chain, trust)
    window.check(now)
    return verified


@lru_cache(maxsize=_CACHED_PATHS)
def _verified(chain: tuple[bytes, ...], trust: TrustAnchors) -> tuple[Verified, Window]:
    """Check everything but the clock, which is all that is left to ask each time (failures are not kept)."""
    leaf, window = certified_path(chain, trust)
    return _proven(leaf, window.party), window


def _proven(leaf: x509.Certificate, party: PartyId) -> Verified:
    chosen, kem_public = certificates.certified_kem(leaf.extensions)
    key, serial = leaf.public_key(), serial_of(leaf, party)
    if not isinstance(key, chosen.signature.verification_type):
        raise BadProof(f"the certificate's key is not of suite {chosen.number}, which its extension names")
    return Verified(party, role_of(party), serial, chosen, key, kem_public, leaf.fingerprint(hashes.SHA384()))


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What a party asks to have certified, having shown that it holds the signing key."""

    party: PartyId
    serial: str | None
    suite: Suite = field(repr=False)
    signing_public: bytes = field(repr=False)
    kem_public: bytes = field(repr=False)


def certificate_request(identity: Identity, trust_domain: str = DEFAULT_TRUST_DOMAIN) -> bytes:
    """Return a PKCS#10 request (DER) for the keys of an identity, for example a CPE's for its LDevID."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        certificates.read_certificate(identity.chain[0]).subject
    )
    for extension, critical in certificates.end_entity_extensions(
        identity.party, trust_domain, identity.suite.number, identity.kem.public
    ):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(identity.signing_key, None).public_bytes(Encoding.DER)


def verify_request(request: bytes, trust_domain: str = DEFAULT_TRUST_DOMAIN) -> CertificateRequest:
    """Check a request's signature and form; raises `BadProof`.

    Whether this party may have these keys certified is for the issuer to decide. The KEM key is not proven to be held:
    a party that names another's gains nothing, it only cannot open what is then sealed to it.
    """
    try:
        parsed = x509.load_der_x509_csr(request)
        held, extensions, key = parsed.is_signature_valid, parsed.extensions, parsed.public_key()
    except certificates.UNREADABLE as error:
        raise BadProof(f"{len(request)} bytes are no certificate request") from error
    chosen, kem_public = certificates.certified_kem(extensions)
    if not held or not isinstance(key, chosen.signature.verification_type):
        raise BadProof("the certificate request is not signed by the key it asks for, or that key is of another suite")
    party, serial = certificates.certified_party(extensions, trust_domain), certificates.device_serial(parsed.subject)
    return CertificateRequest(party, serial, chosen, key.public_bytes_raw(), kem_public)


def _serial(entropy: Entropy) -> int:
    """Draw a positive certificate serial number of 128 bits (RFC 5280, section 4.1.2.2 allows up to 20 octets)."""
    return int.from_bytes(entropy(_SERIAL_BYTES)) | 1
