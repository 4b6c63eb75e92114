"""Whoever holds the classical channel can stop a block. He cannot make it yield a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, get_args

import msgspec
import pytest

from qsotn.domain import Direction, Secret
from qsotn.errors import KeyShortage, PeerError
from qsotn.quantum.failures import AuthenticationFailed, ExchangeCutShort, VerificationFailed
from qsotn.quantum.messages import (
    Amplification,
    Authentication,
    BobTestBits,
    Message,
    ParityQuery,
    Reconciled,
    Sifting,
    Verification,
    Verified,
    decode,
    encode,
    pack_bits,
    unpack_bits,
)

if TYPE_CHECKING:
    from tests.quantum.conftest import Distil

Change = Callable[[bytes], Iterable[bytes]]
KINDS = [kind.__name__ for kind in get_args(Message)]


class Wiretap:
    """An active attacker who changes the first message of one kind (and direction, if given)."""

    def __init__(self, kind: str, change: Change, direction: Direction | None = None) -> None:
        self._kind, self._change, self._direction = kind, change, direction
        self.acted = False

    def __call__(self, direction: Direction, data: bytes) -> Iterable[bytes]:
        meant = type(decode(data)).__name__ == self._kind and self._direction in (None, direction)
        if self.acted or not meant:
            return (data,)
        self.acted = True
        return self._change(data)


def flip_at(part: float) -> Change:
    def flip(data: bytes) -> Iterable[bytes]:
        changed = bytearray(data)
        changed[int(part * (len(data) - 1))] ^= 0x10
        return (bytes(changed),)

    return flip


CHANGES: dict[str, Change] = {
    "flip the beginning": flip_at(0),
    "flip the middle": flip_at(0.6),
    "flip the end": flip_at(1),
    "remove": lambda _data: (),
    "repeat": lambda data: (data, data),
    "insert a stranger": lambda data: (encode(Reconciled()), data),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_no_message_can_be_changed_removed_or_added(distil: Distil, kind: str, change: Change) -> None:
    tap = Wiretap(kind, change)
    with pytest.raises((PeerError, KeyShortage)):
        distil(channel=tap)
    assert tap.acted


def replaced(kind: type[Message], **fields: Callable[[bytes], bytes]) -> Change:
    def change(data: bytes) -> Iterable[bytes]:
        message = decode(data)
        assert isinstance(message, kind)
        new = {name: turn(getattr(message, name)) for name, turn in fields.items()}
        return (encode(msgspec.structs.replace(message, **new)),)

    return change


def turned(data: bytes) -> bytes:
    return bytes([data[0] ^ 0x80]) + data[1:]


def swapped(data: bytes) -> bytes:
    """Exchange two unequal bits: all counts stay as they are."""
    bits = unpack_bits(data, 8 * len(data))
    one, zero = int(bits.argmax()), int(bits.argmin())
    bits[one], bits[zero] = 0, 1
    return pack_bits(bits)


@pytest.mark.parametrize(
    ("kind", "change", "failure", "said"),
    [
        # Well-formed forgeries that nothing but the named guard notices.
        (Amplification, replaced(Amplification, seed=turned), AuthenticationFailed, "the b-to-a tag"),
        (Verification, replaced(Verification, value=turned), VerificationFailed, "was not reconciled"),
        (Verification, replaced(Verification, seed=turned), VerificationFailed, "was not reconciled"),
        (Authentication, replaced(Authentication, tag=turned), AuthenticationFailed, "the b-to-a tag"),
        (Authentication, lambda _data: (), ExchangeCutShort, "was not finished at Alice"),
    ],
)
def test_a_forgery_meets_its_guard(
    distil: Distil, kind: type[Message], change: Change, failure: type[Exception], said: str
) -> None:
    with pytest.raises(failure, match=said):
        distil(channel=Wiretap(kind.__name__, change))


def test_alices_last_tag_is_checked_too(distil: Distil) -> None:
    change = replaced(Authentication, tag=turned)
    with pytest.raises(AuthenticationFailed, match="the a-to-b tag"):
        distil(channel=Wiretap("Authentication", change, Direction.A_TO_B))


def test_without_alices_last_tag_bob_has_no_key(distil: Distil) -> None:
    with pytest.raises(ExchangeCutShort, match="at Bob"):
        distil(channel=Wiretap("Authentication", lambda _data: (), Direction.A_TO_B))


def test_a_stranger_without_the_authentication_key_gets_no_key(distil: Distil) -> None:
    with pytest.raises(AuthenticationFailed):
        distil(authentication=(Secret(bytes(64)), Secret(bytes(63) + b"\x01")))


def test_moving_an_error_between_pulses_is_noticed_by_the_tag_alone(distil: Distil) -> None:
    """The counts at both parties agree, the keys would too: only the transcripts differ."""
    heard: list[bytes] = []

    def swap_equal_intensities(data: bytes) -> Iterable[bytes]:
        message = decode(data)
        assert isinstance(message, Sifting)
        # Detections sifted away (bases differ) still carry an intensity; nobody uses it.
        unused = 1 - unpack_bits(message.same_basis, 8 * len(message.same_basis))
        place = int(unused.argmax())
        low = bytearray(message.intensity_low)
        low[place // 8] &= ~(0x80 >> place % 8) & 0xFF
        high = bytearray(message.intensity_high)
        high[place // 8] ^= 0x80 >> place % 8
        heard.append(data)
        return (encode(Sifting(message.same_basis, bytes(high), bytes(low))),)

    with pytest.raises(AuthenticationFailed, match="the b-to-a tag"):
        distil(channel=Wiretap("Sifting", swap_equal_intensities))
    assert heard


@pytest.mark.parametrize(
    ("blocks", "said"),
    [(b"\x00\x00\x00\x00", "does not have"), (b"\xff\xff\xff\xff", "does not have"), (b"\x01\x00", "2 bytes")],
)
def test_alice_answers_no_question_about_blocks_that_do_not_exist(distil: Distil, blocks: bytes, said: str) -> None:
    with pytest.raises(PeerError, match=said):
        distil(channel=Wiretap("ParityQuery", lambda _data: (encode(ParityQuery(0, blocks)),)))


@pytest.mark.parametrize("number", [-1, 6, 2**40])
def test_alice_answers_no_question_about_passes_that_do_not_exist(distil: Distil, number: int) -> None:
    with pytest.raises(PeerError, match="does not have"):
        distil(channel=Wiretap("ParityQuery", lambda _data: (encode(ParityQuery(number, b"\x01\x00\x00\x00")),)))


def test_alice_stops_answering_when_the_key_is_lost(distil: Distil) -> None:
    every = b"".join(number.to_bytes(4, "little") for number in range(1, 40_000))
    with pytest.raises(KeyShortage, match="leaked 79998"):
        distil(channel=Wiretap("ParityQuery", lambda _data: (encode(ParityQuery(0, every)),)))


@pytest.mark.parametrize("message", [Verified(), Reconciled(), BobTestBits(b"")])
def test_out_of_turn_is_refused_by_name(distil: Distil, message: Message) -> None:
    with pytest.raises(PeerError, match=f"Bob sent {type(message).__name__}, awaited: .*Detections"):
        distil(channel=Wiretap("Detections", lambda _data: (encode(message),)))
