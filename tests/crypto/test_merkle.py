"""The tree of RFC 9162 and its proofs as RFC 9942 encodes them: published roots and paths, every size, every lie."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from qsotn.crypto import cbor, merkle
from qsotn.errors import MalformedMessage

# The tree of Certificate Transparency's reference implementation (google/certificate-transparency, merkle_tree_test.cc;
# now transparency-dev/merkle, testonly/constants.go and proof/verify_test.go). The tree of RFC 6962 is RFC 9162's.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
]
ROOTS = {
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
PATHS = {
    (8, 0): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (8, 5): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (3, 2): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (5, 1): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
SIZES = [*range(2, 18), 31, 32, 33, 100, 255, 256]


def entries(size: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(size)]


@pytest.mark.parametrize("size", ROOTS)
def test_the_root_is_the_published_one(size: int) -> None:
    assert merkle.prove(LEAVES[:size])[0].hex() == ROOTS[size]


@pytest.mark.parametrize(("size", "index"), PATHS)
def test_the_path_is_the_published_one(size: int, index: int) -> None:
    _, proofs = merkle.prove(LEAVES[:size])
    assert cbor.decode(proofs[index]) == [size, index, [bytes.fromhex(part) for part in PATHS[size, index]]]


def test_the_bytes_of_a_proof_are_those_of_rfc_9942() -> None:
    """Section 5.2, written out by hand: array of three, size 3, index 2, array of one, 32 bytes."""
    _, proofs = merkle.prove(LEAVES[:3])
    assert proofs[2] == bytes.fromhex("83 03 02 81 5820" + ROOTS[2])


def tree_hash(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, as it is defined there: from the root down."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = largest_power_below(len(leaves))
    return sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def audit_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 9162, section 2.1.3.1, as it is defined there."""
    if len(leaves) == 1:
        return []
    split = largest_power_below(len(leaves))
    if index < split:
        return [*audit_path(index, leaves[:split]), tree_hash(leaves[split:])]
    return [*audit_path(index - split, leaves[split:]), tree_hash(leaves[:split])]


def largest_power_below(size: int) -> int:
    power = 1
    while power * 2 < size:
        power *= 2
    return power


