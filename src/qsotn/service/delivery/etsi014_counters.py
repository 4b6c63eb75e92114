"""What is counted of each method of ETSI GS QKD 014, as vendors of key consumers count it at their end.

Requests, failures, repetitions, and the least, mean and longest time to an answer. No SAE, no key ID, no key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

Observed = Callable[[str, int, float, bool], None]
"""Hears of every answer: the method (`status`, `enc_keys`, `dec_keys`, or `-`), the HTTP status, the seconds it took,
and whether the request was one that had been made before."""

NO_METHOD: Final = "-"
_OK: Final = 200
_REMEMBERED: Final = 4096


@dataclass(slots=True)
class MethodCount:
    """One method since the start. Seconds."""

    requests: int = 0
    failures: int = 0
    repeats: int = 0
    total_s: float = 0.0
    least_s: float = float("inf")
    longest_s: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    """How many were answered with each HTTP status."""

    @property
    def mean_s(self) -> float:
        """The mean time to an answer."""
        return self.total_s / self.requests if self.requests else 0.0


class MethodCounters:
    """Counts by method; pass `observed` to `etsi014.listen`. Belongs to one event loop."""

    def __init__(self) -> None:
        self.methods: dict[str, MethodCount] = {}

    def observed(self, method: str, status: int, seconds: float, repeated: bool) -> None:
        """Count one answer."""
        count = self.methods.setdefault(method, MethodCount())
        count.requests += 1
        count.failures += status != _OK
        count.repeats += repeated
        count.total_s += seconds
        count.least_s = min(count.least_s, seconds)
        count.longest_s = max(count.longest_s, seconds)
        count.statuses[status] = count.statuses.get(status, 0) + 1


class Repeats:
    """Recognises a request that was made before, among the latest few thousand; keeps hashes only."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()

    def seen(self, request: Hashable) -> bool:
        """Say whether a request was noted."""
        return hash(request) in self._seen

    def note(self, request: Hashable) -> None:
        """Remember a request."""
        self._seen[hash(request)] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
