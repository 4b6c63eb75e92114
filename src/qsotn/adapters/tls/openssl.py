"""How the OpenSSL that `cryptography` brings is set up, and what its refusals mean in words.

pyOpenSSL has no public call for groups and signature algorithms; they are set through the binding it is made of. That
they took effect is not taken on trust: `connection` looks at the group of every handshake, and `crypto.paths` at the
algorithm of every key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from qsotn.errors import LocalError, UsageError

GROUPS: Final = ("X25519MLKEM768", "SecP384r1MLKEM1024")
"""As IANA and the library spell them; the first is the one a client sends a key share of."""
SIGNATURE_ALGORITHMS: Final = ("mldsa65", "mldsa87")
CIPHER_SUITE: Final = b"TLS_AES_256_GCM_SHA384"
APPLICATION_PROTOCOL: Final = b"http/1.1"


def context(chain: Sequence[x509.Certificate], key: Path, *, server: bool) -> SSL.Context:
    """Return the library's settings for one side, with a certificate chain and its key (a PEM file).

    Raises `UsageError` if the key is not that of the certificate, `LocalError` if the build has no ML-KEM or ML-DSA.
    """
    settings = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
    _restrict(settings)
    settings.use_certificate(chain[0])
    for intermediate in chain[1:]:
        settings.add_extra_chain_cert(intermediate)
    try:
        settings.use_privatekey_file(str(key))
        settings.check_privatekey()
    except SSL.Error as error:
        raise UsageError(f"the key in {key} cannot be used: {reason_of(error)}") from None
    if server:
        settings.set_alpn_select_callback(_select_protocol)
    else:
        settings.set_alpn_protos([APPLICATION_PROTOCOL])
    return settings


def nameless_context() -> SSL.Context:
    """Return the settings of a client that has no certificate, for tests of servers. Raises `LocalError`."""
    settings = SSL.Context(SSL.TLS_CLIENT_METHOD)
    _restrict(settings)
    settings.set_alpn_protos([APPLICATION_PROTOCOL])
    return settings


def _restrict(settings: SSL.Context) -> None:
    settings.set_min_proto_version(SSL.TLS1_3_VERSION)
    settings.set_max_proto_version(SSL.TLS1_3_VERSION)
    settings.set_tls13_ciphersuites(CIPHER_SUITE)
    # No session outlives its connection, so every connection begins with certificates that are verified now.
    settings.set_options(SSL.OP_NO_TICKET)
    settings.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # OpenSSL demands a certificate and proves that its key is held; whether it is believed is decided once the
    # handshake ends (`connection`), by one set of rules and with our reasons. So its own judgement is passed over.
    settings.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    library, inner = Binding.lib, settings._context  # noqa: SLF001 - see above: there is no public call
    if library.SSL_CTX_set1_curves_list(inner, ":".join(GROUPS).encode()) != 1:
        raise LocalError(f"this OpenSSL ({SSL.OPENSSL_VERSION:x}) does not offer the groups {', '.join(GROUPS)}")
    if library.SSL_CTX_set1_sigalgs_list(inner, ":".join(SIGNATURE_ALGORITHMS).encode()) != 1:
        raise LocalError(f"this OpenSSL does not offer {', '.join(SIGNATURE_ALGORITHMS)}")


def _select_protocol(_: SSL.Connection, offered: list[bytes]) -> Any:
    return APPLICATION_PROTOCOL if APPLICATION_PROTOCOL in offered else SSL.NO_OVERLAPPING_PROTOCOLS


_NOT_TLS: Final = "what the peer sent is not TLS"
_NO_TLS_1_3: Final = "the peer does not speak TLS 1.3"
_WORDS: Final = {
    "no suitable key share": f"the peer offers no post-quantum group: expected {' or '.join(GROUPS)}",
    "no shared signature algorithms": "the peer takes no ML-DSA signature",
    "peer did not return a certificate": "the peer showed no ML-DSA certificate",
    "no shared cipher": "the peer does not take AES-256-GCM",
    "unsupported protocol": _NO_TLS_1_3,
    "wrong ssl version": _NO_TLS_1_3,
    "wrong version number": _NOT_TLS,
    "http request": _NOT_TLS,
    "https proxy request": _NOT_TLS,
    "unexpected message": _NOT_TLS,
}
"""The library's reasons that have a plain meaning here; every other one is quoted."""


def reason_of(error: SSL.Error) -> str:
    """Say in words why a handshake or a connection failed."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = [reason for _, _, reason in queue] or ["the connection is unusable"]
    known = [_WORDS[reason] for reason in reasons if reason in _WORDS]
    if known:
        return known[0]
    if "alert" in reasons[0]:
        return f"the peer refused: {reasons[0]}"
    return f"TLS failed: {', '.join(reasons)}"
