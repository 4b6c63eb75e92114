"""Who an SAE is, by its certificate and nothing else (ETSI GS QKD 014, clause 5.1), and TLS for SAEs of others."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID

from qsotn.adapters.tls.ordinary import OrdinaryFiles, OrdinaryTls
from qsotn.adapters.tls.transport import certificate_of
from qsotn.crypto.certificates import UNREADABLE
from qsotn.errors import UsageError, WrongParty
from qsotn.service.delivery.throttled import Throttled

Identify = Callable[[x509.Certificate], str]
"""Return the SAE that a verified certificate belongs to. Raises `WrongParty` if it is none of those known."""
_log = structlog.get_logger("delivery")


@dataclass(frozen=True, slots=True)
class Identity:
    """An SAE, and until when its certificate says so (seconds since the epoch)."""

    sae: str
    until: float


def sae_of(certificate: x509.Certificate, known: Collection[str]) -> str:
    """Return the known SAE that a certificate names: by its URIs, without one by its DNS names, else its common name.

    Only the first kind that is there counts, so a certificate with a URI is never taken for what its common name says.
    Raises `WrongParty` if it names no known SAE, or several.
    """
    names = _names(certificate)
    found = [name for name in dict.fromkeys(names) if name in known]
    if len(found) != 1:
        shown = ", ".join(name[:100] for name in names[:4]) or "nobody"
        raise WrongParty(f"the certificate names {shown}: {'several SAEs' if found else 'no SAE'} of this key manager")
    return found[0]


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = extension.get_values_for_type(x509.UniformResourceIdentifier)
        names = uris or extension.get_values_for_type(x509.DNSName)
        if names:
            return names
    except x509.ExtensionNotFound:
        pass  # then the common name is what there is
    except UNREADABLE as error:
        raise WrongParty(f"the certificate's alternative names cannot be read: {error}") from error
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def identity_of(transport: asyncio.BaseTransport, identify: Identify) -> Identity:
    """Return who is at the other end of a connection of either kind of TLS. Raises `WrongParty`."""
    shown = certificate_of(transport)
    if not shown:
        raise WrongParty("the connection has no client certificate")
    try:
        certificate = x509.load_der_x509_certificate(shown)
        until = certificate.not_valid_after_utc.timestamp()
    except UNREADABLE as error:
        raise WrongParty(f"the client certificate cannot be read: {error}") from error
    return Identity(identify(certificate), until)


def standard_tls(files: OrdinaryFiles) -> OrdinaryTls:
    """Return ordinary TLS for SAEs of others, that takes over changed files. Raises `UsageError`."""
    throttled = Throttled()

    def refused(reason: str) -> None:
        throttled.tell(_log.warning, "a client is refused", reason=reason)

    def failed(reason: str) -> None:
        _log.error("standard TLS goes on with what it had", reason=reason)

    return OrdinaryTls(
        files, lambda now: standard_server_context(now.certificate, now.key, now.authority), refused, failed
    )


def standard_server_context(certificate: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """Return the context of a server for SAEs that speak ordinary TLS, 1.2 at least, with a certificate of `client_ca`.

    All files are PEM; `certificate` may be a chain. No session is resumed, so that every connection begins with a
    certificate that is verified now. Raises `UsageError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    # TLS 1.2 only with forward secrecy and authenticated encryption; TLS 1.3 has nothing else.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{certificate} with the key {key} cannot be used: {error}") from error
    try:
        context.load_verify_locations(client_ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{client_ca} holds no certificate of a CA in PEM: {error}") from error
    return context
