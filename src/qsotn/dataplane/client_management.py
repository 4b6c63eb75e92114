"""Client management frames (ITU-T G.7041 clause 6.2, G.806 clause 6.2.6.4): the far end is told that a client fails.

`ClientFailSource` says when to send which frame, `ClientFailSink` is dCSF. Time enters as an argument, in seconds since
whatever the caller counts from.
"""

from __future__ import annotations

from typing import Final

from qsotn.dataplane.gfp_types import Management, PayloadType, TypeField, payload_area
from qsotn.errors import UsageError

FAILURES: Final = frozenset({Management.LOSS_OF_SIGNAL, Management.LOSS_OF_SYNCHRONISATION})

SEND_INTERVAL: Final = 0.1
"""Seconds between two client signal fail frames; the standard wants 100 ms to 1 s."""
CLEAR_AFTER: Final = 3.0
"""Seconds without one after which the failure is over: three times the longest interval."""


def management_area(kind: Management) -> bytes:
    """Return the payload area of a client management frame: no information, no payload FCS."""
    return payload_area(TypeField(PayloadType.CLIENT_MANAGEMENT, has_fcs=False, user_payload=kind), b"")


class ClientFailSource:
    """Repeats a client's failure to the far end, and its end once."""

    def __init__(self) -> None:
        self._failure: Management | None = None
        self._sent_at: float | None = None
        self._clear_due = False

    def set(self, failure: Management | None) -> None:
        """Note that the client signal fails in that way, or, with None, that it does not."""
        if failure is not None and failure not in FAILURES:
            raise UsageError(f"{failure.name} is no client signal fail: expected one of {sorted(FAILURES)}")
        if failure != self._failure:
            self._sent_at = None
            self._clear_due = self._failure is not None and failure is None
        self._failure = failure

    def due(self, now: float) -> bytes | None:
        """Return the payload area to send now, if any."""
        if self._clear_due:
            self._clear_due = False
            return management_area(Management.DEFECT_CLEAR)
        if self._failure is None or (self._sent_at is not None and now - self._sent_at < SEND_INTERVAL):
            return None
        self._sent_at = now
        return management_area(self._failure)


class ClientFailSink:
    """dCSF: declared by the first client signal fail frame.

    Cleared by a defect clear indication, by a client data frame, or three seconds after the last such frame.
    """

    def __init__(self) -> None:
        self.declared: Management | None = None
        """The failure that the far end named last."""
        self._heard_at = 0.0

    def take_management(self, user_payload: int, now: float) -> None:
        """Take a client management frame whose checks held; kinds that say nothing of the client change nothing."""
        if user_payload == Management.DEFECT_CLEAR:
            self.declared = None
        elif user_payload in FAILURES:
            self.declared = Management(user_payload)
            self._heard_at = now

    def take_client_frame(self) -> None:
        """Take that a client data frame came whole."""
        self.declared = None

    def elapse(self, now: float) -> None:
        """Take that it is now so late."""
        if self.declared is not None and now - self._heard_at >= CLEAR_AFTER:
            self.declared = None
