"""What `qsotn conformance` prints: one line a point with what came, or one JSON object."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from qsotn.app.conformance import etsi014
from qsotn.app.conformance.etsi014_run import Target
from qsotn.app.conformance.post_quantum import Province
from qsotn.app.conformance.report import Point, Report, Verdict


def examine_etsi014(
    saes: Sequence[tuple[str, str, Path, Path | None]], authority: Path | None, *, as_json: bool
) -> bool:
    """Test a key manager over ordinary TLS and print the report; say whether no point failed.

    `saes` are master, slave and, if there is one, a further slave, each as (ID, URL, certificate, key). Raises
    `UsageError` for files or URLs that cannot be used.
    """
    master, slave, *further = (etsi014.party(*sae, authority) for sae in saes)
    target = etsi014.target(master, slave, further[0] if further else None, authority, saes[1][2])
    return _examined(target, as_json=as_json)


def examine_own(state: Path, saes: Sequence[tuple[str, str | None]], *, as_json: bool) -> bool:
    """Test a key manager of a province over post-quantum TLS, as `examine_etsi014`; each SAE is (ID, URL).

    Raises `UsageError` for a folder, SAEs or URLs that do not belong together.
    """
    province = Province(state)
    master, slave, *further = (province.party(*sae) for sae in saes)
    return _examined(province.target(master, slave, further[0] if further else None), as_json=as_json)


def _examined(target: Target, *, as_json: bool) -> bool:
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
