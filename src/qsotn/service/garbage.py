"""When a process of ours looks for garbage in cycles.

Python does so after every 700 objects that may hold others, and a request makes dozens that are gone by reference
counting before anybody looks. So it looks at what it must keep, again and again; in `qsotn bench keys` that shows.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 20_000
"""Objects that may hold others, made and not destroyed since the last look: some megabytes."""
MIDDLE: Final = 20
OLD: Final = 50


def collect_rarely() -> None:
    """Leave alone what has been made so far, and look at the rest less often. To be called once a process is ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
