"""What the cryptography alone of a procedure costs.

It is the limit for whoever signs every message by itself; one signature for several messages can do better.
How often each operation is needed follows from the ladders and from what their steps verify; how long one takes is
measured here, in the same run, on payloads of the size that travels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

import msgspec

from qsotn.crypto import envelope
from qsotn.crypto.suites import DEFAULT_SUITE, verify
from qsotn.domain import Secret
from qsotn.interfaces import AK, IAQ
from qsotn.procedures.initialization import INITIALIZATION
from qsotn.procedures.key_supply import KEY_SUPPLY
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.leased_line import LEASED_LINE

PAYLOAD: Final = 2048
CALLS: Final = 20
ENOUGH_S: Final = 0.25


class Operations(msgspec.Struct, frozen=True):
    """How often a procedure needs each operation."""

    signatures: int
    verifications: int
    sealings: int
    """HPKE, each with its opening."""
    key_files: int
    """KEM key pairs drawn by devices, each with an encapsulation and a decapsulation."""


class UnitCosts(msgspec.Struct, frozen=True):
    """Seconds of processor time of one operation."""

    signature: float
    verification: float
    sealing: float
    opening: float
    key_pair: float


@dataclass(frozen=True)
class _Evidence:
    """Messages of others that a procedure's steps verify, beside those they receive."""

    initialization: int = 5
    """Steps 2 (the POMP's request), 4 and 5a (the device's statement), 7b and 7c (the voucher)."""
    leased_line: int = 17
    """Steps 2 (twice, with two tokens), 1 (two tokens), 4 (two), 8b (two), 8c (two), 10g, 12c (two), and the tokens."""


def initialization(hops: int) -> Operations:
    """Return what one initialisation needs when its key file crosses that many links of the QKDN."""
    supply = _messages(KEY_SUPPLY) * hops
    messages = _messages(INITIALIZATION) + supply
    return Operations(messages, messages + _Evidence.initialization, _sealed(INITIALIZATION), 1)


def leased_line(hops: int) -> Operations:
    """Return what one establishment needs when its keys cross that many links of the QKDN."""
    messages = _messages(LEASED_LINE) + _messages(KEY_SUPPLY) * hops
    return Operations(messages + 2, messages + _Evidence.leased_line, _sealed(LEASED_LINE), 0)


def _messages(ladder: Ladder) -> int:
    return sum(len(step.edges) for step in ladder if not step.on_line)


def _sealed(ladder: Ladder) -> int:
    return sum(len(step.edges) for step in ladder if step.interface in (AK, IAQ))


def measure() -> UnitCosts:
    """Measure each operation of the default suite."""
    suite, payload = DEFAULT_SUITE, os.urandom(PAYLOAD)
    key = suite.generate_signing_key(os.urandom)
    public, signature = key.public_key(), key.sign(payload)
    kem = suite.generate_kem_key(os.urandom)
    sealed = envelope.seal(suite, kem.public, payload, b"bench")
    return UnitCosts(
        signature=_seconds(lambda: key.sign(payload)),
        verification=_seconds(lambda: verify(suite.signature, public, signature, payload)),
        sealing=_seconds(lambda: envelope.seal(suite, kem.public, payload, b"bench")),
        opening=_seconds(lambda: envelope.unseal(suite, kem, sealed, b"bench")),
        key_pair=_seconds(lambda: suite.kem_key(Secret(os.urandom(suite.kem.seed_bytes)))),
    )


def cost(needed: Operations, unit: UnitCosts) -> float:
    """Return the seconds of processor time that the operations take."""
    return (
        needed.signatures * unit.signature
        + needed.verifications * unit.verification
        + (needed.sealings + needed.key_files) * (unit.sealing + unit.opening)
        + needed.key_files * unit.key_pair
    )


def _seconds(act: Callable[[], object]) -> float:
    """Return the processor time of one call: the median of several rounds.

    The median and not the best, since what is compared with it meets the same neighbours on the processor.
    """
    act()
    rounds: list[float] = []
    ends = time.process_time() + ENOUGH_S
    while time.process_time() < ends:
        began = time.process_time()
        for _ in range(CALLS):
            act()
        rounds.append((time.process_time() - began) / CALLS)
    return median(rounds)
