"""Who is served when a pool runs low: classes by priority, each with a minimum share that nobody else can take.

Units are shared as they arrive. Of what comes into the pool each class is credited its guaranteed percent; what is
guaranteed to nobody, or exceeds what a class may save up, is common. A class draws on the common part first.

* While the common part is well filled, everybody is served: first come, first served.
* Below the mark the lower priorities stop first. Of n classes the one at place p (0 is the highest) may draw the common
  part down to mark·p/n; the highest may empty it. This is trunk reservation, as telephone networks have it.
* Its own credit is a class's to the last unit. So a class that draws what it may before more arrives gets at least its
  percent of all that arrives, less at most a unit for each class (units are whole), however hard the others press. One
  that does not ask saves up to its percent of the mark, or of the last arrival if that was more.

What always holds: credits and common part together are exactly the units in the pool, so what is promised is never more
than what is there. Whole numbers throughout. The order of calls decides, and no clock does: a guarantee in units a
second would promise units that a link may not make.

A pool loses units in other ways too: another process gives some out, some expire. `settle` is told how many there are
before every round, and takes what is missing from the common part first and then from every credit alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qsotn.errors import Refusal, UsageError


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """A class of users of a pool, and the percent of what arrives that is its own."""

    name: str
    guaranteed_percent: int


@dataclass(slots=True)
class _Account:
    """One class's credit in units, and its claim on parts of a unit, in hundredths."""

    service: ServiceClass
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
        self._accounts = {
            service.name: _Account(service, mark * place // len(classes), mark * service.guaranteed_percent // 100)
            for place, service in enumerate(classes)
        }

    @property
    def units(self) -> int:
        """Units in the pool, as it was last settled and drawn on."""
        return self._common + sum(account.credit for account in self._accounts.values())

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
        """Count units as drawn by a class, all or none. Raises `Refusal` KEY_SHORTAGE when it may not have so many."""
        allowed = self.allowance(name)
        if not 0 < units <= allowed:
            raise Refusal("KEY_SHORTAGE", f"class {name} may draw at most {allowed} units now, and asked for {units}")
        account = self._account(name)
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
            claim = account.hundredths + arrived * account.service.guaranteed_percent
            earned = min(claim // 100, self._common)  # what is short stays claimed
            account.hundredths = claim - 100 * earned
            kept = max(earned, min(account.credit + earned, account.largest))
            self._common -= kept - account.credit
            account.credit = kept

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
    names = [service.name for service in classes]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"the classes of a pool are {names}: expected at least one, each with a name of its own")
    for service in classes:
        if not 0 <= service.guaranteed_percent <= 100:
            raise UsageError(f"class {service.name} is guaranteed {service.guaranteed_percent} %: expected 0 to 100")
    total = sum(service.guaranteed_percent for service in classes)
    if total > 100:
        raise UsageError(f"the classes are guaranteed {total} % in all: expected at most 100")
    if mark < 0:
        raise UsageError(f"a pool is low below {mark} units: expected zero or more")
