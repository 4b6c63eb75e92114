"""The order of keys, the same in every store: by code point, which is also the order of their UTF-8 bytes."""

from __future__ import annotations

from typing import Final

_LAST_CODE_POINT: Final = 0x10FFFF
_BEFORE_SURROGATES, _AFTER_SURROGATES = 0xD7FF, 0xE000


def end_of_prefix(prefix: str) -> str | None:
    """Return the first text behind every text that begins with `prefix`, or None if none is behind them all.

    A search from `prefix` up to this bound needs no pattern, so no character of a key has a meaning of its own.
    """
    counted = prefix.rstrip(chr(_LAST_CODE_POINT))
    if not counted:
        return None
    last = ord(counted[-1])
    # Surrogates are no characters: they have no UTF-8 form.
    return counted[:-1] + chr(_AFTER_SURROGATES if last == _BEFORE_SURROGATES else last + 1)


def split_row_key(key: str) -> tuple[str, str]:
    """Split `procedure/seat`, the name of a row, into its two parts; rows are ordered by the one, then the other."""
    procedure, slash, seat = key.rpartition("/")
    return (procedure, seat) if slash else (key, "")
