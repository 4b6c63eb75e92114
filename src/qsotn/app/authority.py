"""A province's own certification authority: two roots, what they have issued, and what they have revoked, in files.

    operator.pem, manufacturer.pem     the roots
    operator.key, manufacturer.key     their keys, for this user alone; no service reads this folder
    operator.crl, manufacturer.crl     their revocation lists
    issued.json                        every certificate that may still be valid; written before one is handed out
    lock                               held by whoever issues or revokes

A revocation names all certificates of a party that are still valid, those too that newer ones replaced.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from qsotn.app.files import PUBLIC, replace_file, write_new
from qsotn.crypto import certificates
from qsotn.crypto.identity import CertificateAuthority, Identity
from qsotn.crypto.revocation_lists import issue_revocation_list
from qsotn.crypto.suites import SigningKey, suite
from qsotn.crypto.transport_certificates import issue_transport
from qsotn.domain import Entropy, PartyId, Role, role_of
from qsotn.errors import StoreError, UsageError

OPERATOR, MANUFACTURER = "operator", "manufacturer"
IDENTITY_LIFETIME: Final = dt.timedelta(days=1095)
"""Of a platform party's identity. A device's ends with its manufacturer's root, as IEEE 802.1AR has it: never before
the device does."""
BACKDATED: Final = dt.timedelta(minutes=5)
"""How much a certificate is older than its issue, for clocks that are behind; but a twentieth of its life at most."""
_REGISTER: Final = "issued.json"


class Issued(msgspec.Struct, frozen=True):
    """One certificate, by its number in hexadecimal digits."""

    party: PartyId
    kind: Literal["identity", "transport"]
    number: str
    not_after: dt.datetime
    revoked_at: dt.datetime | None = None


class Register(msgspec.Struct, frozen=True):
    """What was issued, and the number of the last revocation lists."""

    issued: tuple[Issued, ...] = ()
    lists: int = 0


@dataclass
class Authority:
    """The two roots at work. `save` makes what was issued and revoked since the last time durable."""

    folder: Path
    operator: CertificateAuthority = field(repr=False)
    manufacturer: CertificateAuthority = field(repr=False)
    lifetime: dt.timedelta
    """Of a transport certificate, and of a revocation list."""
    register: Register = field(default_factory=Register)

    @classmethod
    def create(cls, folder: Path, name: str, lifetime: dt.timedelta, entropy: Entropy, now: dt.datetime) -> Authority:
        """Make both roots, in a folder that does not exist yet."""
        folder.mkdir(mode=0o700)
        made = [
            CertificateAuthority.create(f"{name} {kind} root", entropy, now - BACKDATED)
            for kind in (OPERATOR, MANUFACTURER)
        ]
        for kind, root in zip((OPERATOR, MANUFACTURER), made, strict=True):
            write_new(folder / f"{kind}.pem", pem_certificate(root.certificate), PUBLIC)
            write_new(folder / f"{kind}.key", pem_key(root.signing_key))
        return cls(folder, made[0], made[1], lifetime)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, lifetime: dt.timedelta, entropy: Entropy) -> Iterator[Authority]:
        """Open the roots for one change at a time; others wait. Raises `StoreError`, `UsageError`."""
        with _locked(folder):
            try:
                register = msgspec.json.decode((folder / _REGISTER).read_bytes(), type=Register)
            except (OSError, msgspec.DecodeError) as error:
                raise StoreError(f"{folder / _REGISTER} cannot be used: {error}") from error
            roots = [_read_root(folder, kind, entropy) for kind in (OPERATOR, MANUFACTURER)]
            yield cls(folder, roots[0], roots[1], lifetime, register)

    def root_for(self, role: Role) -> CertificateAuthority:
        """Return the only root that may certify this role."""
        return self.manufacturer if role is Role.CPE else self.operator

    # --- certificates -----------------------------------------------------------------------------------------------

    def identity(
        self, party: PartyId, serial_number: str | None, suite_number: int, entropy: Entropy, now: dt.datetime
    ) -> Identity:
        """Draw a party's keys and certify them."""
        root = self.root_for(role_of(party))
        end = self._identity_end(root, party, now)
        made = Identity.create(party, root, now - BACKDATED, end, entropy, serial_number, suite(suite_number))
        self._note(party, "identity", made.chain[0])
        return made

    def identity_again(self, party: PartyId, chain: tuple[bytes, ...], now: dt.datetime) -> tuple[bytes, ...]:
        """Certify the keys of an identity once more; returns the chain."""
        old = certificates.read_certificate(chain[0])
        chosen, kem_public = certificates.certified_kem(old.extensions)
        root, serial_number = self.root_for(role_of(party)), certificates.device_serial(old.subject)
        public = _raw_key(old)
        window = (now - BACKDATED, self._identity_end(root, party, now))
        new = root.issue(party, public, kem_public, *window, serial_number, chosen)
        self._note(party, "identity", new)
        return (new,)

    def _identity_end(self, root: CertificateAuthority, party: PartyId, now: dt.datetime) -> dt.datetime:
        end = _ends(root.certificate)
        return end if role_of(party) is Role.CPE else min(now + IDENTITY_LIFETIME, end)

    def transport(
        self, party: PartyId, public: bytes, names: Iterable[str], serial_number: str | None, now: dt.datetime
    ) -> bytes:
        """Certify the raw public key of a party's connections; returns PEM."""
        root = self.root_for(role_of(party))
        begin, end = now - min(BACKDATED, self.lifetime / 20), min(now + self.lifetime, _ends(root.certificate))
        made = issue_transport(root, party, public, begin, end, tuple(names), serial_number)
        self._note(party, "transport", made)
        return pem_certificate(made)

    def transport_again(self, old: x509.Certificate, party: PartyId, now: dt.datetime) -> bytes:
        """Certify the key of a transport certificate once more; returns PEM.

        The key stays, so that a certificate is one file, and no reader finds one without its key.
        """
        names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        listed = [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
        return self.transport(party, _raw_key(old), listed, certificates.device_serial(old.subject), now)

    def _note(self, party: PartyId, kind: Literal["identity", "transport"], der: bytes) -> None:
        certificate = certificates.read_certificate(der)
        issued = Issued(party, kind, f"{certificate.serial_number:x}", certificate.not_valid_after_utc)
        self.register = msgspec.structs.replace(self.register, issued=(*self.register.issued, issued))

    # --- revocation -------------------------------------------------------------------------------------------------

    def is_revoked(self, party: PartyId) -> bool:
        """Say whether a party was revoked: it is certified no more."""
        return any(one.revoked_at is not None for one in self.register.issued if one.party == party)

    def revoke(self, party: PartyId, now: dt.datetime) -> None:
        """Revoke every certificate of a party; `renew_lists` then tells the others.

        Raises `UsageError` for a party that has no certificate.
        """
        if not any(one.party == party for one in self.register.issued):
            raise UsageError(f"{party} has no certificate of this province; `qsotn pki show` lists who has")
        issued = tuple(
            msgspec.structs.replace(one, revoked_at=now) if one.party == party and one.revoked_at is None else one
            for one in self.register.issued
        )
        self.register = msgspec.structs.replace(self.register, issued=issued)

    def lists_due(self, now: dt.datetime) -> bool:
        """Say whether a revocation list is missing, not the newest, or past two thirds of its life."""
        for kind in (OPERATOR, MANUFACTURER):
            try:
                listed = x509.load_pem_x509_crl((self.folder / f"{kind}.crl").read_bytes())
            except (OSError, ValueError):
                return True
            number = listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            end = listed.next_update_utc
            if number != self.register.lists or end is None or is_due(end, self.lifetime, now):
                return True
        return False

    def renew_lists(self, now: dt.datetime) -> None:
        """Forget certificates that have expired, and write both revocation lists anew."""
        # Whoever was revoked stays on record, or would be certified again one day.
        issued = tuple(one for one in self.register.issued if one.not_after >= now or one.revoked_at is not None)
        self.register = Register(issued, self.register.lists + 1)
        self.save()
        for kind, root in ((OPERATOR, self.operator), (MANUFACTURER, self.manufacturer)):
            made = issue_revocation_list(root, self._revoked(root, now), self.register.lists, now, now + self.lifetime)
            pem = x509.load_der_x509_crl(made).public_bytes(Encoding.PEM)
            replace_file(self.folder / f"{kind}.crl", pem, PUBLIC)

    def _revoked(self, root: CertificateAuthority, now: dt.datetime) -> dict[int, dt.datetime]:
        return {
            int(one.number, 16): one.revoked_at
            for one in self.register.issued
            if one.revoked_at is not None and one.not_after >= now and self.root_for(role_of(one.party)) is root
        }

    def save(self) -> None:
        """Write the register."""
        replace_file(self.folder / _REGISTER, msgspec.json.format(msgspec.json.encode(self.register), indent=2))


def is_due(not_after: dt.datetime, lifetime: dt.timedelta, now: dt.datetime) -> bool:
    """Say whether something with that lifetime has passed two thirds of it."""
    return not_after - now <= lifetime / 3


def pem_certificate(der: bytes) -> bytes:
    """Return a certificate in PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def pem_key(key: SigningKey) -> bytes:
    """Return a private key in PEM (PKCS#8), not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_pem_certificate(path: Path) -> x509.Certificate:
    """Read a certificate. Raises `StoreError`."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is no certificate that can be read: {error}") from error


def _read_root(folder: Path, kind: str, entropy: Entropy) -> CertificateAuthority:
    certificate, path = read_pem_certificate(folder / f"{kind}.pem"), folder / f"{kind}.key"
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path} is no private key that can be read: {type(error).__name__}") from error
    if not isinstance(key, mldsa.MLDSA65PrivateKey) or key.public_key() != certificate.public_key():
        raise StoreError(f"{path} is not the key of {kind}.pem")
    name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    der = certificate.public_bytes(Encoding.DER)
    return CertificateAuthority(der, name, certificates.DEFAULT_TRUST_DOMAIN, key, entropy)


def _raw_key(certificate: x509.Certificate) -> bytes:
    public = certificate.public_key()
    if not isinstance(public, mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey):
        raise StoreError(f"the certificate of {certificate.subject.rfc4514_string()} has no ML-DSA key")
    return public.public_bytes_raw()


def _ends(der: bytes) -> dt.datetime:
    return certificates.read_certificate(der).not_valid_after_utc


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(f"{folder} is no certification authority that can be used: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
