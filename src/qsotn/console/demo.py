"""`qsotn demo` as a person sees it: a live progress bar, then the ladders as they ran; or one JSON object."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from qsotn.app import demo
from qsotn.app.report_form import Report
from qsotn.app.state import StateFolder
from qsotn.console.ladders import print_report
from qsotn.errors import StoreError


def run_demo(state: Path, file: Path | None, *, resume: bool, fresh: bool, as_json: bool) -> bool:
    """Run, resume or show again; return whether the far end received exactly what was sent."""
    folder = StateFolder(state)
    with folder.locked():
        begun = demo.plan(folder, file, resume=resume, fresh=fresh, size=demo.GENERATED_BYTES)
        if resume and begun is not None and not begun.provisioned:
            Console(stderr=True, highlight=False).print(f"Nothing had been done in {state} yet; beginning now.")
        if begun is None:
            report = load_report(folder)
        else:
            with progress_bars() as watcher:
                report = demo.run(folder, begun, watcher, _environment())
    if as_json:
        write_report(report)
    else:
        print_report(report, "in one process")
        sys.stdout.write(f"One key's way: qsotn trace {report.keys[0].key_id} --state {folder.path}\n")
    return report.intact


def write_report(report: Report) -> None:
    """Print a report as one JSON document."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")


def load_report(folder: StateFolder) -> Report:
    """Return the finished run's report. Raises `StoreError` if it cannot be read."""
    try:
        return msgspec.json.decode(folder.report.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{folder.report} cannot be read: {error}; begin anew with --fresh") from error


def _environment() -> demo.Environment:
    return demo.Environment(os.urandom, lambda: time.time_ns() // 1000)


@contextmanager
def progress_bars() -> Iterator[demo.Watcher]:
    """Show progress on standard error, so that standard output stays the report's."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<20}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        watcher = _Bars(progress)
        yield watcher
        watcher.finish()


class _Bars:
    """A bar for each phase, the last one live."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def phase(self, name: str) -> None:
        """Finish the bar before, begin the next."""
        self.finish()
        self._task = self._progress.add_task(name, total=1.0, detail="")

    def advance(self, detail: str, part: float) -> None:
        """Move the bar of the phase."""
        if self._task is not None:
            self._progress.update(self._task, completed=part, detail=detail)

    def finish(self) -> None:
        """Fill the bar of the phase that ended."""
        if self._task is not None:
            self._progress.update(self._task, completed=1.0)
