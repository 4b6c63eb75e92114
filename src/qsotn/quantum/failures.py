"""How a block fails. Whatever the reason, no key bit leaves Alice or Bob.

A `KeyShortage` is the link's own condition: the caller distils another block or does without. A `PeerError` means
that the classical channel carried something the other party did not say.
"""

from __future__ import annotations

from qsotn.errors import BadProof, KeyShortage, PeerError


class NoKey(KeyShortage):
    """The light gives no key now. `error_rate` is the QBER it showed, or None where too little was seen to count."""

    def __init__(self, message: str, error_rate: float | None = None) -> None:
        super().__init__(message)
        self.error_rate = error_rate


class TooFewDetections(NoKey):
    """The detectors clicked too rarely to estimate anything: fibre cut, light blocked, or a block that is too short."""


class TooManyErrors(NoKey):
    """The error rate of the test basis is above the limit: misalignment, or someone measures the light."""


class NoSecrecyLeft(NoKey):
    """What an eavesdropper may know leaves nothing to distil after the next block's authentication is paid for."""


class ContradictoryParities(PeerError):
    """The parities received fit no key: one search corrected a bit that another had corrected before."""


class VerificationFailed(KeyShortage):
    """The reconciled keys still differ: their universal hashes do (probability small, never zero, with Cascade)."""


class AuthenticationFailed(BadProof):
    """The tag over the transcript does not verify: the parties did not hear the same exchange."""


class ExchangeCutShort(PeerError):
    """The classical channel fell silent before both parties had finished: a message was lost or removed."""
