"""What a line terminal reports: events as they happen, counters as snapshots, alarms as a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from qsotn.dataplane.gfp_delineation import GfpCounters
from qsotn.domain import KeyId


class Alarm(StrEnum):
    """Conditions that last."""

    LOSS_OF_FRAME = "LOF"
    """No frame alignment for 3 ms (G.798 dLOF)."""
    NO_KEY = "NO-KEY"
    """Nothing to encrypt with: the null client is sent, client frames wait."""
    AUTHENTICATION_FAILURE = "AEAD-FAIL"
    """Received multiframes do not authenticate."""
    KEY_MISMATCH = "KEY-MISMATCH"
    """The far end announces or uses other keys than this end holds."""
    BACKWARD_DEFECT = "BDI"
    """The far end says that what it receives fails (G.798 dBDI)."""


@dataclass(frozen=True)
class PeerArmed:
    """The far end proved that it holds both keys of a generation installed here."""

    generation: int


@dataclass(frozen=True)
class PeerConfirmed:
    """The far end said, under proof, that it has seen this end's proof: both ends know of each other."""

    generation: int


@dataclass(frozen=True)
class Switched:
    """From this multiframe on, this end sends under another generation."""

    generation: int
    key_id: KeyId
    """The key it sends under."""


@dataclass(frozen=True)
class Encrypted:
    """The first authentic multiframe was both sent and received under a generation."""

    generation: int


@dataclass(frozen=True)
class KeyErased:
    """A generation is gone from this end."""

    generation: int
    key_ids: tuple[KeyId, ...]


@dataclass(frozen=True)
class AlarmRaised:
    """A lasting condition began."""

    alarm: Alarm


@dataclass(frozen=True)
class AlarmCleared:
    """A lasting condition ended."""

    alarm: Alarm


Event = PeerArmed | PeerConfirmed | Switched | Encrypted | KeyErased | AlarmRaised | AlarmCleared


@dataclass(frozen=True)
class KeyUse:
    """How much one key has carried at this end."""

    multiframes: int = 0
    frames: int = 0
    """OTU frames, four a multiframe."""


@dataclass(frozen=True)
class Counters:
    """Everything a terminal has counted since it was made."""

    frames_sent: int = 0
    frames_received: int = 0
    """OTU frames found in the received signal."""
    multiframes_sent: int = 0
    multiframes_received: int = 0
    null_multiframes_sent: int = 0
    """Multiframes sent without encryption, because there was nothing to send but zeros."""
    null_multiframes_received: int = 0
    section_violations: int = 0
    """SM BIP-8 violations in the received signal."""
    path_violations: int = 0
    """PM BIP-8 violations in the received signal."""
    far_end_violations: int = 0
    """PM BIP-8 violations that the far end reported back (BEI)."""
    authentication_failures: int = 0
    """Received multiframes that did not authenticate; nothing of them was used."""
    replays: int = 0
    """Authentic multiframes received again or too late; nothing of them was used."""
    missing_multiframes: int = 0
    """Encrypted multiframes that the counter says were sent but that were never accepted."""
    proof_failures: int = 0
    """Announcements over the GCC that prove nothing."""
    out_of_frame: int = 0
    out_of_multiframe: int = 0
    client_frames_in: int = 0
    client_bytes_in: int = 0
    """Offered here and accepted into the queue."""
    client_frames_out: int = 0
    client_bytes_out: int = 0
    """Received from the far end and handed out in order."""
    gfp: GfpCounters = field(default_factory=GfpCounters)
    sent_under: Mapping[KeyId, KeyUse] = field(default_factory=dict)
    received_under: Mapping[KeyId, KeyUse] = field(default_factory=dict)
