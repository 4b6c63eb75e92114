"""An operation, declared once: what serves it, and what the OpenAPI document says of it.

The declaration is the whole truth: which roles may call it, how path, query and body are typed, which statuses it
answers with. Roles are checked before anything of the request but its head is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec

from qsotn.domain import Role
from qsotn.service.http.answer import JSON, Answer, Receive, Scope, Send, send_answer
from qsotn.service.http.context import Peer, Service
from qsotn.service.http.problems import (
    CONTENT_TOO_LARGE,
    FORBIDDEN,
    HEADERS_TOO_LARGE,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MALFORMED_REQUEST,
    NO_PEER,
    NOT_FOUND,
    OVERLOADED,
    REQUEST_TIMEOUT,
    STORE_UNAVAILABLE,
    UNSUPPORTED_MEDIA_TYPE,
    URI_TOO_LONG,
    HttpProblem,
    Kind,
)
from qsotn.service.http.request import NoParameters, header, json_body, path_parameters, query_parameters

P = TypeVar("P")
Q = TypeVar("Q")
B = TypeVar("B")

OPERATORS: Final = frozenset({Role.OPERATOR})
PREFIX: Final = "/operations/v1"

ALWAYS: Final = (MALFORMED_REQUEST, FORBIDDEN, NO_PEER, URI_TOO_LONG, HEADERS_TOO_LARGE, INTERNAL_ERROR)
DESK: Final = (OVERLOADED, STORE_UNAVAILABLE)
BODY: Final = (REQUEST_TIMEOUT, CONTENT_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE)


@dataclass(frozen=True)
class Call(Generic[P, Q, B]):
    """One request, read: who asks, and what for."""

    service: Service
    peer: Peer
    path: P
    query: Q
    body: B
    scope: Scope = field(repr=False)

    def header(self, name: bytes) -> str | None:
        """Return the one value of a header, or None. Raises `HttpProblem` 400 if it came twice."""
        return header(self.scope, name)


Act = Callable[[Call[Any, Any, Any]], Awaitable[Answer]]
Endpoint = Callable[[Service, Peer, Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class HeaderParameter:
    """A request header that an operation looks at."""

    name: str
    description: str
    pattern: str | None = None
    required: bool = False
    example: str | None = None


@dataclass(frozen=True)
class Content:
    """A body: its media type, the type of its JSON, and an example of it."""

    type: Any = None
    example: object = None
    media_type: str = JSON
    schema: dict[str, Any] | None = None
    """For what is not JSON."""


@dataclass(frozen=True)
class Success:
    """One status that is no problem. `headers` are names of what comes with it."""

    status: int
    description: str
    content: Content | None = None
    headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One method of one path. `roles` are who may call it; None is whoever has a certificate."""

    method: str
    path: str
    name: str
    summary: str
    description: str
    tag: str
    roles: frozenset[Role] | None
    endpoint: Endpoint
    successes: tuple[Success, ...]
    problems: tuple[Kind, ...]
    path_type: type[msgspec.Struct] = NoParameters
    query_type: type[msgspec.Struct] = NoParameters
    headers: tuple[HeaderParameter, ...] = ()
    body: Content | None = None
    safe: bool = True
    """Whether asking for it changes nothing: a GET that is safe is there as HEAD too."""

    def check_role(self, peer: Peer) -> None:
        """Check that a peer may call this. Raises `HttpProblem` 403."""
        if self.roles is not None and peer.role not in self.roles:
            raise HttpProblem(FORBIDDEN, f"{peer.party} may not: this is for {', '.join(sorted(self.roles))}")


def known_peer(scope: Scope) -> Peer | None:
    """Return who is at the other end, if a certificate says so."""
    peer: Peer | None = scope.get("extensions", {}).get("tls", {}).get("peer")
    return peer


def peer_of(scope: Scope) -> Peer:
    """Return who is at the other end. Raises `HttpProblem` 403 for a connection without a certificate."""
    peer = known_peer(scope)
    if peer is None:
        raise HttpProblem(NO_PEER, "connect with a certificate of this province")
    return peer


def words_of(function: Callable[..., object]) -> tuple[str, str]:
    """Return what a function's docstring says: its first sentence without the full stop, and the rest."""
    summary, _, description = inspect.cleandoc(function.__doc__ or "").partition("\n\n")
    return " ".join(summary.split()).removesuffix("."), description


def json_endpoint(
    act: Act, path_type: type[msgspec.Struct], query_type: type[msgspec.Struct], body_type: Any | None
) -> Endpoint:
    """Make an endpoint of a function from a call to its answer: read, decode, act, send."""

    async def endpoint(service: Service, peer: Peer, scope: Scope, receive: Receive, send: Send) -> None:
        path, query = path_parameters(scope, path_type), query_parameters(scope, query_type)
        body = None if body_type is None else await json_body(scope, receive, body_type)
        await send_answer(send, await act(Call(service, peer, path, query, body, scope)))

    return endpoint


def operation(
    method: str,
    path: str,
    *,
    tag: str,
    roles: frozenset[Role] | None,
    successes: tuple[Success, ...],
    problems: tuple[Kind, ...] = (),
    path_type: type[msgspec.Struct] = NoParameters,
    query_type: type[msgspec.Struct] = NoParameters,
    headers: tuple[HeaderParameter, ...] = (),
    body: Content | None = None,
    words: Callable[..., object] | None = None,
) -> Callable[[Act], Operation]:
    """Declare an operation whose answer is computed by the decorated function; its docstring is what is documented.

    `words` names another function whose name and docstring to take.
    """

    def declare(act: Act) -> Operation:
        speaker = words or act
        summary, description = words_of(speaker)
        body_type = None if body is None else body.type
        return Operation(
            method=method,
            path=path,
            name=speaker.__name__,
            summary=summary,
            description=description,
            tag=tag,
            roles=roles,
            endpoint=json_endpoint(act, path_type, query_type, body_type),
            successes=successes,
            problems=(*ALWAYS, *problems, *implied_problems(path_type, body)),
            path_type=path_type,
            query_type=query_type,
            headers=headers,
            body=body,
        )

    return declare


def implied_problems(path_type: type[msgspec.Struct], body: Content | None) -> tuple[Kind, ...]:
    """Return the problems that come with parameters in the path, and with a body."""
    absent = () if path_type is NoParameters else (NOT_FOUND,)
    unfit = () if body is None else (*BODY, INVALID_REQUEST)
    return (*absent, *unfit)
