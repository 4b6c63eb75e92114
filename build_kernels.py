"""Compile the project's C sources into extension modules, where there is a C compiler.

    python build_kernels.py

Called by `hatch_build.py` whenever the package is built or installed; by hand after a change to a C source. A machine
without a compiler, or without Python's headers, gets a package without them: Python code does the same more slowly.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# Python's own flags are not taken over: they may name compilers and options of the machine that Python was built on.
FLAGS = ("-std=c11", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra")
OPTIMISED = ("-O3", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-Wl,-z,relro,-z,now")
SECONDS = 300.0
"""For one module; a compiler that takes longer is stopped."""


class NotCompiled(Exception):
    """There is no compiler, or it refused; the text says which."""


@dataclass(frozen=True)
class Extension:
    """One extension module and the folder that holds all of its C sources."""

    module: Path
    """Without its ending."""
    sources: Path

    def files(self) -> list[Path]:
        """Return its C sources and headers, sorted by name."""
        return sorted(path for path in self.sources.iterdir() if path.suffix in {".c", ".h"})

    def digest(self) -> str:
        """Return what changes with any of its files; the module carries it as `SOURCE`."""
        total = hashlib.sha256()
        for path in self.files():
            total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return total.hexdigest()

    @property
    def library(self) -> Path:
        """Where it is imported from: beside the Python modules, for every CPython from 3.11 on."""
        return self.module.with_name(f"{self.module.name}.abi3.so")


EXTENSIONS = (Extension(ROOT / "src/qsotn/dataplane/_kernel", ROOT / "src/qsotn/dataplane/native"),)


def compiler() -> str:
    """Return the C compiler: `CC`, else `cc`. Raises `NotCompiled` where there is none."""
    named = os.environ.get("CC", "cc").split()[0]
    found = shutil.which(named)
    if found is None:
        raise NotCompiled(f"no C compiler: {named} is not on the PATH")
    return found


def compile_extension(extension: Extension, library: Path, flags: tuple[str, ...] = OPTIMISED) -> None:
    """Compile an extension module to `library`; raises `NotCompiled`, and leaves what was there, if it fails."""
    unfinished = library.with_name(f".{library.name}.{os.getpid()}")
    command = [
        compiler(),
        *FLAGS,
        *flags,
        f'-DQSOTN_SOURCE="{extension.digest()}"',
        f"-I{sysconfig.get_paths()['include']}",
        *(str(path) for path in extension.files() if path.suffix == ".c"),
        "-shared",
        "-o",
        str(unfinished),
    ]
    try:
        # The command is made here, of this folder's files and the compiler that the caller chose.
        shown = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=SECONDS
        )
        if shown.returncode != 0:
            lines = shown.stderr.strip().splitlines() or ["no message"]
            raise NotCompiled(next((line for line in lines if "error" in line), lines[-1]))
        # Under its name only when whole: another process may import it at any time.
        unfinished.replace(library)
    except subprocess.TimeoutExpired:
        raise NotCompiled(f"the compiler did not end within {SECONDS:.0f} s") from None
    finally:
        unfinished.unlink(missing_ok=True)


def compile_all() -> list[Path]:
    """Compile every extension beside the modules that import it; return the libraries.

    Raises `NotCompiled`, after removing libraries of an earlier build: they may be of other sources.
    """
    try:
        for extension in EXTENSIONS:
            compile_extension(extension, extension.library)
    except NotCompiled:
        for extension in EXTENSIONS:
            extension.library.unlink(missing_ok=True)
        raise
    return [extension.library for extension in EXTENSIONS]


if __name__ == "__main__":
    try:
        for made in compile_all():
            sys.stdout.write(f"{made.relative_to(ROOT)}\n")
    except NotCompiled as problem:
        sys.exit(f"build_kernels.py: {problem}")
