"""One TLS connection, as asyncio wants it: bytes between two memory buffers, nothing that waits.

It takes the place of the standard library's `ssl.SSLObject`, with pyOpenSSL inside. The order is what matters:

1. The handshake runs. It shows that the peer holds the key of the certificate it sent.
2. The peer is judged: group, chain, name. Until then nothing of ours that follows the peer's certificate is sent: a
   client that refuses its server does not even show its own certificate.
3. Application bytes move, each time only if the peer is still to be believed.

A refusal is told once, to `refused`, and raised as `ssl.SSLCertVerificationError` or `ssl.SSLError`; asyncio then drops
the connection without a word to the peer (it does not send the alert that OpenSSL wrote).
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

_LARGEST_RECORD: Final = 16 * 1024
_CHUNK: Final = 64 * 1024

Judge = Callable[[str | None, tuple[bytes, ...]], TransportPeer]
"""Takes the negotiated group and the peer's chain (DER); raises `PeerError` with the reason."""
Refusal = Callable[[str, tuple[bytes, ...]], None]
"""Takes the reason and the chain that was refused (empty if there was none)."""


class Connection(ssl.SSLObject):
    """A connection over memory buffers. `peer` is None until the handshake ended and the peer was judged."""

    def __init__(
        self,
        settings: SSL.Context,
        buffers: tuple[ssl.MemoryBIO, ssl.MemoryBIO],
        *,
        server: bool,
        judge: Judge,
        confirm: Callable[[TransportPeer], None],
        refused: Refusal,
    ) -> None:
        self.peer: TransportPeer | None = None
        self._incoming, self._outgoing = buffers
        self._server = server
        self._judge, self._confirm, self._refused = judge, confirm, refused
        self._over = False
        self._undecrypted = 0
        self._tls = SSL.Connection(settings, None)
        if server:
            self._tls.set_accept_state()
        else:
            self._tls.set_connect_state()

    # --- handshake --------------------------------------------------------------------------------------------------

    def do_handshake(self) -> None:
        """Go on with the handshake, and judge the peer at its end; raises `ssl.SSLWantReadError` until then."""
        if self._over:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the peer was refused")
        self._feed()
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._wait()
        except SSL.Error as error:
            self._refuse(reason_of(error), (), error)
        if self.peer is None:
            self.peer = self._judged()
        self._flush()

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
        others = sent if self._server else sent[1:]
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in (own, *others) if certificate)

    def _refuse(self, reason: str, chain: tuple[bytes, ...], cause: Exception) -> NoReturn:
        # From here on nothing is read, written or judged, so this is said once.
        self.peer, self._over = None, True
        self._refused(reason, chain)
        kind = ssl.SSLCertVerificationError if isinstance(cause, PeerError) else ssl.SSLError
        raise kind(ssl.SSL_ERROR_SSL, reason) from cause

    # --- application bytes ------------------------------------------------------------------------------------------

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the name it has in the standard library
        """Return at most `len` bytes, or fill `buffer` and return how many; none at the end of the connection."""
        peer = self._judged_peer()
        self._feed()
        wanted = min(len, _LARGEST_RECORD)  # no record holds more, and a buffer is taken anew for each call
        try:
            got = self._tls.recv(wanted) if buffer is None else self._tls.recv_into(buffer, wanted)
        except SSL.ZeroReturnError:
            return b"" if buffer is None else 0
        except SSL.WantReadError:
            self._wait()
        except SSL.Error as error:
            self._fail(error)
        self._check_again(peer)
        return got

    def write(self, data: Any) -> int:
        """Encrypt all of `data`, which are bytes of any kind; return its length."""
        self._check_again(self._judged_peer())
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.send(rest) :]
        except SSL.Error as error:
            self._fail(error)
        self._flush()
        return len(data)

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

    def pending(self) -> int:
        """Return how many bytes may be read at once, counting those that are here but not yet decrypted."""
        return self._tls.pending() + self._undecrypted

    def unwrap(self) -> None:
        """Say goodbye; raises `ssl.SSLWantReadError` until the peer has said it, too."""
        self._feed()
        try:
            # The first call says it, the second takes in what the peer said.
            if not (self._tls.shutdown() or self._tls.shutdown()):
                self._wait()
        except SSL.WantReadError:
            self._wait()
        except SSL.Error as error:
            self._fail(error)
        self._flush()

    # --- bytes of the network ---------------------------------------------------------------------------------------

    def _feed(self) -> None:
        if not self._incoming.pending:
            return
        data = memoryview(self._incoming.read())
        self._undecrypted += len(data)
        while data:
            data = data[self._tls.bio_write(data) :]

    def _flush(self) -> None:
        try:
            while self._outgoing.write(self._tls.bio_read(_CHUNK)) == _CHUNK:
                pass
        except SSL.WantReadError:
            pass  # there was nothing to send

    def _wait(self) -> NoReturn:
        self._undecrypted = 0
        self._flush()
        if self._incoming.eof:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer closed the connection without saying so")
        raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "more bytes are needed")

    def _fail(self, error: SSL.Error) -> NoReturn:
        self._flush()
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, reason_of(error)) from error

    # --- what others ask about a connection -------------------------------------------------------------------------

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the peer's certificate in DER, or, as asyncio asks, a description, which is empty: see `peer`."""
        if not binary_form:
            return {}
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

    def selected_alpn_protocol(self) -> str | None:
        """Return the application protocol both ends agreed on."""
        return self._tls.get_alpn_proto_negotiated().decode() or None

    def compression(self) -> None:
        """Return None: TLS 1.3 compresses nothing."""
        return
