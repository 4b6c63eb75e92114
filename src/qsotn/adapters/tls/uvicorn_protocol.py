"""The verified peer, in the scope of every HTTP request that uvicorn serves.

ASGI has an extension for it, `scope["extensions"]["tls"]`; no server fills it. Pass `PeerProtocol` to uvicorn as
`http=`, and the context by `ssl_context_factory=`:

    uvicorn.Config(app, http=PeerProtocol, ws="none", ssl_context_factory=lambda *_: server_context(...))
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from qsotn.adapters.tls.context import peer_of
from qsotn.crypto.transport_certificates import TransportPeer
from qsotn.errors import BadProof


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol on a verified connection, which must also send its first request in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
        """Note the peer, once for all requests of the connection."""
        super().connection_made(transport)
        self._extensions: dict[str, dict[object, object]] = {
            "tls": {"peer": peer_of(transport.get_extra_info("ssl_object"))}
        }
        # The parent watches a connection only from its first answer on.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        """Put the peer into the scope of the request that begins."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions


def request_peer(scope: Mapping[str, Any]) -> TransportPeer:
    """Return who sent the request of this ASGI scope; raises `BadProof` if it did not come over `PeerProtocol`."""
    peer = scope.get("extensions", {}).get("tls", {}).get("peer")
    if not isinstance(peer, TransportPeer):
        raise BadProof("the request did not come over a connection with a verified peer")
    return peer
