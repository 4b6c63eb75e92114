"""One end of a TLS connection without a network: bytes that arrived in, bytes to be sent out, and nothing that waits.

pyOpenSSL is inside. The order is what matters:

1. The handshake runs. It shows that the peer holds the key of the certificate it sent.
2. The peer is judged: group, chain, name. Until then nothing of ours that follows the peer's certificate is sent: a
   client that refuses its server does not even show its own certificate.
3. Application bytes move, each time only if the peer is still to be believed.

A refusal is told once, to `refused`, and raised as `ssl.SSLCertVerificationError` or `ssl.SSLError`. `transport`
carries an engine over a socket; `connection` makes it what asyncio's own TLS protocol expects.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final, NoReturn

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from qsotn.adapters.tls.openssl import reason_of
from qsotn.crypto import certificates
from qsotn.crypto.transport_certificates import TransportPeer
from qsotn.errors import BadProof, PeerError

LARGEST_RECORD: Final = 16 * 1024
"""Bytes of the application in one record (RFC 8446, clause 5.1)."""
_HEADER: Final = 5
_CHUNK: Final = 64 * 1024

Judge = Callable[[str | None, tuple[bytes, ...]], TransportPeer]
"""Takes the negotiated group and the peer's chain (DER); raises `PeerError` with the reason."""
Refusal = Callable[[str, tuple[bytes, ...]], None]
"""Takes the reason and the chain that was refused (empty if there was none)."""


