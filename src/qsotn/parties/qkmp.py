"""The quantum key management platform: the province's view of which keys its cities share.

It manages the QSSPs and supervises Iqq. It sees key IDs and counts, never keys, and refuses a report that gives one
key ID to two generations: the mark of a key network that hands out a key twice.
"""

from __future__ import annotations

import msgspec

from qsotn.domain import KeyId, LineId, PartyId
from qsotn.errors import Refusal, WrongParty
from qsotn.messages import SynchronisationReport
from qsotn.parties.desk import Collection, Desk


class QkmpConfiguration(msgspec.Struct, frozen=True):
    """The QSSPs this platform manages."""

    qssps: tuple[PartyId, ...]


class Synchronisation(msgspec.Struct, frozen=True):
    """One generation that two cities share."""

    line: LineId
    generation: int
    master: PartyId
    responder: PartyId
    key_ids: tuple[KeyId, ...]
    at: int


class Qkmp:
    """The QKMP at its desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @property
    def configuration(self) -> QkmpConfiguration:
        """The managed QSSPs."""
        return self.desk.collection("configuration", QkmpConfiguration).require("qkmp")

    @property
    def synchronisations(self) -> Collection[Synchronisation]:
        """Shared generations by `line/generation`."""
        return self.desk.collection("synchronisations", Synchronisation)

    @property
    def seen(self) -> Collection[str]:
        """Every key ID ever reported, with the line it went to."""
        return self.desk.collection("key-ids", str)

    def record(self, master: PartyId, report: SynchronisationReport) -> None:
        """Record what two managed QSSPs share. Raises `WrongParty` for a stranger, `Refusal` KEY_REUSED."""
        managed = self.configuration.qssps
        if master not in managed or report.peer not in managed:
            raise WrongParty(f"{master} and {report.peer} are not both managed by {self.desk.party}")
        for key_id in report.key_ids:
            used = self.seen.get(key_id)
            if used is not None:
                raise Refusal("KEY_REUSED", f"key {key_id} was already given to {used}")
            self.seen.put(key_id, f"{report.line}/{report.generation}")
        shared = Synchronisation(report.line, report.generation, master, report.peer, report.key_ids, self.desk.now)
        self.synchronisations.put(f"{report.line}/{report.generation:08}", shared)
