"""A batch of operations, sorted by kind: what they need before their transaction begins, and the order they take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from qsotn.adapters.keystore.assigning import assign, confirm, void
from qsotn.adapters.keystore.collecting import collect
from qsotn.adapters.keystore.depositing import deposit
from qsotn.adapters.keystore.reserving import reserve
from qsotn.adapters.keystore.sweeping import sweep
from qsotn.adapters.keystore.work import Work
from qsotn.keynetwork.delivery import (
    UNIT_BITS,
    Assign,
    Collect,
    Confirm,
    Deposit,
    Operation,
    Pool,
    Reserve,
    Sweep,
    Void,
)

Kinds = dict[type[Operation], list[Any]]
"""Operations with their positions, by kind."""
_TIMED: Final = (Reserve, Assign, Collect, Sweep)
_LONG: Final = (Deposit, Sweep)
FEW_KEYS: Final = 512
"""What is done for so many takes a few milliseconds."""
_KINDS: Final[tuple[tuple[type[Operation], Callable[[Work, list[Any]], None]], ...]] = (
    (Deposit, deposit),
    (Reserve, reserve),
    (Assign, assign),
    (Confirm, confirm),
    (Void, void),
    (Collect, collect),
    (Sweep, sweep),
)
"""In the order in which they are done."""


def by_kind(operations: Sequence[Operation]) -> Kinds:
    """Sort operations, and keep the order of those of a kind."""
    kinds: Kinds = defaultdict(list)
    for indexed in enumerate(operations):
        kinds[type(indexed[1])].append(indexed)
    return kinds


def do_all(work: Work, kinds: Kinds) -> None:
    """Do operations, kind by kind."""
    for kind, do in _KINDS:
        if kind in kinds:
            do(work, kinds[kind])


def latest(kinds: Kinds, before: int) -> int:
    """Return the latest time that an operation names, or one before that is later."""
    times: list[int] = [one.now for kind in _TIMED for _, one in kinds.get(kind, ())]
    return max([before, *times])


def pools(kinds: Kinds) -> list[Pool]:
    """Return the pools that operations may begin."""
    return [one.pool for _, one in kinds.get(Deposit, ())]


def audiences(kinds: Kinds) -> list[tuple[str, tuple[str, ...]]]:
    """Return the masters and slaves that operations name to each other."""
    return [(one.master, one.slaves) for kind in (Reserve, Assign) for _, one in kinds.get(kind, ())]


def is_short(kinds: Kinds) -> bool:
    """Whether operations are done with a few statements about a few keys."""
    return kinds.keys().isdisjoint(_LONG) and not wraps(kinds) and _keys(kinds) <= FEW_KEYS


def _keys(kinds: Kinds) -> int:
    return sum(one.number if kind is Reserve else len(one.key_ids) for kind, its in kinds.items() for _, one in its)


def wraps(kinds: Kinds) -> bool:
    """Whether anything may have to be wrapped."""
    return (
        Deposit in kinds
        or any(one.size > UNIT_BITS for kind in (Reserve, Assign) for _, one in kinds.get(kind, ()))
        or any(one.sealed for _, one in kinds.get(Assign, ()))
    )
