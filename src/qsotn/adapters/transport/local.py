"""All parties in one process: bytes in, a receipt or nothing out.

A party joins with a door that takes bytes. The transport never hands out an object of one party to another, and a
door that raises gives no receipt, just as a server that answers with an error.
"""

from __future__ import annotations

from collections.abc import Callable

from qsotn.domain import PartyId
from qsotn.errors import LineError, PeerError

Door = Callable[[bytes], None]
Tap = Callable[[PartyId, PartyId, bytes], None]


class LocalTransport:
    """`ports.Transport` within one process."""

    def __init__(self) -> None:
        self._doors: dict[PartyId, Door] = {}
        self._taps: list[Tap] = []

    def join(self, party: PartyId, door: Door) -> None:
        """Let a party receive."""
        self._doors[party] = door

    def tap(self, tap: Tap) -> None:
        """Show every datagram to `tap(sender, next_hop, datagram)`, as an observer of all wires would see it."""
        self._taps.append(tap)

    def send(self, sender: PartyId, next_hop: PartyId, datagram: bytes) -> None:
        """Hand one datagram to the next hop's door. Raises `LineError` if it gives no receipt."""
        for tap in self._taps:
            tap(sender, next_hop, datagram)
        if next_hop not in self._doors:
            raise LineError(f"{next_hop} is not reachable from {sender}")
        try:
            self._doors[next_hop](datagram)
        except PeerError as error:
            raise LineError(f"{next_hop} gave no receipt: {error}") from error