class TlsEngine:
    """One end. `peer` is None until the handshake ended and the peer was judged."""

    def __init__(
        self,
        settings: SSL.Context,
        *,
        server: bool,
        judge: Judge,
        confirm: Callable[[TransportPeer], None],
        refused: Refusal,
    ) -> None:
        self.server = server
        self.peer: TransportPeer | None = None
        self.ended = False
        """Whether the peer has said goodbye."""
        self.answers = False
        """Whether there may be something to send that nobody wrote: a peer may ask for new keys (RFC 8446, 4.6.3)."""
        self._judge, self._confirm, self._refused = judge, confirm, refused
        self._over = self._mute = False
        self._arriving = _Records()
        self._within = False  # a record, as far as we know: the last reading got all that it wanted
        self._tls = SSL.Connection(settings, None)
        if server:
            self._tls.set_accept_state()
        else:
            self._tls.set_connect_state()

    # --- bytes of the network ---------------------------------------------------------------------------------------

    def receive(self, data: memoryview) -> None:
        """Take what arrived."""
        self._arriving.follow(data)
        while data:
            data = data[self._tls.bio_write(data) :]

    def to_send(self) -> bytes:
        """Return what is to be sent to the peer, once; nothing to one that was refused, but for OpenSSL's own alert."""
        if self._mute:
            return b""
        parts: list[bytes] = []
        try:
            while not parts or len(parts[-1]) == _CHUNK:
                parts.append(self._tls.bio_read(_CHUNK))
        except SSL.WantReadError:
            pass  # there is nothing more
        return b"".join(parts)

    # --- handshake --------------------------------------------------------------------------------------------------

    def handshake(self) -> bool:
        """Go on with the handshake, and judge the peer at its end; say whether that was reached."""
        if self._over:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the peer was refused")
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            self._refuse(reason_of(error), (), error)
        if self.peer is None:
            self.peer = self._judged()
        return True

    def _judged(self) -> TransportPeer:
        chain: tuple[bytes, ...] = ()
        try:
            chain = self._chain()
            return self._judge(self._tls.get_group_name(), chain)
        except PeerError as error:
            self._refuse(str(error), chain, error)

    def _chain(self) -> tuple[bytes, ...]:
        """Return what the peer sent, its own certificate first; a server gets that one apart from the others."""
        try:
            own = self._tls.get_peer_certificate(as_cryptography=True)
            sent = self._tls.get_peer_cert_chain(as_cryptography=True) or []
        except certificates.UNREADABLE as error:
            raise BadProof(f"the peer's certificate cannot be read: {error}") from error
        others = sent if self.server else sent[1:]
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in (own, *others) if certificate)

    def _refuse(self, reason: str, chain: tuple[bytes, ...], cause: Exception) -> NoReturn:
        # From here on nothing is read, written or judged, so this is said once.
        self.peer, self._over = None, True
        self._mute = isinstance(cause, PeerError)  # OpenSSL, content with this peer, has written our own certificate
        self._refused(reason, chain)
        kind = ssl.SSLCertVerificationError if self._mute else ssl.SSLError
        raise kind(ssl.SSL_ERROR_SSL, reason) from cause

    # --- application bytes ------------------------------------------------------------------------------------------

    def read(self, most: int = LARGEST_RECORD) -> bytes:
        """Return some bytes; none if none are here, or if none will come (`ended`)."""
        peer = self._judged_peer()
        if self._arriving.whole <= 0 and not self._within:
            return b""
        wanted = min(most, LARGEST_RECORD)  # no record holds more, and a buffer is made for each call
        try:
            got = self._tls.recv(wanted)
        except SSL.WantReadError:
            self._arriving.whole, self._within = 0, False
            self.answers = True
            return b""
        except SSL.ZeroReturnError:
            self.ended = True
            return b""
        except SSL.Error as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, reason_of(error)) from error
        self._within = len(got) == wanted
        self._arriving.whole -= not self._within
        self._check_again(peer)
        return got

    def pending(self) -> int:
        """Return how much may be read at once, at least: bytes, or records that are here but not yet decrypted."""
        return self._tls.pending() or max(0, self._arriving.whole)

    def write(self, data: Any) -> None:
        """Encrypt all of `data`, which are bytes of any kind."""
        self._check_again(self._judged_peer())
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.send(rest) :]
        except SSL.Error as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, reason_of(error)) from error

    def _judged_peer(self) -> TransportPeer:
        # Without this, OpenSSL would finish an unfinished handshake by itself, and nobody would have judged the peer.
        if self.peer is None:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the peer has not been verified")
        return self.peer

    def _check_again(self, peer: TransportPeer) -> None:
        try:
            self._confirm(peer)
        except PeerError as error:
            self._refuse(str(error), peer.chain, error)

    def close(self) -> bool:
        """Say goodbye; say whether the peer has said it, too."""
        try:
            # The first call says it, the second takes in what the peer said.
            return self._tls.shutdown() or self._tls.shutdown()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, reason_of(error)) from error

    # --- what others ask about a connection -------------------------------------------------------------------------

    def certificate(self) -> bytes | None:
        """Return the certificate of the judged peer in DER."""
        return self.peer.chain[0] if self.peer else None

    def cipher(self) -> tuple[str, str, int]:
        """Return the cipher suite, the protocol version, and the bits of the key."""
        return (str(self._tls.get_cipher_name()), self.version(), self._tls.get_cipher_bits() or 0)

    def version(self) -> str:
        """Return the protocol version, as `TLSv1.3`."""
        return self._tls.get_protocol_version_name()

    def group(self) -> str | None:
        """Return the group of the key exchange."""
        return self._tls.get_group_name()

    def application_protocol(self) -> str | None:
        """Return the application protocol both ends agreed on."""
        return self._tls.get_alpn_proto_negotiated().decode() or None


class _Records:
    """How many whole records have arrived and not been read: asking OpenSSL whether there is more costs an exception.

    It may be too many, for a record need not hold bytes of the application, and never too few.
    """

    def __init__(self) -> None:
        self.whole = 0
        self._header = b""
        self._missing = 0

    def follow(self, data: memoryview) -> None:
        """Count the records that end in what arrived; the length ends a header of five bytes (RFC 8446, 5.1)."""
        at, size = 0, len(data)
        if not self._header and size > _HEADER and (data[3] << 8 | data[4]) == size - _HEADER:
            self.whole += 1  # most are one record
            return
        while at < size:
            if not self._missing:
                after = at + _HEADER - len(self._header)
                self._header += data[at:after]
                at = after
                if len(self._header) < _HEADER:
                    return
                self._missing = int.from_bytes(self._header[3:])
            taken = min(self._missing, size - at)
            at += taken
            self._missing -= taken
            if not self._missing:
                self._header = b""
                self.whole += 1
