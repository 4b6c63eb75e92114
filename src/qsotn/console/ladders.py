"""The ladders as they ran, and what the run used, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qsotn.app.report_form import LeasedLine, Report, StepTaken


def print_report(report: Report, run: str, console: Console | None = None) -> None:
    """Print the whole report of one run; `run` says where it ran, as `in one process`."""
    out = console or Console(highlight=False)
    line = report.leased_line
    tables = [
        *(ladder(f"Figure 3 · initialisation of {one.cpe} · {one.state}", one.steps) for one in report.initialization),
        ladder(f"Figure 4 · leased line {line.line_id} over {line.odu} · {line.state}", line.steps),
        ladder(f"Deletion of {line.line_id} · {line.deletion.state}", line.deletion.steps),
        keys_table(report),
        consumption_table(report),
    ]
    for table in tables:
        out.print(table)
        out.print()
    for sentence in summary(report, line, run):
        out.print(Text(sentence), soft_wrap=True)


def ladder(title: str, steps: Iterable[StepTaken]) -> Table:
    """Draw the steps that were taken, a row a message, in the order of the figure."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("step", justify="right")
    table.add_column("message")
    table.add_column("from → to")
    table.add_column("over")
    table.add_column("ms", justify="right")
    for step in steps:
        for part in step.parts:
            way = f"{part.sender} → {part.receiver}"
            table.add_row(f"{step.n}{part.part or ' '}", part.message, way, part.interface, f"{part.ms:.1f}")
    return table


def keys_table(report: Report) -> Table:
    """The line's session keys: where from, which way, how many frames."""
    table = Table(title="Session keys", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("key ID", "QKD path", "direction"):
        table.add_column(name, no_wrap=name == "key ID")
    table.add_column("frames", justify="right")
    for key in report.keys:
        way = key.source.removeprefix("qkd:").replace("km/", "")
        table.add_row(key.key_id, way, key.direction, f"{key.frames}" if key.complete else f"≥ {key.frames}")
    return table


def consumption_table(report: Report) -> Table:
    """What the QKD links (the twin's) gave, and what was taken from them."""
    table = Table(
        title="QKD links (digital twin)", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    table.add_column("link")
    for name in ("pulses", "sifted bits", "QBER", "secret bits", "allocated", "left"):
        table.add_column(name, justify="right")
    for link in report.consumption:
        counts = (link.secret_bits, link.allocated_bits, link.remaining_bits)
        table.add_row(
            link.link, f"{link.pulses:,}", f"{link.sifted_bits:,}", f"{link.qber:.2%}", *(f"{n:,}" for n in counts)
        )
    return table


def summary(report: Report, line: LeasedLine, run: str) -> Iterable[str]:
    """The sentences at the end."""
    carried, usage = report.traffic, report.usage
    rate = carried.bytes_in * 8 / 1e6 / carried.seconds if carried.seconds else 0.0
    yield (
        f"Traffic: {carried.bytes_in:,} bytes in {carried.seconds:.2f} s ({rate:.0f} Mbit/s, {carried.mode} mode, "
        f"{run}), {carried.frames:,} OTU frames, {carried.rekeys} key changes on the way."
    )
    yield (
        f"Usage of {usage.account}: {line.line_id}, {usage.odu}, {usage.seconds_in_service:.2f} s in service; "
        f"keys drawn "
        f"{' and '.join(str(one.keys_drawn) for one in usage.key_usage)}, key-file entries burned "
        f"{' and '.join(str(one.entries_burned) for one in usage.key_usage)}."
    )
    verdict = "agree" if report.intact else "DIFFER"
    yield f"SHA-256 sent {carried.sha256_in}\n    received {carried.sha256_out}: they {verdict}."
