"""Shares of a key: none is enough, a wrong one is noticed before the key exists, and its way is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, product

import pytest
from cryptography.hazmat.primitives.poly1305 import Poly1305
from hypothesis import given
from hypothesis import strategies as st
from tests.keynetwork.conftest import Dice

from qsotn.crypto.derivation import length_prefixed
from qsotn.domain import Entropy, Secret
from qsotn.errors import BadProof, KeyReuse, UsageError
from qsotn.keynetwork.multipath import (
    Check,
    WrongShares,
    check_values,
    commitment,
    join,
    join_checked,
    one_time_tags,
    split,
)

KEY = Secret(bytes(range(32)))
CONTEXT = b"batch 7"


def flipped(share: Secret, bit: int = 0) -> Secret:
    material = bytearray(share.reveal())
    material[bit // 8] ^= 1 << bit % 8
    return Secret(material)


def in_turn(*drawn: bytes) -> Entropy:
    left = list(drawn)
    return lambda _: left.pop(0)


def both_ends(kind: str, number: int) -> tuple[Check, Check]:
    """The origin's check and the target's, which hold copies of the same tag keys."""
    if kind == "commitment":
        return commitment, commitment
    dice = [Dice("tag keys"), Dice("tag keys")]
    near, far = ([Secret(one(32)) for _ in range(number)] for one in dice)
    return one_time_tags(near), one_time_tags(far)


KINDS = pytest.mark.parametrize("kind", ["commitment", "tag"])


@given(st.binary(min_size=32, max_size=200), st.integers(2, 6), st.integers())
def test_all_shares_together_are_the_key(material: bytes, number: int, seed: int) -> None:
    shares = split(Secret(material), number, Dice(str(seed)))
    assert [len(share) for share in shares] == [len(material)] * number
    assert join(shares) == Secret(material)
    assert join(shares[::-1]) == Secret(material)


def test_what_any_two_of_three_shares_say_does_not_depend_on_the_key() -> None:
    """Every value that the drawn shares can take, on one byte of each: the two seen are spread alike for two keys."""

    def seen(key: int, pair: tuple[int, int]) -> Counter[tuple[int, int]]:
        counted: Counter[tuple[int, int]] = Counter()
        for first, second in product(range(0, 256, 17), repeat=2):
            shares = split(Secret(bytes([key]) * 32), 3, in_turn(bytes([first]) * 32, bytes([second]) * 32))
            counted[shares[pair[0]].reveal()[0], shares[pair[1]].reveal()[0]] += 1
        return counted

    # The multiples of 17 are closed under XOR, so they stand for all bytes.
    for pair in combinations(range(3), 2):
        assert seen(0x00, pair) == seen(0xEE, pair)
        assert set(seen(0x33, pair).values()) == {1}


@KINDS
def test_shares_that_came_as_they_were_sent_give_the_key(kind: str) -> None:
    origin, target = both_ends(kind, 3)
    shares = split(KEY, 3, Dice("shares"))
    values = check_values(shares, CONTEXT, origin)
    assert join_checked(shares, values, CONTEXT, target) == KEY


LIES: dict[str, Callable[[Sequence[Secret]], Secret | None]] = {
    "a changed bit": lambda shares: flipped(shares[1], 77),
    "silence": lambda _: None,
    "another way's share": lambda shares: shares[0],
    "a longer share": lambda shares: Secret(shares[1].reveal() + b"\x00"),
    "a shorter share": lambda shares: Secret(shares[1].reveal()[:-1]),
}


@KINDS
@pytest.mark.parametrize("lie", LIES)
def test_the_way_whose_relay_lied_is_named_and_no_key_comes_of_it(kind: str, lie: str) -> None:
    origin, target = both_ends(kind, 3)
    shares = split(KEY, 3, Dice("shares"))
    values = check_values(shares, CONTEXT, origin)
    with pytest.raises(WrongShares, match="of 3 shares those of way 2 are missing or not what") as caught:
        join_checked([shares[0], LIES[lie](shares), shares[2]], values, CONTEXT, target)
    assert caught.value.positions == (1,)


@KINDS
def test_every_lying_way_is_named_even_when_their_lies_would_cancel(kind: str) -> None:
    """Two relays flip the same bit: the XOR of all shares would be the right key."""
    origin, target = both_ends(kind, 3)
    shares = split(KEY, 3, Dice("shares"))
    values = check_values(shares, CONTEXT, origin)
    lies = [flipped(shares[0]), shares[1], flipped(shares[2])]
    assert join(lies) == KEY
    with pytest.raises(WrongShares) as caught:
        join_checked(lies, values, CONTEXT, target)
    assert caught.value.positions == (0, 2)


@KINDS
def test_a_share_of_another_batch_is_wrong(kind: str) -> None:
    origin, target = both_ends(kind, 2)
    shares = split(KEY, 2, Dice("shares"))
    values = check_values(shares, CONTEXT, origin)
    with pytest.raises(WrongShares) as caught:
        join_checked(shares, values, b"batch 8", target)
    assert caught.value.positions == (0, 1)


def test_a_wrong_check_value_names_its_way() -> None:
    shares = split(KEY, 2, Dice("shares"))
    first, second = check_values(shares, CONTEXT)
    with pytest.raises(WrongShares) as caught:
        join_checked(shares, (first, second[:-1] + bytes([second[-1] ^ 1])), CONTEXT)
    assert caught.value.positions == (1,)


def test_a_commitment_is_to_one_share_on_one_way_of_one_batch() -> None:
    share = Secret(Dice("shares")(32))
    others = [(1, share, CONTEXT), (0, flipped(share), CONTEXT), (0, share, b"batch 8")]
    assert len({commitment(0, share, CONTEXT), *(commitment(*other) for other in others)}) == 4


@pytest.mark.parametrize("number", [0, 1, 3])
def test_as_many_check_values_as_shares_are_needed(number: int) -> None:
    shares = split(KEY, 2, Dice("shares"))
    with pytest.raises(BadProof, match=f"2 shares cannot be held against {number} check values"):
        join_checked(shares, [b""] * number, CONTEXT)
    with pytest.raises(BadProof, match="0 shares cannot be held against 0 check values"):
        join_checked([], [], CONTEXT)


def test_a_tag_is_poly1305_over_context_and_share_under_its_own_key() -> None:
    """RFC 8439, section 2.5, as the library has it: another algorithm or framing would not agree with a peer's."""
    shares = split(KEY, 2, Dice("shares"))
    keys = [bytes([n]) * 32 for n in range(1, 3)]
    tags = check_values(shares, CONTEXT, one_time_tags([Secret(key) for key in keys]))
    for share, key, tag in zip(shares, keys, tags, strict=True):
        Poly1305.verify_tag(key, length_prefixed([CONTEXT, share.reveal()]), tag)


