"""`qsotn key network`, `forecast`, `admit` and `provenance` as a person sees them: the key network, and a key's way."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qsotn.app.operator_network import (
    NetworkShown,
    ProvenanceShown,
    admission,
    key_forecast,
    key_network,
    key_provenance,
)
from qsotn.console.operator import moment, operate, write_json
from qsotn.domain import PartyId
from qsotn.parties.line_comparison import Step
from qsotn.parties.network_admission import Admission, Verdict
from qsotn.parties.network_alarms import Severity
from qsotn.parties.network_capacity import LinkState, LinkUse, RateSource
from qsotn.service.http.operations_km import KeyProvenance, SignedStatement
from qsotn.service.http.operations_network import NetworkLink, NetworkPool, Outlook

_WIDEST = 10_000
"""Columns: what is cut off cannot be copied, whatever the terminal."""
_GOOD, _BAD, _GRAVE = "green", "yellow", "bold red"

Cells = tuple[str | Text, ...]


def show_network(state: Path, *, as_json: bool) -> bool:
    """Show the key network; return whether nothing is wrong in it."""
    shown = operate(state, key_network)
    if as_json:
        write_json(shown)
    else:
        _print(*_network(shown))
    return not shown.alarms


def show_forecast(state: Path, *, as_json: bool) -> None:
    """Show when links and pools will be empty."""
    found = operate(state, key_forecast)
    if as_json:
        write_json(found)
        return
    heading = ("what", "at", "bits", "bit/s", "empty in", "at (UTC)", "samples")
    _print(
        "What becomes of each link and pool, if its last quarter of an hour goes on",
        _table(heading, [_outlook(one) for one in found], "the QKMP has seen nothing yet"),
    )


def show_admission(
    state: Path, origin: str, target: str, lines: int, rekey_interval_s: int, key_bits: int, *, as_json: bool
) -> Verdict:
    """Show whether two cities can carry more lines; return the answer."""
    told = operate(state, lambda operator: admission(operator, origin, target, lines, rekey_interval_s, key_bits))
    if as_json:
        write_json(told)
    else:
        _print(*_answer(told))
    return told.verdict


def show_provenance(state: Path, key_id: str, *, as_json: bool) -> ProvenanceShown:
    """Show how a key came to whoever knows it; return what was shown."""
    shown = operate(state, lambda operator: key_provenance(operator, key_id))
    if as_json:
        write_json(shown)
    else:
        _print(*_ways(shown))
    return shown


# --- parts ----------------------------------------------------------------------------------------------------------


def _network(shown: NetworkShown) -> Iterator[str | Text | Table]:
    network = shown.network
    yield f"The key network, as the QKMP saw it last: {moment(network.at) or 'never'}"
    yield ""
    yield "Key managers and QSSPs"
    parties: list[Cells] = [
        (one.party, Text("silent", _GRAVE) if one.silent_since else Text("answers", _GOOD), one.reason)
        for one in network.parties
    ]
    yield _table(("party", "", "why"), parties, "none was asked yet")
    yield ""
    yield "QKD links: what each end may still allocate, and the rate both have shown together"
    links = [_link(one) for one in network.links]
    heading = ("link", "state", "bits at its ends", "bit/s", "drawn/s", "QBER", "width", "in ways", "seen")
    yield _table(heading, links, "none is known")
    yield ""
    yield "Pools of ready keys, as both ends count them"
    pools = [_pool(one) for one in shown.pools]
    yield _table(("from", "to", "series", "bits ready", "waiting", "seen"), pools, "there is none")
    yield ""
    yield "Lines: the newest generation of each end, and the last that both have"
    lines: list[Cells] = [
        (
            one.line,
            Text(one.step, _GOOD if one.step is Step.TOGETHER else _GRAVE),
            _of_each([(end.qssp, str(end.newest)) for end in one.ends]),
            str(one.last_common),
        )
        for one in shown.lines
    ]
    yield _table(("line", "state", "newest", "common"), lines, "none is in service")
    yield ""
    yield from _alarms(shown)


def _link(one: NetworkLink) -> Cells:
    state = Text(one.state, _GOOD if one.state is LinkState.UP else _GRAVE)
    bits = _of_each([(end.km, f"{end.available_bits:,}") for end in one.told])
    qber = "" if one.qber is None else f"{one.qber:.2%}"
    age = max(end.age_s for end in one.told)
    use = Text(one.use, _GOOD if one.use is LinkUse.PREFERRED else _BAD if one.use is LinkUse.AVOIDED else _GRAVE)
    shown = f"{one.rate_bits_s:,.0f}" if one.rate_from is RateSource.SEEN else "not yet"
    rates = shown, f"{one.drawn_bits_s:,.1f}"
    return one.link, state, bits, *rates, qber, f"{one.width_bits:,}", use, _ago(age)


def _pool(one: NetworkPool) -> Cells:
    ready = _of_each([(end.km, f"{end.ready_bits:,}") for end in one.told])
    waiting = f"{max(end.waiting_bits for end in one.told):,}"
    return one.origin, one.target, str(one.series), ready, waiting, _ago(max(end.age_s for end in one.told))


def _of_each(told: Sequence[tuple[PartyId, str]]) -> str:
    return ", ".join(f"{party.partition('/')[2]} {value}" for party, value in told)


def _alarms(shown: NetworkShown) -> Iterator[str | Table]:
    if not shown.alarms:
        yield "No alarm."
        return
    yield "Alarms"
    grave = (Severity.CRITICAL, Severity.MAJOR)
    rows: list[Cells] = [
        (
            Text(one.severity, _GRAVE if one.severity in grave else _BAD),
            moment(one.raised_at),
            one.subject,
            one.cause,
            one.detail,
        )
        for one in shown.alarms
    ]
    yield _table(("severity", "since (UTC)", "of", "cause", "what was seen"), rows, "")


def _outlook(one: Outlook) -> Cells:
    if one.bits_per_s is None:
        return one.what, one.km, f"{one.available_bits:,}", "", "not known yet", "", str(one.samples)
    trend = f"{one.bits_per_s:+,.1f}"
    if one.starves_in_s is None or one.starves_at is None:
        return one.what, one.km, f"{one.available_bits:,}", trend, "not in sight", "", str(one.samples)
    when = moment(one.starves_at) if one.starves_in_s else "now"
    return one.what, one.km, f"{one.available_bits:,}", trend, _duration(one.starves_in_s), when, str(one.samples)


def _answer(told: Admission) -> Iterator[str | Text | Table]:
    yield _verdict(told)
    yield f"Each takes {told.bits_s_per_line:,.2f} bit/s of every link on its way."
    if told.ways:
        rows: list[Cells] = [("–".join(km.partition("/")[2] for km in way.path), str(way.lines)) for way in told.ways]
        yield _table(("way", "lines"), rows, "")
    yield from (f"- {reason}" for reason in told.reasons)


def _verdict(told: Admission) -> Text:
    if told.verdict is Verdict.YES:
        return Text(f"Yes: {told.lines_asked} more lines can be carried; {told.lines_fit} would fit.", _GOOD)
    if told.verdict is Verdict.NO:
        return Text(f"No: of {told.lines_asked} more lines, {told.lines_fit} would fit.", _GRAVE)
    when = f"from {moment(told.told_from)} UTC on" if told.told_from else "once its links make keys in sight"
    sure = f"of {told.lines_asked} more lines, {told.lines_fit} would surely fit"
    return Text(f"Not known yet: {sure}; more can be said {when}.", _BAD)


def _ways(shown: ProvenanceShown) -> Iterator[str | Text | Table]:
    if not shown.told:
        yield Text(f"No key manager that could be asked knows the key {shown.key_id}.", _GRAVE)
    for told in shown.told:
        yield from _way(told)
    yield from (Text(f"{one.party} could not be asked: {one.reason}", _BAD) for one in shown.unreached)


def _way(told: KeyProvenance) -> Iterator[str | Text | Table]:
    yield f"The key {told.key_id}, as {told.km} knows it"
    yield told.account
    rows = [_signed(one, len(told.paths)) for one in told.statements]
    yield _table(("share", "signed by", "at (UTC)", "signature"), rows, "")
    if not told.verified:
        yield Text(f"The whole is NOT verified: {told.reason}", _GRAVE)
    yield ""


def _signed(one: SignedStatement, shares: int) -> Cells:
    standing = Text("verified", _GOOD) if one.verified else Text(f"NOT verified: {one.reason}", _GRAVE)
    return f"{one.share + 1} of {shares}", one.party, moment(one.at), standing


# --- printing -------------------------------------------------------------------------------------------------------


def _table(heading: Sequence[str], rows: Sequence[Cells], none: str) -> Table | str:
    if not rows:
        return f"({none})"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in heading:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _print(*parts: str | Text | Table) -> None:
    console = Console(file=sys.stdout, highlight=False, markup=False, width=_WIDEST)
    for part in parts:
        console.print(part, no_wrap=True, crop=False, overflow="ignore")


def _ago(seconds: float) -> str:
    return f"{_duration(seconds)} ago"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
