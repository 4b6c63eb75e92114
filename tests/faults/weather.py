"""What a network may do to a connection, as data, and who decides when it does.

A connection is opened, and then carries *exchanges*: what the client says until it is silent and answered, and the
answer. Bytes are opaque here (they are TLS), so an exchange begins with the first bytes from the client after bytes
from the target. A `Weather` is asked once when a connection is opened and once for each exchange.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Towards(StrEnum):
    """A direction through the proxy."""

    TARGET = "target"
    CLIENT = "client"


@dataclass(frozen=True)
class Calm:
    """Nothing happens."""


@dataclass(frozen=True)
class Delay:
    """Every chunk, in both directions, is late by `seconds` and up to `jitter` more; order is kept."""

    seconds: float
    jitter: float = 0.0


@dataclass(frozen=True)
class Trickle:
    """Bytes come in pieces of `size`, with a pause of that many seconds after each."""

    size: int
    pause: float


@dataclass(frozen=True)
class Drop:
    """Both sides get a reset (RST): at once when the connection is opened, or with the next bytes."""


@dataclass(frozen=True)
class Refuse:
    """Nobody listens at the port; connections that are open go on. Only for `Always`."""


@dataclass(frozen=True)
class HalfOpen:
    """Whatever is said is swallowed, nothing is answered, both sides stay open.

    A connection that meets it when it is opened never reaches the target.
    """


@dataclass(frozen=True)
class Stall:
    """In one direction `after` bytes of the exchange pass; then the connection is half open, in both directions."""

    towards: Towards
    after: int


@dataclass(frozen=True)
class Truncate:
    """In one direction `after` bytes of the exchange pass; where more would follow, both sides are closed (FIN)."""

    towards: Towards
    after: int


@dataclass(frozen=True)
class LoseAnswer:
    """The request passes whole, the target answers, its answer is swallowed, and both sides are closed.

    The first `spare` exchanges of a connection pass unharmed: one, for the handshake of TLS 1.3.
    """

    spare: int = 0


Fault = Calm | Delay | Trickle | Drop | Refuse | HalfOpen | Stall | Truncate | LoseAnswer
AT_ACCEPT = (Drop, HalfOpen)
"""What can meet a connection before it has carried a byte."""


@dataclass(frozen=True)
class Moment:
    """When a weather is asked: at the opening of a connection, or at one of its exchanges. Both count from zero."""

    connection: int
    exchange: int | None
    """None at the opening."""
    at: float
    """Seconds since the proxy was opened."""


class Weather(Protocol):
    """Decides which fault a connection meets."""

    def meets(self, moment: Moment) -> Fault:
        """Return what happens at this moment."""


@dataclass(frozen=True)
class Always:
    """One fault, for everybody, until the weather is changed."""

    fault: Fault = field(default_factory=Calm)

    def meets(self, moment: Moment) -> Fault:
        possible = moment.exchange is not None or isinstance(self.fault, AT_ACCEPT)
        return self.fault if possible else Calm()


@dataclass(frozen=True)
class Storm:
    """Faults by a seed, each with its probability; the rest of the time nothing happens.

    What meets the n-th connection, and each of its exchanges, depends on the seed and these numbers alone, not on which
    of two connections was faster. Time is cut in periods of `period` seconds, and a period is stormy with the
    probability `stormy`: by default all are.
    """

    seed: int
    accepting: Mapping[Fault, float] = field(default_factory=dict)
    exchanging: Mapping[Fault, float] = field(default_factory=dict)
    period: float = 1.0
    stormy: float = 1.0

    def __post_init__(self) -> None:
        for odds in (self.accepting, self.exchanging):
            if any(odd < 0 for odd in odds.values()) or sum(odds.values()) > 1:
                raise ValueError(f"probabilities are positive and sum up to 1 at most, these are {list(odds.values())}")
        for allowed, odds in ((AT_ACCEPT, self.accepting), (_IN_EXCHANGE, self.exchanging)):
            strange = [fault for fault in odds if not isinstance(fault, allowed)]
            if strange:
                raise ValueError(f"{strange[0]} cannot happen there; what can: {[one.__name__ for one in allowed]}")

    def meets(self, moment: Moment) -> Fault:
        if not self.is_stormy(moment.at):
            return Calm()
        drawn = self._draw(f"{moment.connection}/{moment.exchange}")
        for fault, odd in (self.accepting if moment.exchange is None else self.exchanging).items():
            if drawn < odd:
                return fault
            drawn -= odd
        return Calm()

    def is_stormy(self, at: float) -> bool:
        """Say whether faults happen at this time."""
        return self._draw(f"period {int(at / self.period)}") < self.stormy

    def _draw(self, what: str) -> float:
        return random.Random(f"{self.seed}/{what}").random()


_IN_EXCHANGE = (Calm, Delay, Trickle, Drop, HalfOpen, Stall, Truncate, LoseAnswer)
