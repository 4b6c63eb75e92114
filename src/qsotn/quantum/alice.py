"""Alice: she prepares the light, answers Bob's questions, and chooses every random seed of the post-processing.

A state machine without input or output: `send_pulses` until the block's light is out, then `receive` each of Bob's
messages and carry what it returns to him. An error ends the block for good: nothing is awaited after it.
"""

from __future__ import annotations

from collections.abc import Callable

from qsotn.domain import Direction, Entropy, Secret
from qsotn.errors import MalformedMessage, OutOfOrder
from qsotn.quantum.authentication import Transcript
from qsotn.quantum.distillation import Block, Distillation
from qsotn.quantum.estimation import observe
from qsotn.quantum.failures import ExchangeCutShort
from qsotn.quantum.hashing import seed_length, toeplitz_rows
from qsotn.quantum.ledger import DistilledBlock
from qsotn.quantum.messages import (
    AliceTestBits,
    Amplification,
    Authentication,
    BobTestBits,
    Detections,
    Message,
    Parities,
    ParityQuery,
    Reconciled,
    Sifting,
    Verification,
    Verified,
    decode,
    encode,
    pack_bits,
    unpack_bits,
    unpack_indices,
)
from qsotn.quantum.optics import Bits
from qsotn.quantum.reconciliation import PASSES, SHUFFLE_SEED_BYTES, KeyParities, Shuffles
from qsotn.quantum.sifting import Preparations, Sifted, draw_bits

Emit = Callable[[Bits, Bits, Bits], None]
"""The encoder: intensity index, basis and bit of each pulse."""


class Alice:
    """One block at the sending end. `authentication` is spent by it."""

    def __init__(self, block: Block, entropy: Entropy, authentication: Secret, emit: Emit) -> None:
        self._protocol = block.parameters.protocol
        self._block = block
        self._entropy = entropy
        self._emit = emit
        self._transcript = Transcript(authentication, block.link, block.number, block.parameters)
        self._preparations = Preparations(self._protocol, entropy)
        self._awaited: tuple[type[Message], ...] = (Detections,)
        self._sifted: Sifted
        self._parities: KeyParities
        self._shuffles: Shuffles
        self._distillation: Distillation
        self._answered = 0
        self._amplified = b""
        self._distilled: DistilledBlock | None = None

    def send_pulses(self, count: int) -> None:
        """Prepare and emit the next pulses of the block."""
        self._emit(*self._preparations.draw(count))

    def receive(self, data: bytes) -> list[bytes]:
        """Take one message from Bob and return the messages for him.

        Raises a `PeerError` for what Bob would not have said now, and one of `failures` if the block yields no key.
        """
        awaited, self._awaited = self._awaited, ()
        message = decode(data)
        if not isinstance(message, awaited):
            raise OutOfOrder(f"Bob sent {type(message).__name__}, awaited: {[each.__name__ for each in awaited]}")
        if isinstance(message, Authentication):
            self._transcript.verify(Direction.B_TO_A, message.tag)
        self._transcript.add(Direction.B_TO_A, data)
        answer = encode(self._answer(message))
        self._transcript.add(Direction.A_TO_B, answer)
        return [answer]

    @property
    def distilled(self) -> DistilledBlock:
        """The outcome, once Bob's tag verified; `ExchangeCutShort` before."""
        if self._distilled is None:
            raise ExchangeCutShort(f"block {self._block.number} of {self._block.link} was not finished at Alice")
        return self._distilled

    def _answer(self, message: Message) -> Message:
        match message:
            case Detections():
                return self._sift(message)
            case BobTestBits():
                return self._count_errors(message)
            case ParityQuery():
                return self._answer_parities(message)
            case Reconciled():
                return self._hash_for_verification()
            case Verified():
                return self._choose_amplification()
            case _:
                return self._release()

    def _sift(self, announced: Detections) -> Sifting:
        answer, self._sifted = self._preparations.sift(announced, self._protocol.pulses_per_block)
        self._awaited = (BobTestBits,)
        return answer

    def _count_errors(self, message: BobTestBits) -> AliceTestBits:
        far_bits = unpack_bits(message.bits, len(self._sifted.test_bits))
        observed = observe(self._sifted, far_bits, self._protocol)
        self._distillation = Distillation(self._block, observed, self._sifted.detections)
        seed = self._entropy(SHUFFLE_SEED_BYTES)
        self._shuffles = Shuffles(len(self._sifted.key_bits), seed)
        self._parities = KeyParities(self._sifted.key_bits, self._shuffles)
        self._awaited = (ParityQuery,)
        return AliceTestBits(pack_bits(self._sifted.test_bits), seed)

    def _answer_parities(self, query: ParityQuery) -> Parities:
        blocks = unpack_indices(query.blocks)
        if not 0 <= query.pass_number < PASSES or not self._shuffles.numbers(blocks):
            raise MalformedMessage(f"Bob asks for blocks that pass {query.pass_number} does not have")
        self._answered += len(blocks)
        self._distillation.secret_bits(self._answered)  # stop before more is said about a key that is already lost
        self._awaited = (ParityQuery, Reconciled)
        return Parities(pack_bits(self._parities.of(query.pass_number, blocks)))

    def _hash_for_verification(self) -> Verification:
        key = self._sifted.key_bits
        seed = draw_bits(self._entropy, seed_length(self._protocol.verification_bits, len(key)))
        self._awaited = (Verified,)
        return Verification(pack_bits(seed), pack_bits(toeplitz_rows(key, seed)))

    def _choose_amplification(self) -> Amplification:
        key = self._sifted.key_bits
        rows = self._distillation.secret_bits(self._answered)
        seed = draw_bits(self._entropy, seed_length(rows, len(key)))
        self._amplified = self._distillation.amplify(key, seed)
        self._awaited = (Authentication,)
        return Amplification(pack_bits(seed))

    def _release(self) -> Authentication:
        tag = self._transcript.tag(Direction.A_TO_B)
        self._distilled = self._distillation.finish(self._amplified, self._answered, self._transcript)
        return Authentication(tag)
