"""TLS over a socket: a protocol to the network below, a transport to the application above.

asyncio has one, made for every TLS library and every protocol, and for small requests that is dear. This one carries
our own engine and nothing else, so it need not ask twice whether there is more; it keeps one record of buffer a
connection; and it sends the alert of a handshake that failed, which asyncio's throws away.

An end is said: `close` sends the goodbye of TLS, then the end of the stream, and waits for the peer's for a moment. A
peer that went without a word is an error for the application, which may hold half of something.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from qsotn.adapters.tls.context import PostQuantumContext
from qsotn.adapters.tls.engine import LARGEST_RECORD, TlsEngine

P = TypeVar("P", bound=asyncio.Protocol)

SHUTDOWN_S: Final = 2.0
"""How long a peer may take to answer our goodbye, or to read some of what was sent before."""
MOST_UNREAD: Final = 1024 * 1024
"""Bytes that may wait to be sent while TLS itself has something to answer."""
_BUFFER: Final = LARGEST_RECORD + 512
"""A record with all that is around it (RFC 8446, clause 5.2)."""


class TlsTransport(asyncio.BufferedProtocol, asyncio.Transport):
    """One connection; the application's protocol is made once the peer is verified."""

    def __init__(self, engine: TlsEngine, application: Callable[[], asyncio.Protocol], handshake_s: float) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._engine, self._make, self._handshake_s = engine, application, handshake_s
        self._buffer = memoryview(bytearray(_BUFFER))
        self._network: asyncio.Transport
        self._application: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = self._closing = self._gone = False
        self._error: Exception | None = None
        self.opened: asyncio.Future[asyncio.Protocol] = self._loop.create_future()
        """The application's protocol, once the handshake is over, or why it failed."""

    # --- the network's side -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._network = cast("asyncio.Transport", transport)
        self._timer = self._loop.call_later(self._handshake_s, self._too_late)
        if not self._engine.server:
            self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - it is asyncio's buffer size
        """Return where to put what arrives."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what arrived; after our goodbye nothing is wanted any more."""
        if self._closing:
            return
        self._engine.receive(self._buffer[:nbytes])
        if self._application is None:
            self._shake()
        if self._application is not None:
            self._deliver()

    def _shake(self) -> None:
        try:
            done = self._engine.handshake()
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._send()
        if done:
            self._open()

    def _open(self) -> None:
        self._stop_timer()
        if self.opened.cancelled():
            self.abort()
            return
        self._application = self._make()
        self._application.connection_made(self)
        self.opened.set_result(self._application)

    def _deliver(self) -> None:
        application, engine = cast("asyncio.Protocol", self._application), self._engine
        while not (self._paused or self._closing):
            try:
                data = engine.read()
            except ssl.SSLError as error:
                self._fail(error)
                return
            if not data:
                break
            application.data_received(data)
        if engine.answers:
            self._answer()
        if engine.ended and not self._closing:
            application.eof_received()
            self.close()  # TLS has no half of a connection here: whoever says goodbye hears nothing more

    def _answer(self) -> None:
        """Send what the library answered by itself, unless the peer reads none of it and asks for ever more."""
        self._engine.answers = False
        answer = self._engine.to_send()
        if answer and self._network.get_write_buffer_size() > MOST_UNREAD:
            self._fail(ssl.SSLError(ssl.SSL_ERROR_SSL, "the peer asks, and reads no answer"))
        elif answer and not self._closing:
            self._network.write(answer)

    def eof_received(self) -> None:
        """The network ends: as it was agreed, or in the middle of something."""
        if not (self._closing or self._engine.ended):
            self._error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer closed the connection without saying so")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._stop_timer()
        self._closing = self._gone = True
        reason = self._error or exc
        if self._application is not None:
            self._application.connection_lost(reason)
        if not self.opened.done():
            self.opened.set_exception(reason or ConnectionResetError("the connection ended during the TLS handshake"))

    def pause_writing(self) -> None:
        """The peer reads more slowly than the application writes."""
        if self._application is not None:
            self._application.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._application is not None:
            self._application.resume_writing()

    # --- ends -------------------------------------------------------------------------------------------------------

    def _too_late(self) -> None:
        self._error = TimeoutError(f"the TLS handshake took longer than {self._handshake_s:g} s")
        self._network.abort()

    def _fail(self, error: Exception) -> None:
        """Send the alert, if the library wrote one, and end."""
        self._error = error
        if self._application is None and not self.opened.done():
            self.opened.set_exception(error)
        self._closing = True
        self._send()
        self._cut_later()
        self._network.close()  # at once, if the peer reads: what a stranger leaves behind must not linger

    def _part(self) -> None:
        """Send what is left and the end of the stream; the rest of what arrives is read to no end.

        A socket closed with bytes unread would take back what was sent.
        """
        self._closing = True
        self._send()
        self._cut_later()
        self._network.resume_reading()
        self._network.write_eof()

    def _cut_later(self) -> None:
        """End in a moment, however slow the peer is; as long as it goes on reading what was sent, later."""
        self._stop_timer()
        self._timer = self._loop.call_later(SHUTDOWN_S, self._cut, self._network.get_write_buffer_size())

    def _cut(self, unsent: int) -> None:
        if self._network.get_write_buffer_size() < unsent:
            self._cut_later()
        else:
            self._network.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self) -> None:
        data = self._engine.to_send()
        if data and not self._network.is_closing():
            self._network.write(data)

    # --- the application's side -------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Encrypt and send; what is written after the end is dropped, as by every transport."""
        if self._closing:
            return
        try:
            self._engine.write(data)
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._send()

    def close(self) -> None:
        """Send what was written, and the goodbye; `connection_lost` follows."""
        if self._closing or self._network.is_closing():
            return
        try:
            self._engine.close()
        except ssl.SSLError as error:
            self._error = error
        self._part()

    def abort(self) -> None:
        """End at once; what is not sent is dropped."""
        self._closing = True
        if not self._gone:  # asyncio would close a socket that it has closed before
            self._network.abort()

    def is_closing(self) -> bool:
        """Say whether the end has begun."""
        return self._closing or self._network.is_closing()

    def pause_reading(self) -> None:
        """Give the application nothing more for now."""
        self._paused = True
        self._network.pause_reading()

    def resume_reading(self) -> None:
        """Go on, with what has arrived already first."""
        if self._paused and not self._closing:
            self._paused = False
            self._network.resume_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        try:
            self._deliver()
        except BaseException:  # of the application; asyncio looks after those of `buffer_updated`
            self.abort()
            raise

    def is_reading(self) -> bool:
        """Say whether the application is given what arrives."""
        return not (self._paused or self._closing)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the engine as `ssl_object`, and what the socket knows."""
        return self._engine if name == "ssl_object" else self._network.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the application's protocol."""
        return cast("asyncio.Protocol", self._application)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait to be sent, encrypted."""
        return self._network.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when the application is to pause."""
        self._network.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        """Return False: there is no half of a connection."""
        return False


