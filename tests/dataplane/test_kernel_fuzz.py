"""The compiled kernel under sanitizers, driven with hostile input in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import build_kernels
import pytest

SANITIZERS = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
WORDS_ONLY = ("-O0", "-g", "-fsanitize=address", "-DQSOTN_PORTABLE")
"""Compiled in a third of the time: enough to see that a fault is seen."""
ROUNDS = 200


def sanitizer_runtime() -> str:
    """Return the path of AddressSanitizer's runtime: it must be loaded before anything that it is to watch."""
    try:
        compiler = build_kernels.compiler()
    except build_kernels.NotCompiled as reason:
        pytest.skip(str(reason))
    shown = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    runtime = shown.stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("the C compiler has no AddressSanitizer")
    return runtime


def driven(library: Path, runtime: str, seed: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.dataplane.hostile_kernel_calls", str(library), str(seed), str(ROUNDS)]
    settings = {
        "LD_PRELOAD": runtime,
        # Python itself leaves memory to the end of the process; its own allocator would hide the ends of buffers.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "PYTHONMALLOC": "malloc",
    }
    root = str(build_kernels.ROOT)
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=root, env=os.environ | settings, timeout=300
    )


@pytest.fixture(scope="module")
def runtime() -> str:
    return sanitizer_runtime()


def test_hostile_input_touches_nothing_outside_its_buffers(tmp_path: Path, runtime: str) -> None:
    (extension,) = build_kernels.EXTENSIONS
    library = tmp_path / "_kernel.abi3.so"
    build_kernels.compile_extension(extension, library, SANITIZERS)
    shown = driven(library, runtime, seed=1)
    assert shown.returncode == 0, shown.stderr[-3000:]


def test_the_sanitizers_would_have_seen_it(tmp_path: Path, runtime: str) -> None:
    """One bound is taken out of a copy of the sources: the same calls must then end in a report."""
    (extension,) = build_kernels.EXTENSIONS
    sources = tmp_path / "sources"
    sources.mkdir()
    for path in extension.files():
        (sources / path.name).write_bytes(path.read_bytes())
    gfp = sources / "gfp.c"
    guarded = "room - written < CORE_SIZE + length"
    assert guarded in gfp.read_text()
    gfp.write_text(gfp.read_text().replace(guarded, "0"))
    library = tmp_path / "_kernel.abi3.so"
    build_kernels.compile_extension(build_kernels.Extension(extension.module, sources), library, WORDS_ONLY)
    shown = driven(library, runtime, seed=1)
    assert shown.returncode != 0
    assert "AddressSanitizer" in shown.stderr
