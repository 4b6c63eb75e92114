"""The verified peer, in the scope of every HTTP request that uvicorn serves.

ASGI has an extension for it, `scope["extensions"]["tls"]`; no server fills it. Let uvicorn make connections by
`over_tls`, and give it no TLS of its own:

    uvicorn.Config(app, http=over_tls(server_context(...)), ws="none")
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from qsotn.adapters.tls.context import PostQuantumContext, peer_of
from qsotn.adapters.tls.transport import TlsTransport
from qsotn.crypto.transport_certificates import TransportPeer
from qsotn.errors import BadProof

LARGEST_HEAD: Final = 64 * 1024
"""Bytes of a request line and its headers, before the application can judge them."""
SLOWEST_HEAD_S: Final = 10.0
SLOWEST_HANDSHAKE_S: Final = 10.0


class MakesConnections(Protocol):
    """What uvicorn calls for every connection, with its settings by their names."""

    def __call__(self, **settings: Any) -> asyncio.Protocol:
        """Return the protocol for the bytes of the network."""


def over_tls(context: PostQuantumContext) -> MakesConnections:
    """Return what uvicorn is to take as `http=`: connections over `TlsTransport`, each with a `PeerProtocol`."""

    def connection(**settings: Any) -> asyncio.Protocol:
        transport = TlsTransport(context.engine(), lambda: PeerProtocol(**settings), SLOWEST_HANDSHAKE_S)
        transport.opened.add_done_callback(_heard)
        return transport  # type: ignore[return-value]  # asyncio takes a protocol with buffers of its own as well

    return connection


def _heard(opened: asyncio.Future[asyncio.Protocol]) -> None:
    """Why a handshake failed was told by the engine; nobody else waits for it."""
    if not opened.cancelled():
        opened.exception()


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol on a verified connection, which must also send its first request in time.

    A request's head is bounded in size and time: the parser would gather it for as long as it comes. So is what is no
    body behind it: trailers are refused, and chunks may not be mostly framing.
    """

    _in_head = True
    _between = False
    _begun = 0
    _head_bytes = 0
    _framing_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
        """Note the peer, once for all requests of the connection."""
        super().connection_made(transport)
        self.scheme = "https"
        self._extensions: dict[str, dict[object, object]] = {
            "tls": {"peer": peer_of(transport.get_extra_info("ssl_object"))}
        }
        # The parent watches a connection only from its first answer on.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Take what arrived; give up on what grows or lasts too long without being a body."""
        begun = self._begun
        super().data_received(data)
        if self._between:
            self._watch_again()
        elif self._in_head:
            self._watch_head(len(data) if begun == self._begun else 0)
        else:
            self._framing_bytes += len(data)
            if self._framing_bytes > LARGEST_HEAD:
                self._give_up()

    def _watch_again(self) -> None:
        """A stray line break between two requests is no reason to wait for ever: the parent thinks it is one."""
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _watch_head(self, arrived: int) -> None:
        """Count what a head has grown by; where it began in the middle of what arrived, from the next on."""
        self._head_bytes += arrived
        if self._head_bytes > LARGEST_HEAD:
            self._give_up()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(SLOWEST_HEAD_S, self._give_up)

    def _give_up(self) -> None:
        self._end_head()
        self.transport.close()

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_headers_complete(self) -> None:
        """The head is over: its bounds no longer count."""
        self._in_head, self._head_bytes, self._framing_bytes = False, 0, 0
        self._end_head()
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header. Raises `ValueError`, which the parser answers with 400, for one behind the body."""
        if not self._in_head:
            raise ValueError("trailers are not taken")
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """What is body is counted by the application, not here."""
        self._framing_bytes -= 2 * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole; nothing more belongs to it."""
        self._between = True
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        self._end_head()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Put the peer into the scope of the request that begins."""
        self._in_head, self._between, self._head_bytes = True, False, 0
        self._begun += 1
        super().on_message_begin()
        self.scope["extensions"] = self._extensions


def request_peer(scope: Mapping[str, Any]) -> TransportPeer:
    """Return who sent the request of this ASGI scope; raises `BadProof` if it did not come over `PeerProtocol`."""
    peer = scope.get("extensions", {}).get("tls", {}).get("peer")
    if not isinstance(peer, TransportPeer):
        raise BadProof("the request did not come over a connection with a verified peer")
    return peer