async def accept(
    context: ssl.SSLContext, accepted: socket.socket, application: Callable[[], asyncio.Protocol], handshake_s: float
) -> None:
    """Serve a connection that was accepted; return once its peer is verified and the application has it.

    Ours go over `TlsTransport`, those of the standard library's contexts over asyncio. Raises `OSError`: an
    `ssl.SSLError` is one, and so is a handshake out of time.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(context, PostQuantumContext):
        await loop.connect_accepted_socket(
            application,
            accepted,
            ssl=context,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        return
    transport = TlsTransport(context.engine(), application, handshake_s)
    await loop.connect_accepted_socket(lambda: transport, accepted)
    await _opened(transport)


async def connect(
    context: PostQuantumContext, host: str, port: int, application: Callable[[], P], handshake_s: float
) -> P:
    """Connect to the party that a context is for; return the application's protocol once it is verified.

    Raises `OSError`, as `accept` does.
    """
    transport = TlsTransport(context.engine(), application, handshake_s)
    await asyncio.get_running_loop().create_connection(lambda: transport, host, port)
    return cast("P", await _opened(transport))


async def _opened(transport: TlsTransport) -> asyncio.Protocol:
    try:
        return await transport.opened
    except asyncio.CancelledError:
        transport.abort()
        raise


def certificate_of(transport: asyncio.BaseTransport) -> bytes | None:
    """Return the certificate (DER) that the peer of a connection showed, over either kind of TLS, if it showed one."""
    match transport.get_extra_info("ssl_object"):
        case TlsEngine() as engine:
            return engine.certificate()
        case ssl.SSLObject() as connection:
            return connection.getpeercert(binary_form=True)
    return None


def version_of(transport: asyncio.BaseTransport) -> str | None:
    """Return the version of TLS that a connection speaks, as `TLSv1.3`, if it speaks any."""
    connection = transport.get_extra_info("ssl_object")
    return connection.version() if isinstance(connection, TlsEngine | ssl.SSLObject) else None
