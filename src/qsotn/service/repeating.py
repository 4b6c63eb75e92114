"""What threads that own a store have in common: a transaction that another replica was faster with is done again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from qsotn.errors import LocalError, StoreConflict

T = TypeVar("T")

ATTEMPTS: Final = 12
"""How often a transaction that collided with another replica's is tried again."""
LONGEST_PAUSE_S: Final = 0.2


class Defect(LocalError):
    """Something that no error of ours describes; its cause is chained."""


def repeated(act: Callable[[], T]) -> T:
    """Act; again, a moment later, as long as another replica is faster. Raises `StoreConflict` in the end."""
    for attempt in range(ATTEMPTS):
        try:
            return act()
        except StoreConflict:
            if attempt == ATTEMPTS - 1:
                raise
            # Two that collided once would collide again in step: chance keeps them apart.
            time.sleep(random.random() * min(LONGEST_PAUSE_S, 0.002 * 2**attempt))  # noqa: S311  (no secret)
    raise AssertionError("unreachable")


def defect(error: Exception, what: str) -> Defect:
    """Say what could not be done; the error itself is the cause, and its text, which may tell anything, not shown."""
    made = Defect(f"{what} ({type(error).__name__})")
    made.__cause__ = error
    return made
