"""The kernels that this machine has, for tests to be run with each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from qsotn.dataplane import kernel
from qsotn.dataplane.kernel_interface import Kernel

LEVELS: Final = {"words": 0, "avx2": 1, "avx512": 2}
"""What the compiled kernel may use of the processor; a level that the processor has not is its highest."""
KERNELS: Final = ["numpy", *(LEVELS if kernel.COMPILED is not None else ())]


@contextmanager
def kernel_named(name: str) -> Iterator[Kernel]:
    """Yield a kernel of `KERNELS`; the compiled one is back at its highest level afterwards."""
    if name == "numpy":
        yield kernel.NUMPY
        return
    from qsotn.dataplane import _kernel

    _kernel.limit_level(LEVELS[name])
    try:
        yield _kernel
    finally:
        _kernel.limit_level(max(LEVELS.values()))
