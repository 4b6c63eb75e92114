"""What is wrong in the key network, found in what its parties told, and how long that has been so.

A *finding* is what a look shows. It becomes an *alarm* when it has shown for as many looks as its cause needs, and
clears when a look shows otherwise. What a look cannot tell, because one who would know was silent, stays as it was.
Severities are those of ITU-T X.733.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from qsotn.domain import PartyId
from qsotn.keynetwork.forecast import forecast
from qsotn.parties.line_comparison import LineComparison, Step
from qsotn.parties.network_readings import History, LinkReading, PoolReading, Watched

LONGEST_WAIT_S: Final = 120.0
"""For how long a block may wait for the far end before that is an alarm: both ends agree within seconds."""
LOSS_SHOWN_US: Final = 3600 * 1_000_000
"""For how long an alarm of a loss lasts, so that somebody sees it."""


class Severity(StrEnum):
    """Perceived severity, ITU-T X.733 clause 8.1.2.3."""

    CRITICAL = "CRITICAL"
    MAJOR = "MAJOR"
    MINOR = "MINOR"
    WARNING = "WARNING"


class Cause(StrEnum):
    """What an alarm is for."""

    PARTY_SILENT = "PARTY_SILENT"
    ENDS_DISAGREE = "ENDS_DISAGREE"
    BLOCK_WAITS = "BLOCK_WAITS"
    KEYS_LOST = "KEYS_LOST"
    QBER_HIGH = "QBER_HIGH"
    LINK_LOW = "LINK_LOW"
    POOL_LOW = "POOL_LOW"
    STARVES_SOON = "STARVES_SOON"
    KEYS_DIFFER = "KEYS_DIFFER"
    QSSP_LAGS = "QSSP_LAGS"


@dataclass(frozen=True)
class Rule:
    """How grave a cause is, and in how many looks in a row it must show."""

    severity: Severity
    looks: int = 1


RULES: Final = {
    Cause.PARTY_SILENT: Rule(Severity.CRITICAL, 2),
    Cause.ENDS_DISAGREE: Rule(Severity.MAJOR, 2),
    Cause.BLOCK_WAITS: Rule(Severity.MINOR),
    Cause.KEYS_LOST: Rule(Severity.MAJOR),
    Cause.QBER_HIGH: Rule(Severity.CRITICAL),
    Cause.LINK_LOW: Rule(Severity.MINOR, 2),
    Cause.POOL_LOW: Rule(Severity.MINOR, 2),
    Cause.STARVES_SOON: Rule(Severity.WARNING, 2),
    Cause.KEYS_DIFFER: Rule(Severity.CRITICAL),
    Cause.QSSP_LAGS: Rule(Severity.MAJOR, 2),
}


class Limits(msgspec.Struct, frozen=True):
    """From where on something is wrong: an error rate above `qber`, fewer bits than a mark, `starves_s` to the end."""

    qber: float
    link_bits: int
    pool_bits: int
    starves_s: float


class Alarm(msgspec.Struct, frozen=True):
    """One thing that is, or was, wrong. Times in microseconds since the epoch.

    `since` is the look at which it first showed, `raised_at` the one that made it an alarm, `cleared_at` 0 while it
    lasts. `detail` says what the newest look showed.
    """

    subject: str
    cause: Cause
    severity: Severity
    detail: str
    since: int
    raised_at: int = 0
    cleared_at: int = 0
    looks: int = 1

    @property
    def key(self) -> str:
        """What it is recognised by while it lasts."""
        return f"{self.subject}/{self.cause}"


@dataclass
class Findings:
    """What one look shows: details by subject and cause, and what it cannot tell."""

    shown: dict[tuple[str, Cause], str] = field(default_factory=dict)
    untold: set[tuple[str, Cause]] = field(default_factory=set)

    def add(self, subject: str, cause: Cause, detail: str) -> None:
        """Note what is wrong with something."""
        self.shown[subject, cause] = detail

    def unknown(self, subject: str, *causes: Cause) -> None:
        """Note what this look cannot tell of something."""
        self.untold |= {(subject, cause) for cause in causes}


# --- what a look shows ----------------------------------------------------------------------------------------------


def of_parties(found: Findings, parties: Iterable[Watched]) -> None:
    """Find who does not answer."""
    for one in parties:
        if one.silent_since:
            found.add(one.party, Cause.PARTY_SILENT, one.reason)


def of_link(
    found: Findings, readings: Sequence[LinkReading], answered: Collection[PartyId], limits: Limits, now: int
) -> None:
    """Find what is wrong with one link, from the readings of its ends; `answered` is who did in this look."""
    subject = link_subject(readings[0].link)
    for one in readings:
        end = link_end_subject(one.link, one.km)
        if one.at != now:
            found.unknown(end, Cause.LINK_LOW, Cause.STARVES_SOON, Cause.BLOCK_WAITS)
        elif one.available_bits < limits.link_bits:
            found.add(end, Cause.LINK_LOW, f"{one.available_bits} bits are left; the mark is {limits.link_bits}")
        _find_losses(found, end, one, now)
    _find_noise(found, subject, readings, limits, now)
    _find_disagreement(found, subject, readings, answered)


def _find_losses(found: Findings, end: str, one: LinkReading, now: int) -> None:
    """Find what waits for the far end for longer than it takes to agree, and what was written off lately."""
    if one.at == now and one.pending_s > LONGEST_WAIT_S:
        waits = f"{one.pending_blocks} blocks wait for {one.neighbour} to agree, the oldest for {one.pending_s:.0f} s"
        found.add(end, Cause.BLOCK_WAITS, waits)
    if one.lost_seen_at and now - one.lost_seen_at < LOSS_SHOWN_US:
        found.add(end, Cause.KEYS_LOST, f"{one.lost_bits} bits were written off so far, the newest lately")


def _find_noise(found: Findings, subject: str, readings: Sequence[LinkReading], limits: Limits, now: int) -> None:
    rates = {one.km: one.qber for one in readings if one.at == now and one.qber is not None}
    noisy = {km: qber for km, qber in rates.items() if qber > limits.qber}
    if noisy:
        km, qber = max(noisy.items(), key=lambda item: item[1])
        found.add(subject, Cause.QBER_HIGH, f"QBER {qber:.2%} at {km}; the limit is {limits.qber:.2%}")
    elif not rates:
        found.unknown(subject, Cause.QBER_HIGH)


def _find_disagreement(
    found: Findings, subject: str, readings: Sequence[LinkReading], answered: Collection[PartyId]
) -> None:
    if any(end not in answered for one in readings for end in (one.km, one.neighbour)):
        found.unknown(subject, Cause.ENDS_DISAGREE)
        return
    for detail in _disagreements(readings):
        found.add(subject, Cause.ENDS_DISAGREE, detail)
        return


def _disagreements(readings: Sequence[LinkReading]) -> Iterator[str]:
    """What one end had agreed on by the look before, the other must have by now: agreeing takes less than a look."""
    by_km = {one.km: one for one in readings}
    for one in readings:
        other = by_km.get(one.neighbour)
        if other is None:
            yield f"{one.km} says that {one.neighbour} is its far end, which knows no such link"
        elif other.agreed_bits < one.agreed_before:
            yield (
                f"{one.km} had agreed on {one.agreed_before} bits by the look before,"
                f" {other.km} has only {other.agreed_bits}"
            )


def of_pool(found: Findings, reading: PoolReading, limits: Limits, now: int) -> None:
    """Find whether a pool is low, from the reading of its origin, which gives its keys out."""
    subject = pool_subject(reading)
    if reading.at != now:
        found.unknown(subject, Cause.POOL_LOW, Cause.STARVES_SOON)
    elif reading.ready_bits < limits.pool_bits:
        found.add(subject, Cause.POOL_LOW, f"{reading.ready_bits} bits are ready; the mark is {limits.pool_bits}")


def of_pool_ends(found: Findings, told: Sequence[PoolReading], answered: Collection[PartyId], now: int) -> None:
    """Find whether the two ends of a pool contradict each other, from their readings of the series in use.

    What is ready at the origin was at the target before, and leaves the target after it has left the origin. As the
    two are not asked in one moment, what one end had told in the look before is held against what the other tells now.
    """
    origin = next((one for one in told if one.km == one.origin), None)
    if origin is None:
        return
    subject = pool_subject(origin)
    if origin.began_at and now - origin.began_at < LOSS_SHOWN_US:
        ended = f"series {origin.series - 1} ended, and what was ready of it was destroyed"
        found.add(subject, Cause.KEYS_LOST, f"{ended}: one end had lost it")
    if origin.origin == origin.target:
        return
    if any(end not in answered for end in (origin.origin, origin.target)):
        found.unknown(subject, Cause.ENDS_DISAGREE)
        return
    target = next((one for one in told if one.km == one.target), None)
    if detail := _contradiction(origin, target):
        found.add(subject, Cause.ENDS_DISAGREE, detail)


def _contradiction(origin: PoolReading, target: PoolReading | None) -> str:
    if target is None and origin.ready_bits:
        return f"{origin.origin} promises {origin.ready_bits} bits; {origin.target} knows no such pool"
    if target is None:
        return ""
    if target.all_bits < origin.all_before:
        return (
            f"{origin.origin} had laid in {origin.all_before} bits by the look before,"
            f" {origin.target} has only ever had {target.all_bits}"
        )
    if origin.gone_bits < target.gone_before:
        return (
            f"{target.gone_before} bits were ready no more at {origin.target} by the look before,"
            f" and only {origin.gone_bits} are at {origin.origin}"
        )
    return ""


def of_trend(found: Findings, subject: str, history: History, limits: Limits, now: int) -> None:
    """Find whether the end of a link, or a pool, will soon be empty if it goes on as it did."""
    told = forecast(history.samples)
    if told is not None and told.starves_at is not None and told.starves_at - now < limits.starves_s * 1_000_000:
        left = max(0, told.starves_at - now) // 1_000_000
        found.add(subject, Cause.STARVES_SOON, f"empty in {left} s at {told.bits_per_s:+.1f} bit/s")


def of_line(found: Findings, compared: LineComparison, silent: Iterable[str]) -> None:
    """Find where the two QSSPs of a line are not together."""
    subject = f"line {compared.line}"
    common = f"the last that both have is {compared.last_common}" if compared.last_common else "they have none together"
    names = " and ".join(end.qssp for end in compared.ends)
    if compared.differing:
        numbers = ", ".join(map(str, compared.differing))
        found.add(subject, Cause.KEYS_DIFFER, f"{names} give generation {numbers} other key IDs; {common}")
    if any(end.qssp in silent for end in compared.ends):
        found.unknown(subject, Cause.QSSP_LAGS, Cause.KEYS_DIFFER)
    elif compared.behind and compared.step is Step.LAGS:
        has = ", ".join(f"{end.qssp} has {end.newest}" for end in compared.ends)
        found.add(subject, Cause.QSSP_LAGS, f"{compared.behind} lags: {has}; {common}")


def link_subject(link: str) -> str:
    """What a link's alarms are about."""
    return f"link {link}"


