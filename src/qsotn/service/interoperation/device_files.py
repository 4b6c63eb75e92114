"""The files in which a QKD device hands over a block, one file a block; the same file name at both ends of a link.

    .json    the key container of ETSI GS QKD 014 (6.3): {"keys": [{"key_ID": …, "key": base64}, …]}
    .jsonl   one {"key_ID": …, "key": base64} a line
    .csv     a heading `key_ID,key`, then one key a line, in hexadecimal
    .bin     a header of 56 bytes, then the raw bits; all numbers big-endian:
                 8  QKDBLOCK
                 2  version, 1
                 2  flags, 0
                 4  bits that follow, a multiple of 8
                 8  number of the block
                32  SHA-256 of what follows

A file is taken whole or refused whole. A reason quotes names and places, never what stands there.
"""

from __future__ import annotations

import csv
import io
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final

import msgspec

from qsotn.adapters.keysource.etsi014_format import KeyContainer
from qsotn.domain import Secret
from qsotn.errors import MalformedMessage
from qsotn.service.interoperation.link_feed import LEAST_BYTES, MOST_BYTES
from qsotn.service.interoperation.reading import read_json

LARGEST_FILE: Final = 256 * 1024
MOST_KEYS: Final = 4096
NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_HEADER: Final = struct.Struct(">8sHHIQ32s")
_MAGIC, _VERSION = b"QKDBLOCK", 1
_HEADING: Final = ["key_ID", "key"]


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_id: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = msgspec.field(name="key_ID")
    key: bytes


@dataclass(frozen=True, slots=True)
class DeviceBlock:
    """A block as a device handed it over: what it calls the keys, and all their bits in its order."""

    key_ids: tuple[str, ...]
    material: Secret

    @property
    def fingerprint(self) -> str:
        """What tells this block from every other; at 768 bits or more, it tells nothing about them."""
        return sha256(b"device-block\0" + self.material.reveal()).hexdigest()


def read_block(name: str, content: bytes) -> DeviceBlock:
    """Read one file. Raises `MalformedMessage`: what is wrong, and where."""
    reader = _READERS.get(name.rpartition(".")[2])
    if reader is None:
        raise MalformedMessage(f"the name ends in none of {', '.join(f'.{known}' for known in sorted(_READERS))}")
    keys = reader(content)
    _check(keys)
    return DeviceBlock(tuple(key_id for key_id, _ in keys), Secret(b"".join(key for _, key in keys)))


def _check(keys: Sequence[tuple[str, bytes]]) -> None:
    if not 1 <= len(keys) <= MOST_KEYS:
        raise MalformedMessage(f"{len(keys)} keys: expected 1 to {MOST_KEYS}")
    if len({key_id for key_id, _ in keys}) != len(keys):
        raise MalformedMessage("two keys have one ID")
    if len({key for _, key in keys}) != len(keys):
        raise MalformedMessage("two IDs have one key")
    for number, (_, key) in enumerate(keys, 1):
        if len(set(key)) <= 1:
            raise MalformedMessage(f"key {number} is empty, or one byte over and over")
    size = sum(len(key) for _, key in keys)
    if not LEAST_BYTES <= size <= MOST_BYTES:
        raise MalformedMessage(f"{size} bytes of key: expected {LEAST_BYTES} to {MOST_BYTES}")


def _container(content: bytes) -> list[tuple[str, bytes]]:
    return [(one.key_id, one.key) for one in read_json(content, KeyContainer).keys]


def _lines(content: bytes) -> list[tuple[str, bytes]]:
    return [_line(number, line) for number, line in enumerate(content.splitlines(), 1)]


def _line(number: int, content: bytes) -> tuple[str, bytes]:
    try:
        one = read_json(content, _Line)
    except MalformedMessage as error:
        raise MalformedMessage(f"line {number}: {error}") from None
    return one.key_id, one.key


def _table(content: bytes) -> list[tuple[str, bytes]]:
    try:
        rows = list(csv.reader(io.StringIO(content.decode("ascii"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise MalformedMessage("this is no CSV in ASCII") from None
    if not rows or rows[0] != _HEADING:
        raise MalformedMessage(f"line 1 is not the heading {','.join(_HEADING)}")
    return list(_rows(rows[1:]))


def _rows(rows: Iterable[Sequence[str]]) -> Iterable[tuple[str, bytes]]:
    for number, row in enumerate(rows, 2):
        if len(row) != len(_HEADING) or not row[0]:
            raise MalformedMessage(f"line {number} has {len(row)} fields: expected a key_ID and a key")
        if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", row[1]):
            raise MalformedMessage(f"line {number}: the key is not in hexadecimal, two digits a byte")
        yield row[0], bytes.fromhex(row[1])


def _raw(content: bytes) -> list[tuple[str, bytes]]:
    if len(content) < _HEADER.size:
        raise MalformedMessage(f"{len(content)} bytes: the header alone has {_HEADER.size}")
    magic, version, flags, bits, number, digest = _HEADER.unpack_from(content)
    if (magic, version, flags) != (_MAGIC, _VERSION, 0):
        raise MalformedMessage(f"the header is not that of {_MAGIC.decode()} version {_VERSION} without flags")
    payload = content[_HEADER.size :]
    if bits != len(payload) * 8:
        raise MalformedMessage(f"the header announces {bits} bits; {len(payload) * 8} follow")
    if sha256(payload).digest() != digest:
        raise MalformedMessage("the bits are not those that the header's SHA-256 is of")
    return [(str(number), payload)]


_READERS: Final[dict[str, Callable[[bytes], list[tuple[str, bytes]]]]] = {
    "json": _container,
    "jsonl": _lines,
    "csv": _table,
    "bin": _raw,
}
