"""Deterministic CBOR (RFC 8949, section 4.2.1): one value, one encoding.

What is signed, hashed, replayed and compared must have exactly one form, so decoding re-encodes and compares. The
types are few: null, booleans, integers of 64 bits and a sign, byte strings, text, lists, and maps whose keys are
integers or text. Floats, tags, undefined, indefinite lengths, duplicate keys and trailing bytes are refused.

`cbor2`'s own canonical mode sorts map keys by length first (RFC 7049, section 3.9), which is a different order as soon
as integers and text, or integers of either sign, meet in one map. The order here is RFC 8949's: bytewise, of the
encoded keys.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn, cast

import cbor2

from qsotn.errors import MalformedMessage

DEFAULT_MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 16

_INTEGERS: Final = range(-(2**64), 2**64)
_HEAD_LIMITS: Final = (24, 2**8, 2**16, 2**32)
"""From which value on an integer (of a negative one its complement) has a longer encoding (RFC 8949, section 3)."""
_SCALARS: Final = frozenset({str, bytes, bool, type(None)})


def encode(value: object) -> bytes:
    """Encode a value of the types above.

    Raises `TypeError` for any other type (a `Secret` among them) and `ValueError` for what is too large or too deep.
    """
    if _is_plain(value, MAX_DEPTH):
        return cbor2.dumps(value, canonical=True)
    return cbor2.dumps(_ordered(value, MAX_DEPTH))


def _is_plain(value: object, depth: int) -> bool:
    """Whether `cbor2` encodes a value right by itself, several times faster: nothing but messages' own types in it.

    `canonical=True` sorts keys by the length of their encoding first (RFC 7049, section 3.9), and section 4.2.1 of
    RFC 8949 by their bytes. Where all keys are texts the two orders are one, since a text begins with its length; where
    all are integers, they are unless a negative one, which comes behind all others, is shorter than one of these.
    """
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is int:
        return _INTEGERS.start <= cast("int", value) < _INTEGERS.stop
    if depth == 0:
        return False
    if kind is dict:
        return _is_plain_map(cast("dict[object, object]", value), depth)
    if kind is list or kind is tuple:
        return _are_plain(cast("list[object]", value), depth)
    return False


def _is_plain_map(value: dict[object, object], depth: int) -> bool:
    for key in value:
        if type(key) is not str:
            return _are_ordered_by_length(value) and _are_plain(value.values(), depth)
    return _are_plain(value.values(), depth)


def _are_ordered_by_length(keys: Iterable[object]) -> bool:
    """Whether these are integers that RFC 7049 and RFC 8949 put into one order."""
    longest, shortest_negative = 0, _HEAD_LIMITS[-1]
    for key in keys:
        if type(key) is not int or not _INTEGERS.start <= key < _INTEGERS.stop:
            return False
        if key >= 0:
            longest = max(longest, key)
        else:
            shortest_negative = min(shortest_negative, ~key)
    return bisect(_HEAD_LIMITS, shortest_negative) >= bisect(_HEAD_LIMITS, longest)


def _are_plain(items: Iterable[object], depth: int) -> bool:
    for item in items:  # noqa: SIM110  (`all` would make a generator for every list and map)
        if type(item) not in _SCALARS and not _is_plain(item, depth - 1):
            return False
    return True


def decode(data: bytes, max_size: int = DEFAULT_MAX_BYTES) -> object:
    """Decode the one canonical encoding of a value; lists come back as `list`.

    Raises `MalformedMessage` for everything else, and for more than `max_size` bytes.
    """
    if len(data) > max_size:
        raise MalformedMessage(f"{len(data)} bytes of CBOR where at most {max_size} are taken")
    value = _parse(data)
    try:
        canonical = encode(value)
    except (TypeError, ValueError) as error:
        raise MalformedMessage(f"the CBOR holds what no message may: {error}") from error
    if canonical != data:
        raise MalformedMessage("the CBOR is not in its deterministic encoding (RFC 8949, section 4.2.1)")
    return value


def _parse(data: bytes) -> object:
    try:
        return cbor2.loads(
            data,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_NO_TAGS,
            tag_hook=_refuse_tag,
        )
    except (cbor2.CBORDecodeError, RecursionError, TypeError) as error:
        raise MalformedMessage(f"the bytes are no acceptable CBOR: {error}") from error


def _ordered(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool | bytes):
        return value
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, str):
        return str(value)  # a StrEnum's member becomes its text
    if depth == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list | tuple):
        return [_ordered(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return _ordered_map(value, depth)
    raise TypeError(f"{type(value).__name__} has no place in a message")


def _integer(value: int) -> int:
    if not _INTEGERS.start <= value < _INTEGERS.stop:  # `in` would search a range for an IntEnum's member
        raise ValueError("an integer beyond 64 bits and a sign")
    return int(value)


def _ordered_map(value: dict[Any, object], depth: int) -> dict[Any, object]:
    encoded = sorted((cbor2.dumps(_map_key(key)), key, item) for key, item in value.items())
    return {_map_key(key): _ordered(item, depth - 1) for _, key, item in encoded}


def _map_key(key: object) -> int | str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return _integer(key)
    raise TypeError(f"a map key is an integer or text, not {type(key).__name__}")


def _refuse_tag(_decoder: object, tag: object) -> NoReturn:
    raise ValueError(f"tag {tag!r} has no place in a message")


class _EveryTagRefused(Mapping[int, Any]):
    """Stands in front of `cbor2`'s own decoders of tags.

    They must not run on a stranger's bytes: shared references (tags 28 and 29) make a few hundred bytes unfold into
    billions of items, and others compile patterns or build addresses.
    """

    def __getitem__(self, tag: int) -> Any:
        return _refuse_tag

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


_NO_TAGS: Final = _EveryTagRefused()
