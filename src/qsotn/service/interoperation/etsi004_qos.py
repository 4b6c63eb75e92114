"""What quality of service a key manager can promise a stream of ETSI GS QKD 004, and the counter-offer if it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from qsotn.service.interoperation.etsi004_messages import METADATA_MIMETYPE, QoS

LEAST_JITTER_MS: Final = 100
"""A chunk may wait for a commit at two key managers."""
LONGEST_TIMEOUT_MS: Final = 8_000
"""A client of HTTP would give up before; a stream's function is bounded by this also where no timeout is asked for."""
LONGEST_TTL_S: Final = 24 * 3600
DEFAULT_TTL_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Capability:
    """What may be asked of one pair of key managers: chunks in bytes, and bits per second that nobody was promised."""

    smallest_chunk: int
    largest_chunk: int
    free_bps: int


def offered(asked: QoS, can: Capability) -> QoS:
    """Return the QoS nearest to what is asked that can be kept, with a value for everything that was left open."""
    max_bps = min(asked.max_bps or can.free_bps, can.free_bps)
    return replace(
        asked,
        chunk_size=min(max(asked.chunk_size or 32, can.smallest_chunk), can.largest_chunk),
        max_bps=max_bps,
        min_bps=min(asked.min_bps, max_bps),
        jitter=max(asked.jitter, LEAST_JITTER_MS) if asked.jitter else 0,
        timeout=min(asked.timeout, LONGEST_TIMEOUT_MS),
        ttl=min(asked.ttl or DEFAULT_TTL_S, LONGEST_TTL_S),
        mimetype=METADATA_MIMETYPE,
    )


def is_met(asked: QoS, offer: QoS) -> bool:
    """Whether an offer is what was asked for, parameters that were left open aside."""
    pairs = (
        (asked.chunk_size, offer.chunk_size),
        (asked.max_bps, offer.max_bps),
        (asked.min_bps, offer.min_bps),
        (asked.jitter, offer.jitter),
        (asked.timeout, offer.timeout),
        (asked.ttl, offer.ttl),
        (asked.mimetype, offer.mimetype),
    )
    return offer.max_bps > 0 and all(wanted in (0, "", given) for wanted, given in pairs)