def verifies(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> bool:
    """The verification of RFC 9162, section 2.1.3.2, step by step."""
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = sha256(b"\x01" + p + r).digest()
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = sha256(b"\x01" + r + p).digest()
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


@pytest.mark.parametrize("size", SIZES)
def test_tree_and_paths_are_those_of_the_definition_and_lead_to_the_root(size: int) -> None:
    leaves = entries(size)
    root, proofs = merkle.prove(leaves)
    assert root == tree_hash(leaves)
    for index in range(size):
        path = audit_path(index, leaves)
        assert proofs[index] == cbor.encode([size, index, path])
        assert merkle.proven_root(leaves[index], proofs[index], size) == root
        assert verifies(sha256(b"\x00" + leaves[index]).digest(), index, size, path, root)


@pytest.mark.parametrize("size", range(2, 18))
def test_every_size_and_index_is_judged_as_rfc_9162_does(size: int) -> None:
    """One path of each length under every index: the same ones fit, and those that fit lead to the same root."""
    for index in range(size):
        for length in range(1, 7):
            path = [bytes([number]) * 32 for number in range(length)]
            root = led_to(b"entry", cbor.encode([size, index, path]), size)
            leaf = sha256(b"\x00entry").digest()
            fits = [found for found in possible_roots(leaf, path) if verifies(leaf, index, size, path, found)]
            assert fits == ([] if root is None else [root])


def possible_roots(node: bytes, path: list[bytes]) -> list[bytes]:
    """Every root that the path could lead to, whatever side each of its hashes stands on."""
    nodes = [node]
    for part in path:
        nodes = [sha256(b"\x01" + pair).digest() for found in nodes for pair in (part + found, found + part)]
    return nodes


def test_a_root_does_not_hold_its_size_so_a_proof_is_read_under_the_signed_one() -> None:
    """Leaf 4 of 5 hangs right below the root. So would leaf 1 of 2: only the signed size tells them apart."""
    root, proofs = merkle.prove(LEAVES[:5])
    match cbor.decode(proofs[4]):
        case [5, 4, list(path)]:
            other = cbor.encode([2, 1, path])
            assert merkle.proven_root(LEAVES[4], other, 2) == root
            with pytest.raises(MalformedMessage, match="5 leaves were signed"):
                merkle.proven_root(LEAVES[4], other, 5)
            with pytest.raises(MalformedMessage, match="2 leaves were signed"):
                merkle.proven_root(LEAVES[4], proofs[4], 2)
            return
    pytest.fail("the proof is not [5, 4, path]")


@pytest.mark.parametrize("size", range(2, 10))
def test_no_other_index_entry_or_order_leads_to_the_root(size: int) -> None:
    leaves = entries(size)
    root, proofs = merkle.prove(leaves)
    for index, proof in enumerate(proofs):
        decoded: Any = cbor.decode(proof)
        _, _, path = decoded
        lies = [(leaves[index], cbor.encode([size, other, path])) for other in range(size) if other != index]
        lies += [(leaves[other], proof) for other in range(size) if other != index]
        lies += [(leaves[index], cbor.encode([size, index, path[::-1]]))] if len(path) > 1 else []
        for entry, lie in lies:
            assert led_to(entry, lie, size) != root


def led_to(entry: bytes, proof: bytes, size: int) -> bytes | None:
    try:
        return merkle.proven_root(entry, proof, size)
    except MalformedMessage:
        return None


def test_an_inner_node_is_no_leaf() -> None:
    """The two children of an inner node, given as an entry at its place, do not hash to it; the prefix sees to that."""
    leaves = entries(4)
    root, _ = merkle.prove(leaves)
    left, right = ([sha256(b"\x00" + leaf).digest() for leaf in pair] for pair in (leaves[:2], leaves[2:]))
    sibling = sha256(b"\x01" + right[0] + right[1]).digest()
    for entry in (left[0] + left[1], b"\x01" + left[0] + left[1], sha256(b"\x01" + left[0] + left[1]).digest()):
        assert merkle.proven_root(entry, cbor.encode([2, 0, [sibling]]), 2) != root


HASH = bytes(32)
NO_PROOF = {
    "nothing": b"",
    "no CBOR": b"\xff",
    "a number": cbor.encode(3),
    "two parts": cbor.encode([3, 2]),
    "four parts": cbor.encode([3, 2, [HASH], HASH]),
    "another size": cbor.encode([4, 2, [HASH]]),
    "size zero": cbor.encode([0, 0, []]),
    "size is text": cbor.encode(["3", 2, [HASH]]),
    "index is the size": cbor.encode([3, 3, [HASH]]),
    "index below zero": cbor.encode([3, -1, [HASH]]),
    "index below zero that turns as 0 does": cbor.encode([3, -4, [HASH, HASH]]),
    "index is true": cbor.encode([3, True, [HASH, HASH]]),
    "index is nothing": cbor.encode([3, None, [HASH]]),
    "path is a hash": cbor.encode([3, 2, HASH]),
    "no path": cbor.encode([3, 2, []]),
    "path too long": cbor.encode([3, 2, [HASH, HASH]]),
    "path too short": cbor.encode([3, 0, [HASH]]),
    "a short hash": cbor.encode([3, 2, [HASH[1:]]]),
    "a long hash": cbor.encode([3, 2, [HASH + HASH]]),
    "a hash is text": cbor.encode([3, 2, ["0" * 32]]),
    "not canonical": bytes.fromhex("83 1803 02 81 5820") + HASH,
    "trailing byte": cbor.encode([3, 2, [HASH]]) + b"\x00",
}


@pytest.mark.parametrize("proof", NO_PROOF.values(), ids=NO_PROOF)
def test_what_prove_does_not_write_is_malformed(proof: bytes) -> None:
    assert len(merkle.proven_root(b"entry", cbor.encode([3, 2, [HASH]]), 3)) == 32
    with pytest.raises(MalformedMessage):
        merkle.proven_root(b"entry", proof, 3)


@pytest.mark.parametrize("size", [-1, 0, 1, 257, 2**64 - 1])
def test_a_tree_has_2_to_256_leaves(size: int) -> None:
    if size in range(300):
        with pytest.raises(ValueError, match="expected 2 to 256"):
            merkle.prove(entries(size))
    with pytest.raises(MalformedMessage, match="expected 2 to 256"):
        merkle.proven_root(b"entry", cbor.encode([size, 0, [HASH]]), size)
