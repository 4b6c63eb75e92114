"""How every link of the key network stands, by what was seen of it.

A link's rate is what its two ends agreed on in its busiest minute. A source that rests while it is full is so never
believed to give more than it has shown. For one that has shown none, its blocks' own account stands in: bits, over the
time the link says it took to make them. That is good enough to prefer one way to another (`LinkView.width_bits`,
`LinkView.sight`), and proves nothing: no promise is made by it (`network_admission`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from qsotn.domain import PartyId
from qsotn.keynetwork.topology import Link
from qsotn.keynetwork.widths import BARRED_QBER, width_bits
from qsotn.parties.link_sights import LinkSight
from qsotn.parties.network_alarms import Cause, link_subject
from qsotn.parties.network_readings import LinkReading
from qsotn.parties.qkmp import Qkmp

WINDOW_US: Final = 60 * 1_000_000
"""The least time over which a rate is shown."""


class LinkState(StrEnum):
    """Whether keys may be expected of a link."""

    UP = "UP"
    SILENT = "SILENT"
    """A key manager at its end does not answer, or was never asked."""
    DISAGREES = "DISAGREES"
    NOISY = "NOISY"
    """Its error rate is above the limit, or no key comes of its light now."""


class LinkUse(StrEnum):
    """What becomes of a link in the ways that key managers choose for supplies, as far as the QKMP tells them."""

    PREFERRED = "PREFERRED"
    AVOIDED = "AVOIDED"
    """On a way only if there is no other."""
    BARRED = "BARRED"
    """On no way: more errors than any key may be made of."""


class RateSource(StrEnum):
    """What a rate was taken from."""

    SEEN = "SEEN"
    BLOCKS = "BLOCKS"
    NONE = "NONE"


class LinkView(msgspec.Struct, frozen=True):
    """A link as the province sees it. Rates in bits a second, for both ends together; `qber` is the worse end's."""

    link: str
    ends: tuple[PartyId, PartyId]
    state: LinkState
    rate_bits_s: float
    rate_from: RateSource
    drawn_bits_s: float
    qber: float | None
    readings: tuple[LinkReading, ...]

    def measured(self, otherwise_bits_s: int) -> Link:
        """Return the link as a topology has it, at the rate it has shown, or at another if it has shown none."""
        rate = int(self.rate_bits_s) if self.shown else otherwise_bits_s
        available = sum(one.available_bits for one in self.readings)
        return Link(self.link, self.ends, rate, available, qber=self.qber or 0.0, up=self.state is LinkState.UP)

    @property
    def shown(self) -> bool:
        """Whether it has shown its rate, over `WINDOW_US` at least of the QKMP's own clock."""
        return self.rate_from is RateSource.SEEN

    @property
    def pool_bits(self) -> int:
        """What the emptier of its ends may allocate: a supply draws from either, by the way it goes."""
        return min(one.available_bits for one in self.readings)

    @property
    def width_bits(self) -> int:
        """What supplies may count on, of the emptier end (`keynetwork.widths`)."""
        return width_bits(self.pool_bits, self.rate_bits_s / 2)

    @property
    def use(self) -> LinkUse:
        """What becomes of it in the ways of supplies."""
        if self.qber is not None and self.qber > BARRED_QBER:
            return LinkUse.BARRED
        return LinkUse.PREFERRED if self.state is LinkState.UP else LinkUse.AVOIDED

    def sight(self, now: int) -> LinkSight:
        """The link as the key managers are told of it."""
        return LinkSight(
            link=self.link,
            ends=self.ends,
            pool_bits=self.pool_bits,
            rate_bits_s=self.rate_bits_s,
            qber=self.qber,
            noisy=self.state is LinkState.NOISY,
            unseen=self.state in (LinkState.SILENT, LinkState.DISAGREES),
            age_s=max(0, now - min(one.at for one in self.readings)) / 1e6,
        )


def link_views(qkmp: Qkmp) -> list[LinkView]:
    """Return every link that a key manager told of, by name."""
    wrong = {(one.subject, one.cause) for one in qkmp.alarms.values("active/")}
    silent = {one.party for one in qkmp.watched.values() if one.silent_since}
    known = {one.party for one in qkmp.watched.values()}
    return [
        _view(qkmp, readings, wrong, known - silent)
        for _, readings in sorted(qkmp.by_link().items(), key=lambda x: x[0])
    ]


def _view(
    qkmp: Qkmp, readings: Sequence[LinkReading], wrong: set[tuple[str, Cause]], answering: set[PartyId]
) -> LinkView:
    ends = sorted({readings[0].km, readings[0].neighbour})
    rate, source = _rate(qkmp, readings)
    rates = [one.qber for one in readings if one.qber is not None]
    return LinkView(
        link=readings[0].link,
        ends=(ends[0], ends[-1]),
        state=_state(readings, ends, wrong, answering),
        rate_bits_s=rate,
        rate_from=source,
        drawn_bits_s=sum(qkmp.history(one).drawn_bits_s for one in readings),
        qber=max(rates, default=None),
        readings=tuple(readings),
    )


def _state(
    readings: Sequence[LinkReading], ends: Sequence[PartyId], wrong: set[tuple[str, Cause]], answering: set[PartyId]
) -> LinkState:
    subject = link_subject(readings[0].link)
    if not answering.issuperset(ends):
        return LinkState.SILENT
    if (subject, Cause.ENDS_DISAGREE) in wrong:
        return LinkState.DISAGREES
    dark = any(one.distils is False for one in readings)
    return LinkState.NOISY if dark or (subject, Cause.QBER_HIGH) in wrong else LinkState.UP


def _rate(qkmp: Qkmp, readings: Sequence[LinkReading]) -> tuple[float, RateSource]:
    seen = min(qkmp.history(one).busiest_bits_s(WINDOW_US) for one in readings)
    if seen:
        return seen, RateSource.SEEN
    told = [one.block_bits_s for one in readings if one.block_bits_s is not None]
    return (min(told), RateSource.BLOCKS) if told else (0.0, RateSource.NONE)
