"""A process that must not outlive the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def end_with(parent: int) -> None:
    """Have the kernel kill this process when the process `parent`, which must have started it, ends, however it ends.

    Linux, prctl(2), PR_SET_PDEATHSIG. It is the thread that forked whose end counts, and it does not pass on to this
    process's own children: each of them has to call this as well.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent ended before the kernel was told
