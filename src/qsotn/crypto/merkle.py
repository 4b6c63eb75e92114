"""A Merkle tree over several messages, and the proof that one of them is in it, so that one signature serves them all.

The tree is RFC 9162's (section 2.1.1) with SHA-256, and a proof is the CBOR that RFC 9942 (section 5.2) gives it for
the structure RFC9162_SHA256: `[tree-size, leaf-index, [+ hash]]`, the path from the leaf's sibling up to the root's
child. Leaves are hashed after 0x00 and inner nodes after 0x01, so no payload can pass for an inner node.

What always holds: for one root *and one size*, an entry has one proof. Size and index together say how many hashes the
path has and on which side each of them stands, and any other hash, side or entry that led to the root would be a
collision of SHA-256. The root alone does not hold the size: the path of leaf 4 of 5 is also a path of leaf 1 of 2, to
the same root. Whoever signs a root therefore signs the size with it, and `proven_root` is told which size was signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final

from qsotn.crypto import cbor
from qsotn.errors import MalformedMessage

LARGEST_TREE: Final = 256
"""Entries under one root: a path has at most eight hashes, and a proof fits in 300 bytes."""

_SIZES: Final = range(2, LARGEST_TREE + 1)  # RFC 9942: a path has at least one hash, so a tree has at least two leaves
_HASH_BYTES: Final = 32


def prove(entries: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """Return the root of the tree over 2 to 256 entries, and the proof of each, in their order."""
    if len(entries) not in _SIZES:
        raise ValueError(f"a tree over {len(entries)} entries: expected {_SIZES.start} to {_SIZES.stop - 1}")
    levels = _levels([_leaf(entry) for entry in entries])
    size = len(entries)
    return levels[-1][0], [cbor.encode([size, index, _path(levels, index)]) for index in range(size)]


def proven_root(entry: bytes, proof: bytes, signed_size: int) -> bytes:
    """Return the root that a proof leads to from an entry (RFC 9162, section 2.1.3.2, up to its last comparison).

    Whether it is the root of anything is for the signature over it to say. Raises `MalformedMessage` for a proof that
    is not of the signed size, or that no `prove` of that size writes.
    """
    index, path = _index_and_path(proof, signed_size)
    sides = list(_sides(index, signed_size))
    if len(path) != len(sides):
        raise MalformedMessage(f"leaf {index} of {signed_size} has a path of {len(sides)} hashes, not of {len(path)}")
    node = _leaf(entry)
    for sibling, is_left in zip(path, sides, strict=True):
        node = _node(sibling, node) if is_left else _node(node, sibling)
    return node


def _index_and_path(proof: bytes, signed_size: int) -> tuple[int, list[bytes]]:
    if signed_size not in _SIZES:
        raise MalformedMessage(f"a tree of {signed_size} leaves: expected {_SIZES.start} to {_SIZES.stop - 1}")
    match cbor.decode(proof):
        case [int() as size, int() as index, list() as path] if not isinstance(index, bool):
            if size != signed_size or not 0 <= index < size:
                raise MalformedMessage(f"the proof is of leaf {index} of {size}, and {signed_size} leaves were signed")
            if all(isinstance(part, bytes) and len(part) == _HASH_BYTES for part in path):
                return index, path
    raise MalformedMessage(f"the inclusion proof is not [size, index, [hashes of {_HASH_BYTES} bytes]]")


def _leaf(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _levels(leaves: list[bytes]) -> list[list[bytes]]:
    """Return the tree's levels, leaves first and the root last.

    RFC 9162 splits at the largest power of two below the size. Pairing from the left and letting a last node without a
    sibling go up as it is builds that same tree from below.
    """
    levels = [leaves]
    while len(levels[-1]) > 1:
        nodes = levels[-1]
        pairs = zip(nodes[::2], nodes[1::2], strict=False)
        levels.append([_node(left, right) for left, right in pairs] + (nodes[-1:] if len(nodes) % 2 else []))
    return levels


def _path(levels: list[list[bytes]], index: int) -> list[bytes]:
    places = ((level, (index >> height) ^ 1) for height, level in enumerate(levels[:-1]))
    return [level[sibling] for level, sibling in places if sibling < len(level)]


def _sides(index: int, size: int) -> Iterator[bool]:
    """Yield, from the leaf upwards, whether the sibling stands on the left; nothing where there is no sibling.

    These are `fn` and `sn` of RFC 9162, section 2.1.3.2, shifted once a level: where it shifts several times in one
    step, those are levels that a last node without a sibling crosses as it is.
    """
    last = size - 1
    while last:
        if index & 1:
            yield True
        elif index < last:
            yield False
        index >>= 1
        last >>= 1