def test_a_tag_key_is_erased_by_its_use_and_never_used_again() -> None:
    shares = split(KEY, 2, Dice("shares"))
    keys = [Secret(bytes([n]) * 32) for n in range(1, 3)]
    check = one_time_tags(keys)
    check_values(shares, CONTEXT, check)
    assert [len(key) for key in keys] == [0, 0]
    with pytest.raises(KeyReuse, match="way 1 needs 32 fresh bytes to tag a share, given were 0"):
        check_values(shares, CONTEXT, check)


@pytest.mark.parametrize(
    ("size", "number", "complaint"),
    [
        (32, 1, "into 1 shares: expected at least 2"),
        (32, 0, "into 0 shares: expected at least 2"),
        (31, 2, "a key of 248 bits was to be split: expected at least 256"),
    ],
)
def test_too_few_shares_or_too_short_a_key_are_refused(size: int, number: int, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        split(Secret(bytes(size)), number, Dice("shares"))


def test_no_error_and_no_representation_shows_a_share() -> None:
    shares = split(KEY, 2, Dice("shares"))
    with pytest.raises(WrongShares) as caught:
        join_checked([None, shares[1]], check_values(shares, CONTEXT), CONTEXT)
    shown = f"{caught.value!r} {shares!r}"
    assert not any(share.reveal().hex() in shown or repr(share.reveal()) in shown for share in shares)
