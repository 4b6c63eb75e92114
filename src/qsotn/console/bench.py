"""What `qsotn bench` prints: a table for people, or one JSON object."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from qsotn.app.bench import procedures
from qsotn.app.bench.procedures import ProcedureBenchmark, Tell
from qsotn.console.columns import aligned
from qsotn.errors import UsageError
from qsotn.service.config import LogSection
from qsotn.service.observability import configure_logging

MOST_CPES = 100_000


def run_procedures(cpes: str, lines: int, concurrency: int, *, as_json: bool) -> None:
    """Measure procedures and print the result. Raises `UsageError` for sizes that are none."""
    sizes = _sizes(cpes, lines)
    configure_logging(LogSection(level="error"), "bench")
    with progress() as tell:
        measured = procedures.run(sizes, lines, concurrency, tell)
    if as_json:
        sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")
    else:
        print("\n".join(_lines(measured)))


def _sizes(cpes: str, lines: int) -> list[int]:
    try:
        sizes = [int(size) for size in cpes.split(",")]
    except ValueError:
        raise UsageError(f"--cpes {cpes!r}: expected whole numbers with commas between, for example 100,1000") from None
    if sizes != sorted(set(sizes)) or not 2 * lines <= sizes[-1] <= MOST_CPES or sizes[0] < 1:
        raise UsageError(f"--cpes {cpes!r}: expected growing numbers up to {MOST_CPES}, the last at least {2 * lines}")
    return sizes


def _lines(measured: ProcedureBenchmark) -> Iterator[str]:
    yield f"{measured.initialisations} initialisations and {measured.lines} lines, {measured.concurrency} at once"
    rows = [("", "per CPU second", "of bare cryptography", "bare cryptography")]
    for name, rate, ratio in (
        ("initialisation", measured.initialisations_per_cpu_s, measured.initialisation_ratio_to_bare_crypto),
        ("line", measured.lines_per_cpu_s, measured.line_ratio_to_bare_crypto),
    ):
        rows.append((name, f"{rate:.1f}", f"{ratio:.2f}", f"{measured.bare_crypto_ms[name]:.1f} ms"))
    yield aligned(rows)
    yield ""
    growth = [("devices", "initialisations per CPU second", "seconds")]
    growth += [
        (f"{one.cpes:,}", f"{one.initialisations_per_cpu_s:.1f}", f"{one.wall_seconds:.1f}") for one in measured.growth
    ]
    yield aligned(growth)
    yield ""
    yield "Processor time, by process:"
    shares = measured.processor_share
    names = sorted(shares["initialisation"], key=lambda name: -shares["initialisation"][name])
    table = [("", "initialisation", "line")]
    table += [(name, f"{shares['initialisation'][name]:.0%}", f"{shares['line'][name]:.0%}") for name in names]
    yield aligned(table)
    yield ""
    yield "Not measured: " + "; ".join(measured.not_measured) + "."


@contextmanager
def progress() -> Iterator[Tell]:
    """Show on standard error how far a benchmark is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("begin", total=1.0)

        def tell(phase: str, part: float) -> None:
            progress.update(task, description=phase, completed=part)

        yield tell
