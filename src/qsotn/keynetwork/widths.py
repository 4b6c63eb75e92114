"""How good a link is for the supplies of one key manager: a rank, by which `routing.widest_path` prefers ways.

The *width* of a link is the bits that supplies may count on, P + min(P, R·H): those there are, P, and as many again if
they are made within the horizon H at the rate R. What will be made counts for no more than what is there, because a
hop without bits fails a supply at once; a rate only says how soon what is taken is replaced. So an empty link has no
width, whatever its rate, and a full one has up to twice its pool.

Widths are compared in steps of four, up to what fills a whole pool of ready keys, because a way that is a little wider
is not worth a longer one: a key costs its own length on every link. Steps also keep origins from changing over together
with every reading, as do two more rules:

- each origin sees each link up to half narrower than it is, by a factor of its own that never changes, so that a link
  that runs low is left by one origin after the other and not by all at once;
- a way that is in use counts double, so that it is left only when it is clearly the worse one, by a factor of two.

Below all widths are reasons to avoid a link where there is another way. An error rate above `NOISY_QBER` is one; its
bits were distilled before, and are good, but nothing more may come. Above `BARRED_QBER` a link is on no way at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from fractions import Fraction
from typing import Final

from qsotn.domain import PartyId
from qsotn.keynetwork.routing import HORIZON_S
from qsotn.keynetwork.topology import Link, Topology

NOISY_QBER: Final = 0.05
"""If nobody says otherwise: well above what a link shows by itself, and little or no key comes of more."""
BARRED_QBER: Final = 0.08
"""Where a block is abandoned (`quantum.parameters.DecoyProtocol.max_error_rate`): somebody may know all of the key."""
COMMON_READY_KEYS: Final = 512
"""Units of a full pool if nobody says otherwise, and what leased lines compare widths with."""
STEP: Final = 4
_FAVOUR: Final = 2


class Avoided(IntEnum):
    """Why a link is on a way only if there is no other; the first is avoided the most. All are below any width."""

    FAILED = 0
    """A supply has failed at it lately."""
    DRY = 1
    """It has too few bits for the smallest supply."""
    NOISY = 2
    """Its error rate is raised, or no key comes of its light now."""
    UNSEEN = 3
    """An end of it does not answer the QKMP, or the ends disagree about their blocks."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a link; of what nothing is known, the best is believed.

    `pool_bits` are those of the emptier end, or of the end that will draw. `rate_bits_s` is that of both ends together:
    each draws from its own half. `avoided` are the reasons known so far.
    """

    pool_bits: int | None = None
    rate_bits_s: float = 0.0
    qber: float | None = None
    avoided: frozenset[Avoided] = frozenset()

    @property
    def barred(self) -> bool:
        """Whether it is on no way at all."""
        return self.qber is not None and self.qber > BARRED_QBER

    def also(self, reason: Avoided) -> Measured:
        """Return it with one more reason to avoid it."""
        return replace(self, avoided=self.avoided | {reason})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What supplies take of a link, in bits: the smallest one, and as many as fill a whole pool."""

    least_bits: int
    full_bits: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What the supplies of one origin take: of the links that end there, and of all others, which give only pads."""

    origin: PartyId
    own: Wanted
    others: Wanted

    def of(self, link: Link) -> Wanted:
        """Return what they take of a link."""
        return self.own if self.origin in link.ends else self.others


UNKNOWN: Final = Measured()


def width_bits(pool_bits: int, rate_bits_s: float, horizon_s: int = HORIZON_S) -> int:
    """Return the width of a link: its bits, and those that replace them within the horizon, at most as many again.

    `pool_bits` and `rate_bits_s` are those of one end, or both those of both ends.
    """
    return pool_bits + min(pool_bits, int(rate_bits_s * horizon_s))


def reasons(link: Measured, wanted: Wanted) -> frozenset[Avoided]:
    """Return every reason to avoid a link."""
    dry = link.pool_bits is not None and link.pool_bits < wanted.least_bits
    return link.avoided | ({Avoided.DRY} if dry else set())


def rank(link: Measured, wanted: Wanted, factor: Fraction = Fraction(1)) -> int:
    """Return how good a link is: below `len(Avoided)` if it is to be avoided, else more for a wider one."""
    if found := reasons(link, wanted):
        return min(found)
    if link.pool_bits is None:
        return len(Avoided) + _steps(wanted.full_bits, wanted.full_bits)
    width = width_bits(link.pool_bits, link.rate_bits_s / 2)
    return len(Avoided) + _steps(int(width * factor), wanted.full_bits)


def _steps(width: int, full_bits: int) -> int:
    """Return 3 for a width that fills a pool, 2 and 1 for a quarter and a sixteenth of it, and 0 for less."""
    return sum(width * STEP**power >= full_bits for power in range(3))


def own_factor(origin: PartyId, link: str) -> Fraction:
    """Return by how much narrower one origin sees a link, from 1/2 to 1: the same for ever, and different for all."""
    drawn = hashlib.sha256(f"{origin} {link}".encode()).digest()[0]
    return Fraction(256 + drawn, 512)


def ranked(
    topology: Topology,
    known: Mapping[str, Measured],
    needs: Needs,
    favoured: Collection[str] = (),
) -> Topology:
    """Return a network whose links are as wide as their ranks, for `widest_path` with a horizon of 0.

    `favoured` are the links of the way in use. Barred ones are down.
    """
    links = (_ranked(link, known.get(link.name, UNKNOWN), needs, favoured) for link in topology.links)
    return Topology(topology.managers, tuple(links))


def _ranked(link: Link, known: Measured, needs: Needs, favoured: Collection[str]) -> Link:
    factor = own_factor(needs.origin, link.name) * (_FAVOUR if link.name in favoured else 1)
    width = rank(known, needs.of(link), factor)
    return replace(link, pool_bits=width, rate_bits_s=0, up=link.up and not known.barred)
