"""Who is served when a pool runs low: classes by priority, each with a minimum share that nobody else can take.

Units are shared as they arrive. Of what comes into the pool each class is credited its guaranteed percent, until it has
saved up that percent of the mark; all the rest is common. A class draws on the common part first.

* Above the mark everybody is served: first come, first served. What the classes have saved lies below it.
* Below the mark the lower priorities stop first. Of n classes the one at place p (0 is the highest) may draw the common
  part down to p/n of what of the mark is guaranteed to nobody; the highest may empty it. This is trunk reservation, as
  telephone networks have it.
* Its own credit is a class's to the last unit. So a class that draws what it may before more arrives gets at least its
  percent of all that arrives, however hard the others press: in whole units, and of the first `mark` units of what
  arrives at once.

What always holds: credits and common part together are exactly the units in the pool, so what is promised is never more
than what is there. Whole numbers throughout. The order of calls decides, and no clock does: a guarantee in units a
second would promise units that a link may not make.

A pool loses units in other ways too: another process gives some out, some expire. `settle` is told how many there are,
and takes what is missing from the common part first and then from every credit alike. Where as many may come as go
unseen, whoever can tell how many came says so before (`arrive`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qsotn.errors import KeyShortage, UsageError


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """A class of users of a pool, and the percent of what arrives that is its own."""

    name: str
    guaranteed_percent: int


@dataclass(frozen=True, slots=True)
class Account:
    """What one class has saved up in units, and its claim on a part of the next one, in hundredths."""

    credit: int = 0
    hundredths: int = 0


@dataclass(slots=True)
class _Account:
    """One class's account at work."""

    percent: int
    floor: int
    """Where this class stops drawing on the common part."""
    largest: int
    """What it may save up."""
    credit: int = 0
    hundredths: int = 0


class Throttle:
    """One pool's units, shared out among its classes, which are given from the highest priority down."""

    def __init__(self, classes: Sequence[ServiceClass], mark: int) -> None:
        """Begin with an empty pool; `mark` is where it counts as low, in units. Raises `UsageError`."""
        _check(classes, mark)
        self._common = 0
        largest = [mark * one.guaranteed_percent // 100 for one in classes]
        spare = mark - sum(largest)
        self._accounts = {
            one.name: _Account(one.guaranteed_percent, spare * place // len(classes), most)
            for place, (one, most) in enumerate(zip(classes, largest, strict=True))
        }

    @property
    def units(self) -> int:
        """Units in the pool, as it was last settled and drawn on."""
        return self._common + sum(account.credit for account in self._accounts.values())

    @property
    def accounts(self) -> dict[str, Account]:
        """Every class's account; what of the pool is in none of them is common."""
        return {name: Account(one.credit, one.hundredths) for name, one in self._accounts.items()}

    def resume(self, units: int, accounts: dict[str, Account]) -> None:
        """Go on from what another throttle of the same classes and mark had come to.

        What an account has more than it may have here, or than there are units, is common.
        """
        self._common = units
        for name, one in self._accounts.items():
            kept = accounts.get(name, Account())
            one.credit = min(kept.credit, one.largest, self._common)
            one.hundredths = kept.hundredths
            self._common -= one.credit

    def arrive(self, units: int) -> None:
        """Hear that units came in, whatever became of others meanwhile."""
        self._share_out(units)

    def settle(self, available: int) -> None:
        """Hear how many units are in the pool: more came, or some went without `draw`. Raises `UsageError`."""
        if available < 0:
            raise UsageError(f"a pool cannot hold {available} units: expected zero or more")
        change = available - self.units
        if change > 0:
            self._share_out(change)
        elif change < 0:
            self._take_back(-change)

    def allowance(self, name: str) -> int:
        """Return how many units a class may draw now. Raises `UsageError` for an unknown class."""
        account = self._account(name)
        return account.credit + max(0, self._common - account.floor)

    def draw(self, name: str, units: int) -> None:
        """Count units as drawn by a class, all or none. Raises `KeyShortage` when it may not have so many."""
        allowed = self.allowance(name)
        if not 0 < units <= allowed:
            raise KeyShortage(f"{name} may have {allowed} units now, and {units} were asked for")
        account = self._accounts[name]
        common = min(units, max(0, self._common - account.floor))
        self._common -= common
        account.credit -= units - common

    def _account(self, name: str) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            raise UsageError(f"there is no class {name!r}; there are {', '.join(self._accounts)}")
        return account

    def _share_out(self, arrived: int) -> None:
        self._common += arrived
        for account in self._accounts.values():
            claim = account.hundredths + arrived * account.percent
            earned = min(claim // 100, self._common)  # what is short stays claimed
            kept = min(earned, account.largest - account.credit)
            account.hundredths = claim - 100 * earned if kept == earned else 0
            account.credit += kept
            self._common -= kept

    def _take_back(self, units: int) -> None:
        common = min(units, self._common)
        self._common -= common
        missing, credited = units - common, self.units - self._common
        for account in self._accounts.values():
            # Rounded up, of what is still missing and still credited: the last account gives exactly the rest.
            taken = -(-missing * account.credit // credited) if credited else 0
            credited -= account.credit
            account.credit -= taken
            missing -= taken


def _check(classes: Sequence[ServiceClass], mark: int) -> None:
    names = [one.name for one in classes]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"the classes of a pool are {names}: expected at least one, each with a name of its own")
    for one in classes:
        if not 0 <= one.guaranteed_percent <= 100:
            raise UsageError(f"class {one.name} is guaranteed {one.guaranteed_percent} %: expected 0 to 100")
    total = sum(one.guaranteed_percent for one in classes)
    if total > 100:
        raise UsageError(f"the classes are guaranteed {total} % in all: expected at most 100")
    if mark < 0:
        raise UsageError(f"a pool is low below {mark} units: expected zero or more")
