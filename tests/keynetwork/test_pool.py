"""Which end may take which units of a block: tables, and every interleaving hypothesis can think of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsotn.domain import PartyId, Secret
from qsotn.errors import MalformedMessage, WrongParty
from qsotn.keynetwork.pool import UNIT_BYTES, allocate, check_named, half, units_for
from qsotn.keynetwork.relay import cut, one_time_pad

ONE, OTHER = PartyId("km/a"), PartyId("km/b")


@pytest.mark.parametrize("units", range(9))
def test_the_halves_are_disjoint_and_together_the_block(units: int) -> None:
    mine, theirs = half(ONE, OTHER, units), half(OTHER, ONE, units)
    assert [*mine, *theirs] == list(range(units))


@pytest.mark.parametrize(
    ("number", "size", "units"),
    [(1, 64, 1), (1, 256, 1), (1, 264, 2), (2, 256, 2), (3, 512, 6), (128, 1024, 512), (128, 8, 128)],
)
def test_a_key_takes_whole_units(number: int, size: int, units: int) -> None:
    assert units_for(number, size) == units


@pytest.mark.parametrize(
    ("mark", "units", "taken"),
    [(0, 1, range(4, 5)), (4, 4, range(4, 8)), (6, 2, range(6, 8)), (6, 3, None), (8, 1, None), (4, 5, None)],
)
def test_an_end_allocates_upwards_and_only_in_its_half(mark: int, units: int, taken: range | None) -> None:
    assert allocate(range(4, 8), mark, units) == taken


@pytest.mark.parametrize(("first", "units"), [(3, 1), (7, 2), (8, 1), (5, 0), (5, -1), (-1, 1)])
def test_nobody_names_units_outside_their_own_half(first: int, units: int) -> None:
    with pytest.raises(WrongParty):
        check_named(range(4, 8), first, units)


def test_units_may_be_named_in_any_order_within_the_half() -> None:
    assert check_named(range(4, 8), 6, 2) == range(6, 8)
    assert check_named(range(4, 8), 4, 2) == range(4, 6)


@given(st.integers(0, 40), st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=40))
def test_no_unit_is_given_twice_whatever_the_two_ends_do(units: int, requests: list[tuple[bool, int]]) -> None:
    given_out: list[int] = []
    marks = {ONE: 0, OTHER: 0}
    for first_end, wanted in requests:
        end, far = (ONE, OTHER) if first_end else (OTHER, ONE)
        taken = allocate(half(end, far, units), marks[end], wanted)
        if taken is not None:
            marks[end] = taken.stop
            given_out += taken
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) <= set(range(units))


@given(
    st.binary(max_size=200).flatmap(
        lambda text: st.tuples(st.just(text), st.binary(min_size=len(text), max_size=len(text)))
    )
)
def test_the_pad_is_undone_by_itself(pair: tuple[bytes, bytes]) -> None:
    text, pad = pair
    hidden = one_time_pad(text, pad)
    assert hidden == bytes(a ^ b for a, b in zip(text, pad, strict=True))
    assert one_time_pad(hidden, pad) == text


@pytest.mark.parametrize(("text", "pad"), [(b"", b"x"), (b"12", b"123"), (b"12", b"1")])
def test_a_pad_is_exactly_as_long_as_its_text(text: bytes, pad: bytes) -> None:
    with pytest.raises(MalformedMessage):
        one_time_pad(text, pad)


def test_keys_are_cut_from_whole_units_and_the_rest_is_dropped() -> None:
    units = [Secret(bytes([n]) * UNIT_BYTES) for n in range(4)]
    assert [key.reveal() for key in cut(units, 2, 264)] == [b"\0" * 32 + b"\1", b"\2" * 32 + b"\3"]
    with pytest.raises(MalformedMessage):
        cut(units, 4, 264)
