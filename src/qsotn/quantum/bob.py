"""Bob: he measures the light, asks for parities, and corrects his key until it equals Alice's.

A state machine without input or output: `measure_pulses` until the block's light is in, then carry what `start` returns
to Alice and `receive` each of her answers. An error ends the block for good: nothing is awaited after it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from qsotn.domain import Direction, Entropy, Secret
from qsotn.errors import MalformedMessage, OutOfOrder
from qsotn.quantum.authentication import Transcript
from qsotn.quantum.cascade import Cascade, Question
from qsotn.quantum.distillation import Block, Distillation
from qsotn.quantum.estimation import observe
from qsotn.quantum.failures import ExchangeCutShort, VerificationFailed
from qsotn.quantum.hashing import seed_length, toeplitz_rows
from qsotn.quantum.ledger import DistilledBlock
from qsotn.quantum.messages import (
    AliceTestBits,
    Amplification,
    Authentication,
    BobTestBits,
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
    pack_indices,
    unpack_bits,
)
from qsotn.quantum.optics import Bits, Clicks
from qsotn.quantum.reconciliation import SHUFFLE_SEED_BYTES, KeyParities, Shuffles
from qsotn.quantum.sifting import Measurements, Sifted

Measure = Callable[[Bits], Clicks]
"""The receiver: clicks of the gates with these bases. It is all that Bob has of the quantum channel."""


class Bob:
    """One block at the receiving end. `authentication` is spent by it."""

    def __init__(self, block: Block, entropy: Entropy, authentication: Secret, measure: Measure) -> None:
        self._protocol = block.parameters.protocol
        self._block = block
        self._measure = measure
        self._transcript = Transcript(authentication, block.link, block.number, block.parameters)
        self._measurements = Measurements(self._protocol, entropy)
        self._awaited: type[Message] | None = None
        self._sifted: Sifted
        self._key: Bits
        self._parities: KeyParities
        self._cascade: Cascade
        self._question: Question
        self._distillation: Distillation
        self._amplified = b""
        self._distilled: DistilledBlock | None = None

    def measure_pulses(self, count: int) -> None:
        """Choose bases for the next gates and record their clicks."""
        bases = self._measurements.choose_bases(count)
        self._measurements.record(bases, self._measure(bases))

    def start(self) -> list[bytes]:
        """Open the conversation, after the last pulse: announce the detections."""
        return self._say(self._measurements.announce(), awaited=Sifting)

    def receive(self, data: bytes) -> list[bytes]:
        """Take one message from Alice and return the messages for her.

        Raises a `PeerError` for what Alice would not have said now, and one of `failures` if the block yields no key.
        """
        awaited, self._awaited = self._awaited, None
        message = decode(data)
        if awaited is None or not isinstance(message, awaited):
            raise OutOfOrder(f"Alice sent {type(message).__name__}, awaited: {awaited and awaited.__name__}")
        if isinstance(message, Authentication):
            self._transcript.verify(Direction.A_TO_B, message.tag)
        self._transcript.add(Direction.A_TO_B, data)
        return self._answer(message)

    @property
    def distilled(self) -> DistilledBlock:
        """The outcome, once Alice's tag verified; `ExchangeCutShort` before."""
        if self._distilled is None:
            raise ExchangeCutShort(f"block {self._block.number} of {self._block.link} was not finished at Bob")
        return self._distilled

    def _answer(self, message: Message) -> list[bytes]:
        match message:
            case Sifting():
                return self._sift(message)
            case AliceTestBits():
                return self._begin_reconciliation(message)
            case Parities():
                return self._compare(message)
            case Verification():
                return self._verify(message)
            case Amplification():
                return self._amplify(message)
            case _:
                return self._release()

    def _say(self, message: Message, awaited: type[Message]) -> list[bytes]:
        data = encode(message)
        self._transcript.add(Direction.B_TO_A, data)
        self._awaited = awaited
        return [data]

    def _sift(self, message: Sifting) -> list[bytes]:
        self._sifted = self._measurements.sift(message)
        return self._say(BobTestBits(pack_bits(self._sifted.test_bits)), awaited=AliceTestBits)

    def _begin_reconciliation(self, message: AliceTestBits) -> list[bytes]:
        if len(message.shuffle_seed) != SHUFFLE_SEED_BYTES:
            raise MalformedMessage(f"the shuffle seed has {len(message.shuffle_seed)} bytes, due: {SHUFFLE_SEED_BYTES}")
        far_bits = unpack_bits(message.bits, len(self._sifted.test_bits))
        observed = observe(self._sifted, far_bits, self._protocol)
        self._distillation = Distillation(self._block, observed, self._sifted.detections)
        shuffles = Shuffles(len(self._sifted.key_bits), message.shuffle_seed)
        self._parities = KeyParities(self._sifted.key_bits, shuffles)
        self._cascade = Cascade(shuffles, observed.error_rate)
        return self._ask()

    def _compare(self, message: Parities) -> list[bytes]:
        question = self._question
        far = unpack_bits(message.bits, len(question.blocks))
        self._cascade.tell(question, far ^ self._parities.of(question.pass_number, question.blocks))
        self._distillation.secret_bits(self._cascade.compared)  # stop when the key is already lost
        return self._ask()

    def _ask(self) -> list[bytes]:
        question = self._cascade.ask()
        if question is None:
            self._key = self._sifted.key_bits ^ self._cascade.corrections
            return self._say(Reconciled(), awaited=Verification)
        self._question = question
        query = ParityQuery(question.pass_number, pack_indices(question.blocks))
        return self._say(query, awaited=Parities)

    def _verify(self, message: Verification) -> list[bytes]:
        bits = self._protocol.verification_bits
        seed = unpack_bits(message.seed, seed_length(bits, len(self._key)))
        if not hmac.compare_digest(pack_bits(toeplitz_rows(self._key, seed)), message.value):
            raise VerificationFailed(f"block {self._block.number} of {self._block.link} was not reconciled")
        return self._say(Verified(), awaited=Amplification)

    def _amplify(self, message: Amplification) -> list[bytes]:
        rows = self._distillation.secret_bits(self._cascade.compared)
        seed = unpack_bits(message.seed, seed_length(rows, len(self._key)))
        self._amplified = self._distillation.amplify(self._key, seed)
        return self._say(Authentication(self._transcript.tag(Direction.B_TO_A)), awaited=Authentication)

    def _release(self) -> list[bytes]:
        self._distilled = self._distillation.finish(self._amplified, self._cascade.compared, self._transcript)
        return []
