"""The account of one block: what was sent, seen, leaked and spent, and what is left. It holds no key bits."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from qsotn.domain import Secret


class BlockLedger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One party's books for one block; each party writes its own from its own view.

    `secret_bits` is ℓ of Lim et al., in which leakage and verification are already paid. Of these,
    `authentication_bits` are withheld for the next block and the last few fall to rounding: `net_bits` is the key.
    """

    link: str
    block: int
    pulses: int
    detections: int
    key_basis_bits: int
    """Sifted X bits, n_X."""
    test_basis_bits: int
    """Sifted Z bits, n_Z."""
    error_rate: float
    """QBER of the test basis, a fraction."""
    vacuum_events: float
    """Lower bound s_X,0."""
    single_photon_events: float
    """Lower bound s_X,1."""
    phase_error_rate: float
    """Upper bound φ_X."""
    leaked_bits_a_to_b: int
    """Parities Alice answered."""
    leaked_bits_b_to_a: int
    """Comparisons Bob's questions gave away."""
    verification_bits: int
    authentication_bits: int
    epsilon_secrecy: float
    epsilon_correctness: float
    epsilon_authentication: float
    secret_bits: int
    net_bits: int
    link_seconds: float
    """Simulated: pulses divided by the repetition rate."""

    @property
    def net_bits_per_second(self) -> float:
        """The key rate of the simulated link."""
        return self.net_bits / self.link_seconds


@dataclass(frozen=True)
class DistilledBlock:
    """One party's outcome: its key (`net_bits` long) and the key that authenticates the next block."""

    ledger: BlockLedger
    key: Secret
    next_authentication: Secret
