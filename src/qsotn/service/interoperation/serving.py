"""The interfaces of this package over HTTP/1.1 and mutual TLS: verified peers in, replies out.

TLS 1.3 is the least (ETSI GS QKD 020 wants it). Certificates are those of this platform (`adapters.tls`, post-quantum),
or, for peers of others, ordinary ones of a CA that the operator of this key manager names.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from qsotn.adapters.tls.transport import version_of
from qsotn.errors import UsageError, WrongParty
from qsotn.service.delivery.etsi014_identity import Identify, Identity, identity_of
from qsotn.service.delivery.http_protocol import Answer, Limits, Request
from qsotn.service.delivery.http_server import HttpServer, serving
from qsotn.service.delivery.throttled import Throttled
from qsotn.service.interoperation import reply
from qsotn.service.interoperation.reply import UNAUTHORIZED, Reply, problem_of

Answers = Callable[[str, str, str, bytes], Awaitable[Reply]]
"""Answer a request by the peer's name, the method, the path and the body."""
Problem = Callable[[int, str], Reply]
LIMITS: Final = Limits(body=512 * 1024, connections=128, connections_each=16)
"""No peer can take all connections; our own border opens four to an operator (`etsi020_client.HttpLine`)."""
_LEAST: Final = "TLSv1.3"
_log = structlog.get_logger("interoperation")


@contextlib.asynccontextmanager
async def listen(
    answers: Answers,
    listener: socket.socket,
    context: ssl.SSLContext,
    identify: Identify,
    problem: Problem = reply.problem,
) -> AsyncIterator[HttpServer]:
    """Serve on a listening socket. `identify` names the peer that a verified certificate belongs to.

    `problem` puts what is wrong with a request into the interface's own form, by its status and its detail.
    """
    application = _Application(answers, identify, problem)
    async with serving(application, listener, context, LIMITS, application.holder) as server:
        yield server


@dataclass(frozen=True, slots=True)
class _Application:
    answers: Answers
    identify: Identify
    told: Problem
    throttled: Throttled = field(default_factory=Throttled)

    def greet(self, transport: asyncio.BaseTransport) -> _Session:
        """Begin a connection; one of nobody we know is answered 401."""
        try:
            _check_version(transport)
            return _Session(self.answers, identity_of(transport, self.identify), "", self.told)
        except WrongParty as error:
            self.throttled.tell(_log.warning, "a peer is not known", reason=str(error))
            return _Session(self.answers, Identity("", 0.0), str(error), self.told)

    def holder(self, transport: asyncio.BaseTransport) -> str:
        """Return the peer of a connection, however many certificates it has; all that are not known are one."""
        try:
            return identity_of(transport, self.identify).sae
        except WrongParty:  # which `greet` has told
            return ""

    def problem(self, status: int, message: str) -> Answer:
        """Put an error of HTTP itself into a problem document."""
        return _answer(self.told(status, message))


def _check_version(transport: asyncio.BaseTransport) -> None:
    version = version_of(transport)
    if version != _LEAST:
        raise WrongParty(f"the connection speaks {version or 'no TLS'}: expected {_LEAST}")


@dataclass(frozen=True, slots=True)
class _Session:
    answers: Answers
    peer: Identity
    refused: str
    told: Problem

    async def answer(self, request: Request) -> Answer:
        """Answer one request of this peer."""
        if self.refused or time.time() > self.peer.until:
            return _answer(self.told(UNAUTHORIZED, self.refused or "the client certificate has expired"), last=True)
        path = request.target.partition(b"?")[0].decode("latin-1")
        try:
            return _answer(await self.answers(self.peer.sae, request.method.decode(), path, request.body))
        except Exception as error:  # noqa: BLE001  (every request is answered, and a defect is logged there)
            return _answer(problem_of(error))


def _answer(reply: Reply, *, last: bool = False) -> Answer:
    return Answer(reply.status, reply.body, last=last, content_type=reply.content_type)


def standard_context(certificate: Path, key: Path, authority: Path, *, server: bool) -> ssl.SSLContext:
    """Return a context of ordinary TLS 1.3 with certificates on both sides; all files are PEM. Raises `UsageError`.

    A client checks that the server's certificate names the host it connects to.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    if server:
        context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{certificate}, {key} or {authority} cannot be used: {error}") from error
    return context
