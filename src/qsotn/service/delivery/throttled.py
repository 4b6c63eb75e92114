"""Lines of the log that strangers can cause: each at once, and then once a second with how many were left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

LOG_EVERY_S: Final = 1.0


class Throttled:
    """What was told of each event and cause, and when."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def tell(self, say: Callable[..., Any], event: str, cause: str = "", **facts: object) -> None:
        """Log an event; `cause` is one of few, and `unsaid` counts those left out since the line before."""
        now = time.monotonic()
        last, unsaid = self._told.get((event, cause), (-LOG_EVERY_S, 0))
        if now - last < LOG_EVERY_S:
            self._told[event, cause] = (last, unsaid + 1)
            return
        self._told[event, cause] = (now, 0)
        say(event, **facts, unsaid=unsaid)
