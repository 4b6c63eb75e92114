"""Lists, page by page, in the order of their keys.

A cursor says behind which key the next page begins, so that what is added or removed meanwhile moves nothing else: no
item is skipped or shown twice. It is opaque: it carries a checksum over the list it belongs to, and one that was
altered, or comes from another list, is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from typing import Annotated, Final, Generic, Protocol, TypeVar

import msgspec

from qsotn.service.http.names import END
from qsotn.service.http.problems import MALFORMED_REQUEST, HttpProblem

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

LARGEST_PAGE: Final = 200
DEFAULT_PAGE: Final = 50
_CHECKSUM: Final = 6


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of a list is asked for."""

    cursor: Annotated[
        str,
        msgspec.Meta(
            pattern=f"^[A-Za-z0-9_-]{{0,512}}{END}",
            description="`next_cursor` of the page before; empty or absent for the first page.",
        ),
    ] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_PAGE, description="The most items wanted.")] = DEFAULT_PAGE


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list; `next_cursor` is null on the last one. A page may hold fewer items than asked for."""

    items: tuple[T, ...]
    next_cursor: str | None


def cursor_after(listing: str, key: str) -> str:
    """Return the cursor of the page behind `key` in the list of this name."""
    return base64.urlsafe_b64encode(_checksum(listing, key) + key.encode()).decode().rstrip("=")


def key_before(listing: str, cursor: str) -> str:
    """Inverse of `cursor_after`; the key is empty for the first page. Raises `HttpProblem` 400."""
    if not cursor:
        return ""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        checksum, key = raw[:_CHECKSUM], raw[_CHECKSUM:].decode()
    except (binascii.Error, UnicodeDecodeError):
        checksum, key = b"", ""
    if checksum != _checksum(listing, key) or cursor != cursor_after(listing, key):
        raise HttpProblem(MALFORMED_REQUEST, "the cursor is not one that this list gave out; begin without one")
    return key


class Items(Protocol[R_co]):
    """What a list is read from, in the order of its keys: `Collection.items`, for one."""

    def __call__(self, *, after: str, limit: int) -> Iterable[tuple[str, R_co]]:
        """Return at most `limit` items whose key sorts behind `after`."""


def page(listing: str, window: Window, items: Items[R], view: Callable[[R], T]) -> Page[T]:
    """Return one page of a list. Raises `HttpProblem` 400 for a cursor that is not one."""
    found = list(items(after=key_before(listing, window.cursor), limit=window.limit + 1))
    shown = found[: window.limit]
    following = cursor_after(listing, shown[-1][0]) if len(found) > len(shown) else None
    return Page(tuple(view(record) for _, record in shown), following)


def _checksum(listing: str, key: str) -> bytes:
    return hashlib.sha256(f"{listing}\0{key}".encode()).digest()[:_CHECKSUM]
