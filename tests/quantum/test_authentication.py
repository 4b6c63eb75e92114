from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.poly1305 import Poly1305

from qsotn.domain import Direction, Secret
from qsotn.errors import KeyReuse
from qsotn.quantum.authentication import Transcript, forgery_probability
from qsotn.quantum.failures import AuthenticationFailed
from qsotn.quantum.parameters import METRO, DecoyProtocol, Parameters

KEY = bytes(range(64))


def transcript(key: bytes = KEY, link: str = "l", number: int = 1, parameters: Parameters = METRO) -> Transcript:
    opened = Transcript(Secret(key), link, number, parameters)
    opened.add(Direction.B_TO_A, b"question")
    opened.add(Direction.A_TO_B, b"answer")
    return opened


def test_equal_views_verify_in_both_directions() -> None:
    alice, bob = transcript(), transcript()
    alice.verify(Direction.B_TO_A, bob.tag(Direction.B_TO_A))
    for view in (alice, bob):
        view.add(Direction.B_TO_A, b"the tag itself")
    bob.verify(Direction.A_TO_B, alice.tag(Direction.A_TO_B))
    assert alice.length == bob.length


@pytest.mark.parametrize(
    "other",
    [
        transcript(key=KEY[::-1]),
        transcript(link="m"),
        transcript(number=2),
        transcript(parameters=Parameters(protocol=DecoyProtocol(max_error_rate=0.07))),
    ],
)
def test_another_key_link_block_or_parameter_is_noticed(other: Transcript) -> None:
    with pytest.raises(AuthenticationFailed, match="the b-to-a tag over"):
        transcript().verify(Direction.B_TO_A, other.tag(Direction.B_TO_A))


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [(Direction.B_TO_A, b"ab"), (Direction.B_TO_A, b"c")],
        [(Direction.B_TO_A, b"abc")],
        [(Direction.A_TO_B, b"a"), (Direction.B_TO_A, b"bc")],
        [(Direction.A_TO_B, b"abb-to-ac")],
        [(Direction.B_TO_A, b"bc"), (Direction.A_TO_B, b"a")],
    ],
)
def test_order_direction_and_cut_of_messages_count(messages: list[tuple[Direction, bytes]]) -> None:
    alice, bob = transcript(), transcript()
    for message in ((Direction.A_TO_B, b"ab"), (Direction.B_TO_A, b"c")):
        alice.add(*message)
    for message in messages:
        bob.add(*message)
    with pytest.raises(AuthenticationFailed):
        alice.verify(Direction.B_TO_A, bob.tag(Direction.B_TO_A))


def test_a_direction_has_its_own_key() -> None:
    """Reflecting a tag does not help, and each tag is Poly1305 under its half of the key."""
    view = transcript()
    assert view.tag(Direction.A_TO_B) != view.tag(Direction.B_TO_A)
    swapped = transcript(key=KEY[32:] + KEY[:32])
    assert swapped.tag(Direction.B_TO_A) == transcript().tag(Direction.A_TO_B)


def test_the_block_key_is_spent_at_once() -> None:
    key = Secret(KEY)
    Transcript(key, "l", 1, METRO)
    with pytest.raises(KeyReuse, match="needs 64 fresh key bytes, given were 0"):
        Transcript(key, "l", 2, METRO)


def test_poly1305_is_the_published_one() -> None:
    """RFC 8439, section 2.5.2."""
    key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    tag = Poly1305.generate_tag(key, b"Cryptographic Forum Research Group")
    assert tag.hex() == "a8061dc1305136c6c22b8baf0c0127a9"


def test_the_forgery_probability_counts_both_tags() -> None:
    assert forgery_probability(16) == 2 * 8 * 2.0**-106
    assert forgery_probability(4 << 20) < 1e-25
