"""What a service asks for: a context for its server, and one for each party that it calls.

Python's own `ssl` would serve, and does not yet: its `SSLContext` has no call for key exchange groups and signature
algorithms before Python 3.15, and the OpenSSL beneath it no ML-KEM and no ML-DSA before 3.5. Both are needed for the
same guarantees, and no interpreter that this project runs on has either, so a second implementation could not be
tried. `_context` is the one place that would choose it; `tests/adapters/tls/test_standard_library.py` fails on the
first interpreter that could do it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final, NoReturn, Self

from qsotn.adapters.tls import openssl
from qsotn.adapters.tls.connection import Connection
from qsotn.adapters.tls.credentials import Credentials
from qsotn.adapters.tls.engine import TlsEngine
from qsotn.adapters.tls.trust import Trust
from qsotn.crypto import certificates
from qsotn.crypto.transport_certificates import TransportPeer
from qsotn.domain import PartyId, Role
from qsotn.errors import BadProof, PeerError, WrongParty

Refused = Callable[[str, PartyId | None], None]
"""Takes why a peer was refused, and the party its certificate claims to be (None if it claims none): one log line."""
Admits = Callable[[TransportPeer], None]

EVERY_ROLE: Final = frozenset(Role)


def server_context(
    credentials: Credentials, trust: Trust, refused: Refused, roles: frozenset[Role] = EVERY_ROLE
) -> PostQuantumContext:
    """Return the context of a server that talks to these roles."""

    def admits(peer: TransportPeer) -> None:
        if peer.role not in roles:
            expected = ", ".join(sorted(roles))
            raise WrongParty(f"{peer.party} has no business at {credentials.party}: expected a role of {expected}")

    return _context(credentials, trust, refused, admits, server=True)


def client_context(credentials: Credentials, trust: Trust, refused: Refused, expected: PartyId) -> PostQuantumContext:
    """Return the context for connections to one party, whatever its address.

    It is light: the settings of the library are shared by all contexts of the same credentials. HTTP clients pool
    connections by context, so a service keeps one for each party it calls.
    """

    def admits(peer: TransportPeer) -> None:
        if peer.party != expected:
            raise WrongParty(f"the server is {peer.party}: expected {expected}")

    return _context(credentials, trust, refused, admits, server=False)


def _context(
    credentials: Credentials, trust: Trust, refused: Refused, admits: Admits, *, server: bool
) -> PostQuantumContext:
    return PostQuantumContext(credentials, trust, refused, admits, server=server)


def peer_of(connection: object) -> TransportPeer:
    """Return the verified peer of what a transport calls `ssl_object`; raises `BadProof` if it is none of ours."""
    engine = connection.engine if isinstance(connection, Connection) else connection
    if not isinstance(engine, TlsEngine) or engine.peer is None:
        raise BadProof("this connection has no verified peer: it was not made by a context of qsotn.adapters.tls")
    return engine.peer


class PostQuantumContext(ssl.SSLContext):
    """An `ssl.SSLContext` in name, for what takes nothing else (asyncio, uvicorn); nothing of its parent's is used."""

    def __new__(cls, *_: Any, server: bool) -> Self:
        """Make the parent believe in a side, as it demands."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self, credentials: Credentials, trust: Trust, refused: Refused, admits: Admits, *, server: bool
    ) -> None:
        self._credentials = credentials
        self._trust = trust
        self._refused = refused
        self._admits = admits
        self._server = server

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,  # noqa: ARG002 - a peer is who its URI says
        session: ssl.SSLSession | None = None,
    ) -> Connection:
        """Begin a connection for asyncio's own TLS protocol."""
        if server_side is not self._server or session is not None:
            raise ValueError("a context serves one side, and resumes no session")
        return Connection(self.engine(), (incoming, outgoing))

    def engine(self) -> TlsEngine:
        """Begin a connection with the certificate and the trust that are in force now."""
        pair = self._credentials.pair
        return TlsEngine(
            pair.server if self._server else pair.client,
            server=self._server,
            judge=self._judge,
            confirm=self._trust.confirm,
            refused=self._tell,
        )

    def wrap_socket(self, *_: Any, **__: Any) -> NoReturn:
        """Raise: the parent would go on with the system's OpenSSL, without any of the guarantees."""
        raise NotImplementedError("blocking sockets are not served: use asyncio")

    def _judge(self, group: str | None, chain: tuple[bytes, ...]) -> TransportPeer:
        if group not in openssl.GROUPS:
            raise BadProof(f"the key exchange is not post-quantum: {group}, expected {' or '.join(openssl.GROUPS)}")
        peer = self._trust.verify(chain)
        self._admits(peer)
        return peer

    def _tell(self, reason: str, chain: tuple[bytes, ...]) -> None:
        self._refused(reason, _claimed(chain, self._trust.anchors.trust_domain))


def _claimed(chain: tuple[bytes, ...], trust_domain: str) -> PartyId | None:
    try:
        return certificates.certified_party(certificates.read_certificate(chain[0]).extensions, trust_domain)
    except (PeerError, IndexError):
        return None
