"""What a key manager was told last of the light on its QKD links: how many errors it shows, and whether it gives keys.

A block that was distilled tells it in its ledger. A link that gives no block, because somebody measures its light or
its fibre is cut, would tell nothing; so its modules also bring what they measured without making a key. Bits that were
distilled before stay good: what is kept here decides which way keys take, and never what is believed secret.
"""

from __future__ import annotations

import msgspec

from qsotn.keynetwork.widths import BARRED_QBER
from qsotn.parties.desk import Collection, Desk


class LinkLight(msgspec.Struct, frozen=True):
    """What the modules of a link told of its light at `at`, after the exchange of this number (0 before the first).

    `error_rate` is the QBER, a fraction, or None where too little light arrived to count; `distils` is whether keys
    come of it.
    """

    number: int
    error_rate: float | None
    distils: bool
    at: int


def lights(desk: Desk) -> Collection[LinkLight]:
    """What was told last, by link; nothing of links whose source measures no light."""
    return desk.collection("link-light", LinkLight)


def note_light(desk: Desk, link: str, number: int, error_rate: float | None, *, distils: bool) -> None:
    """Note what the modules tell of a link."""
    lights(desk).put(link, LinkLight(number, error_rate, distils, desk.now))


def is_barred(desk: Desk, link: str) -> bool:
    """Whether this end of a link knows of so many errors on it that it is not used at all."""
    known = lights(desk).get(link)
    return known is not None and known.error_rate is not None and known.error_rate > BARRED_QBER
