"""One block of one link in one process: the light first, then the conversation.

The driver moves light through a `QuantumChannel` and bytes through a `ClassicalChannel`, and nothing else. To run the
parties in two processes, carry the same bytes over a socket; only the simulated light needs a place of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from qsotn.domain import Direction, Entropy, Secret
from qsotn.quantum.alice import Alice
from qsotn.quantum.bob import Bob
from qsotn.quantum.distillation import Block
from qsotn.quantum.ledger import DistilledBlock
from qsotn.quantum.optics import Attack, QuantumChannel
from qsotn.quantum.parameters import Parameters

ClassicalChannel = Callable[[Direction, bytes], Iterable[bytes]]
"""What arrives when these bytes are sent; Alice is end A. An honest channel returns them alone."""

Progress = Callable[[str, float], None]
"""The stage (`photons` or `post-processing`) and the part of it that is done, 0 to 1."""

CHUNK_PULSES = 1 << 18
"""Pulses simulated at a time, so that memory stays small."""


def distil_block(
    parameters: Parameters,
    link: str,
    number: int,
    alice_entropy: Entropy,
    bob_entropy: Entropy,
    nature_seed: int,
    authentication: tuple[Secret, Secret],
    progress: Progress | None = None,
    *,
    attack: Attack | None = None,
    channel: ClassicalChannel | None = None,
) -> tuple[DistilledBlock, DistilledBlock]:
    """Distil one block and return Alice's and Bob's outcome; the same arguments give the same keys.

    `authentication` is Alice's and Bob's copy of 64 one-time key bytes. They are erased, also when the block fails,
    because tags may have been sent under them. `nature_seed` seeds the physics, never a party's choice. `attack` acts
    on the light, `channel` on the messages. Raises a subclass of `KeyShortage` if the link gives no key, and of
    `PeerError` if the conversation was disturbed.
    """
    report = progress or _silent
    block = Block(parameters, link, number)
    light = QuantumChannel(parameters.optics, parameters.protocol.intensities, nature_seed, attack)
    alice = Alice(block, alice_entropy, authentication[0], light.emit)
    bob = Bob(block, bob_entropy, authentication[1], light.measure)
    exchange_light(alice, bob, parameters.protocol.pulses_per_block, report)
    report("post-processing", 0.0)
    converse(alice, bob, channel or _honest)
    report("post-processing", 1.0)
    return alice.distilled, bob.distilled


def exchange_light(alice: Alice, bob: Bob, pulses: int, report: Progress) -> None:
    """Send and measure all pulses of the block, a chunk at a time."""
    for sent in range(0, pulses, CHUNK_PULSES):
        report("photons", sent / pulses)
        count = min(CHUNK_PULSES, pulses - sent)
        alice.send_pulses(count)
        bob.measure_pulses(count)
    report("photons", 1.0)


def converse(alice: Alice, bob: Bob, channel: ClassicalChannel) -> None:
    """Carry messages until neither party has anything to say."""
    waiting = deque((Direction.B_TO_A, message) for message in bob.start())
    while waiting:
        direction, message = waiting.popleft()
        hears, answers = (alice, Direction.A_TO_B) if direction is Direction.B_TO_A else (bob, Direction.B_TO_A)
        for heard in channel(direction, message):
            waiting.extend((answers, answer) for answer in hears.receive(heard))


def _honest(_direction: Direction, message: bytes) -> Iterable[bytes]:
    return (message,)


def _silent(_stage: str, _fraction: float) -> None:
    return None
