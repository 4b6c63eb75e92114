"""`qsotn demo --against URL` as a person sees it: the demo's progress and its report, from a running province."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from qsotn.app import demo
from qsotn.app.against import Job, check_pomp
from qsotn.app.operator import Operator
from qsotn.app.record import load_plan, load_record
from qsotn.app.report_form import Report
from qsotn.app.state import StateFolder
from qsotn.console.demo import progress_bars, write_report
from qsotn.console.ladders import print_report
from qsotn.console.operator import operate

FOLDER: Final = "demo"
"""In the province's folder: what the last run carried, what arrived, and its report."""


def run_against(url: str, state: Path, file: Path | None, *, as_json: bool) -> bool:
    """Do the main job in a running province; return whether the far end received exactly what was sent."""
    record = load_record(state)
    check_pomp(record, url)
    folder = StateFolder(state / FOLDER)
    with folder.locked():
        begun = demo.begin_anew(folder, file, demo.GENERATED_BYTES)
        demo.generate(folder, begun, os.urandom)

        async def act(operator: Operator) -> Report:
            with progress_bars() as watcher:
                job = Job(operator, record, load_plan(state), watcher)
                try:
                    return await job.run(begun, folder.received)
                finally:
                    _tell_what_is_left(job, state)

        report = operate(state, act)
        folder.save_report(msgspec.json.encode(report))
    if as_json:
        write_report(report)
    else:
        print_report(report, "between processes")
    return report.intact


def _tell_what_is_left(job: Job, state: Path) -> None:
    if job.line_may_be_there:
        sys.stderr.write(f"The line {job.line} is left: qsotn line delete {job.line} --state {state}\n")
