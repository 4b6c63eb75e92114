"""The kernel that is used: the compiled one where it was built, else its twin in NumPy.

`BEST` is chosen once, when this module is imported; whoever works on many frames at once takes it, or another `Kernel`,
as an argument. The functions here put the same work on single bytes and arrays into a more convenient form.

The compiled kernel is an ordinary extension module, built when the package is installed, if there is a C compiler
(`docs/adr/0024-kernels.md`). One that was built for other functions than these is not used.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from qsotn.dataplane import kernel_numpy
from qsotn.dataplane.kernel_interface import Bytes as Bytes
from qsotn.dataplane.kernel_interface import Kernel

HISTORY: Final = 6
"""Bytes that hold the 43 bits of memory of the x⁴³+1 scrambler."""

INTERFACE: Final = 1
"""Grows whenever a function of the compiled kernel takes or returns something else."""

NUMPY: Final[Kernel] = kernel_numpy


def _compiled() -> Kernel | None:
    try:
        from qsotn.dataplane import _kernel
    except ImportError:
        return None
    # A checkout may hold one that was built before its sources changed; to call it with other arguments would not do.
    return _kernel if _kernel.INTERFACE == INTERFACE else None


COMPILED: Final = _compiled()
"""The compiled kernel, or None where it was not built."""

BEST: Final[Kernel] = NUMPY if COMPILED is None else COMPILED


def name_of(kernel: Kernel) -> str:
    """Return `compiled` or `numpy`, for what reports a speed."""
    return "numpy" if kernel is NUMPY else "compiled"


def payload_fcs(data: bytes) -> bytes:
    """Return the four bytes of G.7041's payload FCS (clause 6.1.2.2.1) over the payload information field."""
    return BEST.payload_fcs(data)


def scramble_x43(data: bytes, history: bytes) -> bytes:
    """Scramble GFP payload areas (G.7041 clause 6.1.2.3): every output bit is the input bit plus the output 43 earlier.

    `history` is the last `HISTORY` bytes of output before this call.
    """
    return BEST.scramble_x43(data, int.from_bytes(history, "big"))


def descramble_x43(data: bytes, history: bytes) -> bytes:
    """Undo `scramble_x43`; `history` is the last `HISTORY` bytes of scrambled input before this call."""
    return BEST.descramble_x43(data, int.from_bytes(history, "big"))


def parity_bip8(frames: Bytes) -> Bytes:
    """Return the BIP-8 of every OPU area: columns 15 to 3824 of all rows (G.709 clause 15.7.2.1.2).

    `frames` has the shape (n, 4, 4080) and is contiguous; the result has the shape (n,).
    """
    return np.frombuffer(BEST.parity_bip8(frames), np.uint8).copy()


def scramble_otu(frames: Bytes, out: Bytes | None = None) -> Bytes:
    """Scramble, or descramble, OTU frames of the shape (n, 4, 4080) into another array (G.709 clause 11.2)."""
    scrambled = np.empty(frames.shape, np.uint8) if out is None else out
    BEST.scramble_otu(frames, scrambled)
    return scrambled
