"""What a key manager knows of the network's links when it chooses the ways of its supplies.

Of its own links it knows by itself what it may allocate and how their light is. Of all others, and of the rates, it
knows what the QKMP told it lately (`parties.link_sights`). Without that it believes the best of others' links, so that
supplies go over the fewest, as they do where there is no QKMP at all: none of it ever keeps a supply from beginning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from qsotn.keynetwork.widths import NOISY_QBER, UNKNOWN, Avoided, Measured
from qsotn.parties import link_sights
from qsotn.parties.km import Km
from qsotn.parties.link_sights import KeptSight, LinkSight
from qsotn.parties.link_totals import quality, totals

Known = dict[str, Measured]
"""What is known, by link."""
NOTHING: Final[Known] = {}


def known_links(km: Km) -> Known:
    """Return what is known of each link now: told and still to be believed, or measured at this end."""
    sights = list(link_sights.fresh(km.desk))
    told = {one.link: _told(one, page, km.desk.now) for page in sights for one in page.told.links}
    limit = sights[0].told.qber_limit if sights else NOISY_QBER
    own = {link: _own(km, link, told.get(link, UNKNOWN), limit) for link in km.configuration.links}
    return {**told, **own}


def _told(sight: LinkSight, page: KeptSight, now: int) -> Measured:
    """Return a link as it was told; of one that nobody has told the QKMP of for long, that is all there is to say."""
    if sight.age_s + page.age_s(now) < page.told.believed_s:
        return sight.measured
    return Measured(avoided=frozenset({Avoided.UNSEEN}))


def _own(km: Km, link: str, told: Measured, qber_limit: float) -> Measured:
    """Return an own link: this end is the one that will draw, and what its modules tell it is newer than any look."""
    light = quality(km, link, totals(km, link))
    noisy = light.distils is False or (light.error_rate is not None and light.error_rate > qber_limit)
    avoided = (told.avoided - {Avoided.NOISY}) | ({Avoided.NOISY} if noisy else set())
    return replace(told, pool_bits=km.available_bits(link), qber=light.error_rate, avoided=avoided)
