"""The last step, the same at both parties: how long the key is, the hashing to it, and the books.

Each party calls these functions on its own view; agreement is never assumed here. If the views differ, the lengths or
the authentication tags do.
"""

from __future__ import annotations

from dataclasses import dataclass

from qsotn.domain import Secret
from qsotn.quantum.authentication import BLOCK_KEY_BYTES, Transcript, forgery_probability
from qsotn.quantum.estimation import Observed
from qsotn.quantum.failures import NoSecrecyLeft
from qsotn.quantum.finite_key import Secrecy, bound_secrecy, secret_bits
from qsotn.quantum.hashing import toeplitz_fft
from qsotn.quantum.ledger import BlockLedger, DistilledBlock
from qsotn.quantum.messages import pack_bits
from qsotn.quantum.optics import Bits
from qsotn.quantum.parameters import Parameters

AUTHENTICATION_BITS = 8 * BLOCK_KEY_BYTES
MINIMUM_SECRET_BITS = AUTHENTICATION_BITS + 256
"""A block must pay for the next one's authentication and still give one 256-bit key."""


@dataclass(frozen=True)
class Block:
    """Which block of which link is being distilled, and how."""

    parameters: Parameters
    link: str
    number: int


class Distillation:
    """What one party knows about its block once the errors are counted."""

    def __init__(self, block: Block, observed: Observed, detections: int) -> None:
        """Raise `NoSecrecyLeft` at once if the counts leave nothing even before reconciliation leaks anything."""
        self._block = block
        self._observed = observed
        self._detections = detections
        self._secrecy: Secrecy = bound_secrecy(observed, block.parameters.protocol)
        self.secret_bits(compared=0)

    def secret_bits(self, compared: int) -> int:
        """Return ℓ after that many parities were compared, or raise `NoSecrecyLeft`.

        Each costs two bits, one per direction (`reconciliation`).
        """
        protocol = self._block.parameters.protocol
        length = secret_bits(self._secrecy, protocol, sum(self._observed.key), 2 * compared)
        if length < MINIMUM_SECRET_BITS:
            raise NoSecrecyLeft(
                f"block {self._block.number} of {self._block.link} has {length} secret bits (phase error rate"
                f" {self._secrecy.phase_error_rate:.2%}, leaked {2 * compared}): due are {MINIMUM_SECRET_BITS} or more",
                self._observed.error_rate,
            )
        return length

    def amplify(self, key: Bits, seed: Bits) -> bytes:
        """Hash the reconciled key to `len(seed) − len(key) + 1` bits; the last byte is filled with zeros."""
        return pack_bits(toeplitz_fft(key, seed))

    def finish(self, amplified: bytes, compared: int, transcript: Transcript) -> DistilledBlock:
        """Withhold the next block's authentication key, round down to whole bytes and close the books."""
        length = self.secret_bits(compared)
        end = length // 8
        ledger = self._ledger(length, 8 * (end - BLOCK_KEY_BYTES), compared, transcript)
        return DistilledBlock(ledger, Secret(amplified[BLOCK_KEY_BYTES:end]), Secret(amplified[:BLOCK_KEY_BYTES]))

    def _ledger(self, length: int, net: int, compared: int, transcript: Transcript) -> BlockLedger:
        optics, protocol = self._block.parameters.optics, self._block.parameters.protocol
        return BlockLedger(
            link=self._block.link,
            block=self._block.number,
            pulses=protocol.pulses_per_block,
            detections=self._detections,
            key_basis_bits=sum(self._observed.key),
            test_basis_bits=sum(self._observed.test),
            error_rate=self._observed.error_rate,
            vacuum_events=self._secrecy.vacuum_events,
            single_photon_events=self._secrecy.single_photon_events,
            phase_error_rate=self._secrecy.phase_error_rate,
            leaked_bits_a_to_b=compared,
            leaked_bits_b_to_a=compared,
            verification_bits=protocol.verification_bits,
            authentication_bits=AUTHENTICATION_BITS,
            epsilon_secrecy=protocol.epsilon_secrecy,
            epsilon_correctness=protocol.epsilon_correctness,
            epsilon_authentication=forgery_probability(transcript.length),
            secret_bits=length,
            net_bits=net,
            link_seconds=protocol.pulses_per_block / optics.repetition_rate_hz,
        )
