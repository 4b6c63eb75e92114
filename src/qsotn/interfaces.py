"""Table 2 of the paper: the reference points, and who may sit at each end.

Read first. A `Seat` is a place in a procedure (the CPE at end A); a `Role` is a kind of party (a CPE). An interface
joins roles; a ladder (`procedures.ladder`) joins seats, and is refused at import if its interface does not join their
roles.

Two interfaces are *sealed*: on Iaq the PMP is a blind courier, and on AK the container holds keys. Their messages are
signed, then encrypted to the receiver (HPKE, RFC 9180), so that neither a courier nor a store of undelivered messages
can read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qsotn.domain import End, Role


class Seat(StrEnum):
    """A place in a procedure. Seats with an end exist once at each end of a line."""

    POMP = "pomp"
    PMP = "pmp"
    QKMP = "qkmp"
    QSSP = "qssp"
    QSSP_A = "qssp-a"
    QSSP_B = "qssp-b"
    KM = "km"
    KM_A = "km-a"
    KM_B = "km-b"
    KM_NEAR = "km-near"
    KM_FAR = "km-far"
    CPE = "cpe"
    CPE_A = "cpe-a"
    CPE_B = "cpe-b"

    @property
    def role(self) -> Role:
        """The role that a party in this seat must have."""
        return Role(self.value.partition("-")[0])

    @property
    def end(self) -> End | None:
        """The end of the line this seat stands at, if it stands at one."""
        suffix = self.value.partition("-")[2]
        return End(suffix) if suffix in {"a", "b"} else None


@dataclass(frozen=True)
class Interface:
    """One reference point: its name, the roles it joins, what it carries and how it is protected."""

    name: str
    joins: tuple[tuple[Role, Role], ...]
    carries: str
    courier: Role | None = None
    sealed: bool = False

    def connects(self, one: Role, other: Role) -> bool:
        """Say whether these two roles may speak over this interface."""
        return (one, other) in self.joins or (other, one) in self.joins


AK = Interface("AK", ((Role.QSSP, Role.KM),), "key request and supply, ETSI GS QKD 014", sealed=True)
IQSSP = Interface("Iqssp", ((Role.PMP, Role.QSSP),), "operation and authentication; the PMP is a party")
IOQ = Interface("Ioq", ((Role.POMP, Role.QSSP),), "binding, encrypted-service management, key-usage records")
IOA = Interface("Ioa", ((Role.POMP, Role.PMP),), "authentication, leased-line management, billing usage")
IAQ = Interface("Iaq", ((Role.CPE, Role.QSSP),), "key file and session keys, end to end", courier=Role.PMP, sealed=True)
AX = Interface("Ax", ((Role.CPE, Role.PMP),), "vendor-private; here one typed driver interface")
IQQ = Interface(
    "Iqq", ((Role.QSSP, Role.QSSP), (Role.QSSP, Role.QKMP)), "our extension: key IDs and activation, never key material"
)
KX = Interface("Kx", ((Role.KM, Role.KM),), "inside the QKDN: relay between key managers (ITU-T Y.3802)")
LINE = Interface("line", ((Role.CPE, Role.CPE),), "the OTN line itself: GCC1 and GCC2, and the encrypted OPUk payload")

TABLE_2 = (AK, IQSSP, IOQ, IOA, IAQ, AX)
EXTENSIONS = (IQQ, KX, LINE)
BY_NAME = {interface.name: interface for interface in TABLE_2 + EXTENSIONS}
