"""Conditional requests (RFC 9110, section 13): do this only if the resource is still what I saw.

An ETag is strong: a hash of the one representation a resource has. It is compared in the transaction that acts on the
resource, so nothing changes between the comparison and the act.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from qsotn.service.http.answer import JSON, Answer
from qsotn.service.http.problems import MALFORMED_REQUEST, PRECONDITION_FAILED, HttpProblem

_TAG: Final = r'(?:W/)?"[!#-~]*"'
ENTITY_TAGS: Final = rf"^(?:\*|{_TAG}(?:, ?{_TAG})*)$"
"""What `If-Match` and `If-None-Match` may hold here."""

_SYNTAX: Final = re.compile(ENTITY_TAGS.removeprefix("^").removesuffix("$"))
_ONE: Final = re.compile(_TAG)


def etag_of(representation: bytes) -> str:
    """Return the strong entity tag of a representation."""
    return f'"{hashlib.sha256(representation).hexdigest()[:32]}"'


def represent(representation: bytes, if_none_match: str | None) -> Answer:
    """Answer a GET with a representation and its ETag, or 304 if the client has it. Raises `HttpProblem` 400."""
    etag = etag_of(representation)
    if if_none_match is not None and _names(if_none_match, etag, "If-None-Match", weakly=True):
        return Answer(304, headers=(("etag", etag),))
    return Answer(200, representation, JSON, (("etag", etag),))


def check_match(representation: bytes, if_match: str | None) -> None:
    """Hold `If-Match` against what the resource is now. Raises `HttpProblem` 412, or 400 if it is malformed."""
    etag = etag_of(representation)
    if if_match is not None and not _names(if_match, etag, "If-Match", weakly=False):
        raise HttpProblem(PRECONDITION_FAILED, f"the resource is {etag} now, not {if_match}", ("etag", etag))


def _names(given: str, etag: str, name: str, *, weakly: bool) -> bool:
    if not _SYNTAX.fullmatch(given):
        raise HttpProblem(MALFORMED_REQUEST, f"{name} is * or a list of entity tags in quotes")
    tags = _ONE.findall(given)
    return given == "*" or etag in (tag.removeprefix("W/") if weakly else tag for tag in tags)
