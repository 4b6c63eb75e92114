"""Who may take units of a link that runs low: leased lines first, ready pools never nothing (`keynetwork.throttle`).

Each end shares out its own half, and that alone. What a link brings is half the lines' and a quarter the pools', until
they have saved up as much of `LOW_UNITS`; the rest is for both, and is left to the lines when it runs low.

The account lies beside the blocks and is written in the transaction that takes the units. What came in since is counted
when the account does not suffice, so that a link with much in stock is not counted through for every key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from qsotn.errors import KeyShortage
from qsotn.keynetwork.throttle import Account, ServiceClass, Throttle
from qsotn.parties.desk import Collection, Desk

LINES: Final = "leased lines"
POOLS: Final = "ready pools"
CLASSES: Final = (ServiceClass(LINES, 50), ServiceClass(POOLS, 25))
LOW_UNITS: Final = 32
"""Below which a link is low. The lines' half of it is eight changes of keys, the pools' quarter the smallest supply."""


class LinkShares(msgspec.Struct, frozen=True):
    """How many units of a link were known, and by class what was saved up and claimed."""

    units: int
    accounts: dict[str, Account]


def link_shares(desk: Desk) -> Collection[LinkShares]:
    """What is shared out of each link; a link without a record begins with what it has."""
    return desk.collection("link-shares", LinkShares)


def take(desk: Desk, link: str, name: str, units: int, available: Callable[[], int]) -> None:
    """Count units of a link as taken by a class. Raises `KeyShortage` if it may not have so many.

    `available` counts what this end may still allocate.
    """
    throttle = Throttle(CLASSES, LOW_UNITS)
    kept = link_shares(desk).get(link)
    if kept is not None:
        throttle.resume(kept.units, kept.accounts)
    if throttle.allowance(name) < units:
        throttle.settle(available())
    try:
        throttle.draw(name, units)
    except KeyShortage as error:
        raise KeyShortage(f"{desk.party} has too few bits on {link}: {error}") from error
    link_shares(desk).put(link, LinkShares(throttle.units, throttle.accounts))


def forget(desk: Desk, link: str) -> None:
    """Begin anew with what is there: units that had been shared out were destroyed."""
    link_shares(desk).delete(link)
