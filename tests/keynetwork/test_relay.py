"""One hop's encryption in both modes, and how a refusal names its link."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from qsotn.domain import PartyId, Secret
from qsotn.errors import BadProof, MalformedMessage
from qsotn.keynetwork.relay import Mode, hide, hindered_link, hindrance, join, lies_ahead, misnamed, uncover

UNITS = Secret(bytes(range(96)))
PADS = {Mode.ONE_TIME_PAD: Secret(bytes(range(100, 196))), Mode.AES_WRAPPED: Secret(bytes(range(32)))}


@pytest.mark.parametrize("mode", Mode)
def test_what_is_hidden_is_uncovered_under_the_same_bits(mode: Mode) -> None:
    hidden = hide(mode, PADS[mode], UNITS, b"context")
    assert UNITS.reveal() not in hidden
    assert uncover(mode, PADS[mode], hidden, b"context") == UNITS


@pytest.mark.parametrize(("mode", "units", "pad_units"), [(Mode.ONE_TIME_PAD, 77, 77), (Mode.AES_WRAPPED, 77, 1)])
def test_a_pad_is_as_long_as_its_text_and_a_wrapping_key_is_one_unit(mode: Mode, units: int, pad_units: int) -> None:
    assert mode.pad_units(units) == pad_units


def test_the_one_time_pad_is_the_exclusive_or() -> None:
    hidden = hide(Mode.ONE_TIME_PAD, PADS[Mode.ONE_TIME_PAD], UNITS, b"")
    assert hidden == bytes(n ^ (n + 100) for n in range(96))


def test_wrapped_units_are_aes_256_gcm_under_the_links_own_bits() -> None:
    hidden = hide(Mode.AES_WRAPPED, PADS[Mode.AES_WRAPPED], UNITS, b"context")
    assert AESGCM(bytes(range(32))).decrypt(bytes(12), hidden, b"context") == UNITS.reveal()


@pytest.mark.parametrize(
    ("pad", "context", "change"),
    [(bytes(32), b"context", 0), (bytes(range(32)), b"another", 0), (bytes(range(32)), b"context", 1)],
    ids=["another key", "another hop", "another text"],
)
def test_wrapped_units_open_for_nothing_else(pad: bytes, context: bytes, change: int) -> None:
    hidden = hide(Mode.AES_WRAPPED, PADS[Mode.AES_WRAPPED], UNITS, b"context")
    with pytest.raises(BadProof):
        uncover(Mode.AES_WRAPPED, Secret(pad), hidden[:-1] + bytes([hidden[-1] ^ change]), context)


def test_shares_are_joined_by_their_exclusive_or_and_all_are_needed() -> None:
    units, drawn = bytes(range(64)), (bytes([7]) * 64, bytes(range(100, 164)))
    last = bytes(a ^ b ^ c for a, b, c in zip(units, *drawn, strict=True))
    shares = [Secret(one) for one in (*drawn, last)]
    assert join(shares) == Secret(units)
    assert join(shares[:2]) != Secret(units)


def test_a_pad_of_another_length_serves_nothing() -> None:
    with pytest.raises(MalformedMessage):
        uncover(Mode.ONE_TIME_PAD, Secret(bytes(95)), bytes(96), b"")


def test_each_mode_says_what_its_secrecy_rests_on() -> None:
    assert [mode.secrecy for mode in Mode] == ["information-theoretic", "computational (AES-256-GCM)"]


@given(st.from_regex(r"[a-z0-9-]{1,30}", fullmatch=True), st.text(max_size=50))
def test_the_link_that_a_refusal_names_is_read_back(link: str, reason: str) -> None:
    assert hindered_link(hindrance(link, PartyId("km/b"), reason)) == link


@pytest.mark.parametrize(
    ("link", "party", "way", "ahead"),
    [
        ("b-c", "km/c", "abcd", True),
        ("c-d", "km/c", "abcd", True),
        ("d-e", "km/d", "abcde", True),
        ("c-d", "km/c", "", True),  # nobody knows
        ("a-b", "km/c", "abcd", False),
        ("a-b", "km/c", "", False),
        ("b-x", "km/c", "abcd", False),
        ("c-d", "km/b", "abcd", False),
        ("c-d", "km/a", "abcd", False),
        ("c-d", "km/x", "abcd", False),
        ("c-d", "km/c", "abc", False),  # the last one has no further link on the way
    ],
)
def test_a_relay_sees_whether_a_link_can_be_ahead(link: str, party: str, way: str, ahead: bool) -> None:
    parties = [PartyId(f"km/{letter}") for letter in way]
    detail = hindrance(link, PartyId(party), "too few")
    assert lies_ahead(detail, PartyId("km/b"), "b-c", ("a-b", "b-c", "b-x"), parties) is ahead


def test_a_name_that_somebody_made_up_is_shown_in_part() -> None:
    assert len(misnamed(hindrance("x" * 4000, PartyId("km/c"), "too few"), PartyId("km/c"))) < 120


@pytest.mark.parametrize(
    "detail", ["", "pool-supply of b/00 did not end in time", "a link at km/b: too few", "link x at"]
)
def test_a_refusal_in_other_words_names_no_link(detail: str) -> None:
    assert hindered_link(detail) == ""
