"""What `qsotn conformance` prints: one line a point with what came, or one JSON object."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from qsotn.app.conformance import etsi014
from qsotn.app.conformance.etsi014_run import Party, Target
from qsotn.app.conformance.report import Point, Report, Verdict


def examine_etsi014(
    master: tuple[str, str, Path, Path | None],
    slave: tuple[str, str, Path, Path | None],
    additional: tuple[str, str, Path, Path | None] | None,
    authority: Path | None,
    *,
    as_json: bool,
) -> bool:
    """Test a key manager and print the report; say whether no point failed. Each SAE is (ID, URL, certificate, key).

    Raises `UsageError` for files or URLs that cannot be used.
    """

    def party(sae: tuple[str, str, Path, Path | None]) -> Party:
        return etsi014.party(*sae, authority)

    third = None if additional is None else party(additional)
    target: Target = etsi014.target(party(master), party(slave), third, authority, slave[2])
    report = asyncio.run(etsi014.examine(target))
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        print("\n".join(_lines(report)))
    return report.conforms


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.standard} at {report.url}"
    for point in report.points:
        yield from _point(point)
    counts = ", ".join(f"{report.count(verdict)} {verdict}" for verdict in Verdict)
    yield f"{len(report.points)} points: {counts}."


def _point(point: Point) -> Iterator[str]:
    yield f"{point.verdict}  {point.clause:<8}  {point.name.replace('-', ' ')}"
    if point.verdict is Verdict.PASS:
        return
    if point.verdict is Verdict.FAIL:
        yield f"      asked     {point.asked}"
        yield f"      required  {point.required}"
    yield f"      {'came' if point.verdict is Verdict.FAIL else 'because':<8}  {point.came}"
