"""A received message shows neither its keys nor the signed bytes that hold them."""

from __future__ import annotations

from typing import Any, cast

from qsotn import wire
from qsotn.domain import KeyId, Secret
from qsotn.messages import EncKeysResponse, SuppliedKey
from qsotn.procedures.turn import Turn

MARK = b"a key in clear, thirty-two octets"


def test_what_was_received_and_the_turn_it_gives_are_blind() -> None:
    message = EncKeysResponse((SuppliedKey(KeyId("one"), Secret(MARK), "qkd:test"),))
    nothing = cast("Any", None)
    received = wire.Received(nothing, message, MARK, b"digest")
    turn = Turn(nothing, nothing, message, nothing, nothing, signed=MARK)
    for shown in (repr(received), repr(turn)):
        assert MARK.decode() not in shown
