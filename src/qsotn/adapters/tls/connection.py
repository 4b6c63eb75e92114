"""An engine as asyncio's own TLS protocol wants it: bytes between two memory buffers, in place of `ssl.SSLObject`.

For servers and clients of others, which only take an `ssl.SSLContext`; our own use `transport`, which costs less.
"""

from __future__ import annotations

import ssl
from typing import Any, NoReturn

from qsotn.adapters.tls.engine import TlsEngine


class Connection(ssl.SSLObject):
    """A connection over memory buffers."""

    engine: TlsEngine
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO

    def __init__(self, engine: TlsEngine, buffers: tuple[ssl.MemoryBIO, ssl.MemoryBIO]) -> None:
        self.engine = engine
        self._incoming, self._outgoing = buffers

    def do_handshake(self) -> None:
        """Go on with the handshake, and judge the peer at its end; raises `ssl.SSLWantReadError` until then."""
        self._feed()
        if not self.engine.handshake():
            self._wait()
        self._flush()

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the name it has in the standard library
        """Return at most `len` bytes, or fill `buffer` and return how many; none at the end of the connection."""
        self._feed()
        try:
            got = self.engine.read(len)
        except ssl.SSLError:
            self._flush()
            raise
        if not got and not self.engine.ended:
            self._wait()
        if buffer is None:
            return got
        count = memoryview(got).nbytes
        memoryview(buffer)[:count] = got
        return count

    def write(self, data: Any) -> int:
        """Encrypt all of `data`, which are bytes of any kind; return its length."""
        try:
            self.engine.write(data)
        finally:
            self._flush()
        return len(data)

    def pending(self) -> int:
        """Return how many bytes may be read at once, counting what is here but not yet decrypted."""
        return self.engine.pending()

    def unwrap(self) -> None:
        """Say goodbye; raises `ssl.SSLWantReadError` until the peer has said it, too."""
        self._feed()
        try:
            heard = self.engine.close()
        finally:
            self._flush()
        if not heard:
            self._wait()

    def _feed(self) -> None:
        if self._incoming.pending:
            self.engine.receive(memoryview(self._incoming.read()))

    def _flush(self) -> None:
        self._outgoing.write(self.engine.to_send())

    def _wait(self) -> NoReturn:
        self._flush()
        if self._incoming.eof:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer closed the connection without saying so")
        raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "more bytes are needed")

    # --- what others ask about a connection -------------------------------------------------------------------------

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the peer's certificate in DER, or, as asyncio asks, a description, which is empty."""
        return self.engine.certificate() if binary_form else {}

    def cipher(self) -> tuple[str, str, int]:
        """Return the cipher suite, the protocol version, and the bits of the key."""
        return self.engine.cipher()

    def version(self) -> str:
        """Return the protocol version, as `TLSv1.3`."""
        return self.engine.version()

    def group(self) -> str | None:
        """Return the group of the key exchange."""
        return self.engine.group()

    def selected_alpn_protocol(self) -> str | None:
        """Return the application protocol both ends agreed on."""
        return self.engine.application_protocol()

    def compression(self) -> None:
        """Return None: TLS 1.3 compresses nothing."""
        return
