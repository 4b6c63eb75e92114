"""What became of what a node was given, and who is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from qsotn.domain import ProcedureId
from qsotn.errors import PeerError
from qsotn.procedures.turn import Row
from qsotn.runtime.batch import Accepted

T = TypeVar("T")


@dataclass(frozen=True)
class Intake:
    """What became of several datagrams, by position: the procedure each belongs to, or why it was refused."""

    taken: dict[int, ProcedureId]
    refused: dict[int, PeerError]


@dataclass(frozen=True)
class Begun(Generic[T]):
    """What became of several local commands, by position: the result of each, or what it raised."""

    results: dict[int, T]
    failed: dict[int, Exception]


class Observer(Protocol):
    """Who is told what a node committed. Nothing it does may raise: what it hears of has happened."""

    def accepted(self, step: Accepted) -> None:
        """A step was accepted here."""

    def ended(self, row: Row) -> None:
        """This party's part of a procedure is over, well or not."""

    def refused(self, error: PeerError) -> None:
        """A datagram was refused; nothing changed."""


class Unobserved:
    """Nobody watches."""

    def accepted(self, step: Accepted) -> None:
        """Ignore it."""

    def ended(self, row: Row) -> None:
        """Ignore it."""

    def refused(self, error: PeerError) -> None:
        """Ignore it."""
