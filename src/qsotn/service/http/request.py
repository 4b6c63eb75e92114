"""Reading a request strictly: what is not exactly as declared is refused, and nothing grows without bound.

A path that does not fit its pattern names nothing, so it is *not found*; everything else that does not fit is told
with its place. Decoding never guesses: a number in a query is digits and nothing else, a parameter or a header comes
once, a field that nobody declared is an error.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec.inspect import IntType, Metadata, Type, type_info

from qsotn.service.http.answer import JSON, Receive, Scope
from qsotn.service.http.problems import (
    CONTENT_TOO_LARGE,
    HEADERS_TOO_LARGE,
    INVALID_REQUEST,
    MALFORMED_REQUEST,
    NOT_FOUND,
    REQUEST_TIMEOUT,
    UNSUPPORTED_MEDIA_TYPE,
    URI_TOO_LONG,
    HttpProblem,
)

S = TypeVar("S", bound=msgspec.Struct)

LARGEST_JSON: Final = 64 * 1024
LARGEST_TARGET: Final = 4 * 1024
LARGEST_HEADER: Final = 16 * 1024
MOST_HEADERS: Final = 64
MOST_PARAMETERS: Final = 16
SLOWEST_BODY_S: Final = 30.0
"""A body of the largest size comes in time at 2 Mbit/s."""

_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class ClientGone(Exception):
    """The client closed the connection before it had said everything: nobody is there to be answered."""


def check_size(scope: Scope) -> None:
    """Check target and header of a request against their limits. Raises `HttpProblem` 414 or 431."""
    target = len(scope["path"]) + len(scope["query_string"])
    if target > LARGEST_TARGET:
        raise HttpProblem(URI_TOO_LONG, f"the target has {target} bytes; at most {LARGEST_TARGET} are read")
    headers = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    if size > LARGEST_HEADER or len(headers) > MOST_HEADERS:
        detail = f"{len(headers)} fields of {size} bytes; at most {MOST_HEADERS} of {LARGEST_HEADER} bytes are read"
        raise HttpProblem(HEADERS_TOO_LARGE, detail)


def header(scope: Scope, name: bytes) -> str | None:
    """Return the one value of a header, or None. Raises `HttpProblem` 400 if it came twice."""
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise HttpProblem(MALFORMED_REQUEST, f"the header {name.decode()} comes once, not {len(values)} times")
    return values[0].decode("latin-1") if values else None


# --- target ---------------------------------------------------------------------------------------------------------


def path_parameters(scope: Scope, kind: type[S]) -> S:
    """Read the parameters that the router found in the path. Raises `HttpProblem` 404."""
    try:
        return msgspec.convert(scope["path_params"], kind)
    except msgspec.ValidationError as error:
        raise HttpProblem(NOT_FOUND, f"the path names no resource: {error}") from None


def query_parameters(scope: Scope, kind: type[S]) -> S:
    """Read the query. Raises `HttpProblem` 400 for what is malformed, double, undeclared or not of its type."""
    given = _pairs(scope["query_string"])
    try:
        return msgspec.convert(_typed(given, kind), kind)
    except msgspec.ValidationError as error:
        raise HttpProblem(MALFORMED_REQUEST, f"the query is not as declared: {error}") from None


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query, or a path, without parameters."""


def _pairs(query: bytes) -> dict[str, str]:
    if not query:
        return {}
    if _BAD_ESCAPE.search(query):
        raise HttpProblem(MALFORMED_REQUEST, "a percent sign in the query that no two hexadecimal digits follow")
    try:
        text = query.decode("ascii")
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MOST_PARAMETERS
        )
    except ValueError as error:
        raise HttpProblem(MALFORMED_REQUEST, f"the query cannot be read: {error}") from None
    if len(dict(pairs)) != len(pairs):
        raise HttpProblem(MALFORMED_REQUEST, "a parameter of the query comes twice")
    return dict(pairs)


def _typed(given: Mapping[str, str], kind: type[msgspec.Struct]) -> dict[str, str | int]:
    numbers = _numeric(kind)
    return {
        name: int(value) if name in numbers and _INTEGER.fullmatch(value) else value for name, value in given.items()
    }


@cache
def _numeric(kind: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(kind) if _is_integer(type_info(field.type)))


def _is_integer(kind: Type) -> bool:
    return _is_integer(kind.type) if isinstance(kind, Metadata) else isinstance(kind, IntType)


# --- body -----------------------------------------------------------------------------------------------------------


async def json_body(scope: Scope, receive: Receive, kind: Any) -> Any:
    """Read a JSON body of this type. Raises `HttpProblem` 400, 413, 415 or 422."""
    check_media_type(scope, JSON)
    body = await read_body(scope, receive, LARGEST_JSON)
    try:
        return msgspec.convert(_with_integers(msgspec.json.decode(body)), kind)
    except msgspec.ValidationError as error:
        raise HttpProblem(INVALID_REQUEST, f"the body is not as declared: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpProblem(MALFORMED_REQUEST, f"the body is no JSON: {error}") from None


def _with_integers(value: Any) -> Any:
    """Read `60.0` as the integer it is to JSON Schema (2020-12, section 6.1.1), wherever it stands."""
    if isinstance(value, dict):
        return {key: _with_integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_media_type(scope: Scope, expected: str) -> None:
    """Check what a body says it is. Raises `HttpProblem` 415."""
    given = header(scope, b"content-type")
    media_type, _, parameters = (given or "nothing").lower().partition(";")
    utf_8 = parameters.replace(" ", "").replace('"', "") in ("", "charset=utf-8")
    if media_type.strip() != expected or not utf_8:
        detail = f"the body must be {expected}, not {given or 'without a content type'}"
        raise HttpProblem(UNSUPPORTED_MEDIA_TYPE, detail, ("accept", expected))
    coding = header(scope, b"content-encoding")
    if coding not in (None, "identity"):
        raise HttpProblem(UNSUPPORTED_MEDIA_TYPE, f"no content coding is taken, and this body is {coding}")


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytearray:
    """Read a body as it arrives and give up as soon as it is too large, or takes too long.

    Raises `HttpProblem` 413 or 408, which close the connection, and `ClientGone`.
    """
    announced = header(scope, b"content-length")
    if announced is not None and (not _INTEGER.fullmatch(announced) or int(announced) > limit):
        raise _too_large(limit)
    try:
        async with asyncio.timeout(SLOWEST_BODY_S):
            return await _whole_body(receive, limit)
    except TimeoutError:
        detail = f"the body was not here within {SLOWEST_BODY_S:.0f} s"
        raise HttpProblem(REQUEST_TIMEOUT, detail, ("connection", "close")) from None


async def _whole_body(receive: Receive, limit: int) -> bytearray:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return body


def _too_large(limit: int) -> HttpProblem:
    return HttpProblem(CONTENT_TOO_LARGE, f"at most {limit} bytes are taken", ("connection", "close"))