def link_end_subject(link: str, km: str) -> str:
    """What the alarms of one end of a link are about."""
    return f"link {link} at {km}"


def pool_subject(reading: PoolReading) -> str:
    """What a pool's alarms are about, whatever its series."""
    return f"pool {reading.origin}>{reading.target}"


# --- how an alarm lives ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changed:
    """What a look makes of the alarms: those that stand or are suspected now, and those that it cleared."""

    standing: tuple[Alarm, ...]
    cleared: tuple[Alarm, ...]


def changed(known: Iterable[Alarm], found: Findings, now: int) -> Changed:
    """Return the alarms after a look. A suspicion that did not become an alarm goes without a trace."""
    by_key = {(one.subject, one.cause): one for one in known}
    standing = [_seen(by_key.get(key), *key, detail, now) for key, detail in found.shown.items()]
    standing += [one for key, one in by_key.items() if key not in found.shown and key in found.untold]
    gone = [one for key, one in by_key.items() if key not in found.shown and key not in found.untold]
    cleared = [msgspec.structs.replace(one, cleared_at=now) for one in gone if one.raised_at]
    return Changed(tuple(standing), tuple(cleared))


def _seen(known: Alarm | None, subject: str, cause: Cause, detail: str, now: int) -> Alarm:
    rule = RULES[cause]
    looks = 1 if known is None else known.looks + 1
    since, raised_at = (now, 0) if known is None else (known.since, known.raised_at)
    if not raised_at and looks >= rule.looks:
        raised_at = now
    return Alarm(subject, cause, rule.severity, detail, since, raised_at, 0, looks)
