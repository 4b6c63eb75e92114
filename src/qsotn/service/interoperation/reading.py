"""JSON from others, read strictly: of the declared shape, in UTF-8, and with every name once in an object."""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar

import msgspec

from qsotn.errors import MalformedMessage

T = TypeVar("T")


def read_json(content: bytes | str, kind: type[T]) -> T:
    """Return the document as `kind`. Raises `MalformedMessage`, which quotes no value: it might be a key."""
    text = content.encode() if isinstance(content, str) else content
    try:
        value = msgspec.json.decode(text, type=kind)
        _ONCE_EACH.decode(text.decode())
    except msgspec.ValidationError as error:
        raise MalformedMessage(f"not of the expected form: {error}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # `json` quotes nothing of what it read but a position; `from None` keeps the document out of tracebacks.
        raise MalformedMessage(f"no JSON in UTF-8: {type(error).__name__}") from None
    return value


def _once_each(members: list[tuple[str, Any]]) -> None:
    # msgspec takes the last of two members with one name and says nothing; RFC 8259 lets every reader differ.
    if len({name for name, _ in members}) != len(members):
        raise MalformedMessage("an object has two members of one name")


_ONCE_EACH: Final = json.JSONDecoder(object_pairs_hook=_once_each)
