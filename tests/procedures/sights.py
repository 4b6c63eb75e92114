"""What a QKMP would see of a network of key managers, played: the light on its links, and the telling of it."""

from __future__ import annotations

from tests.procedures.key_network import Network, link_of

from qsotn.domain import PartyId
from qsotn.keynetwork.widths import NOISY_QBER
from qsotn.parties import link_sights
from qsotn.parties.link_sights import LinkSight
from qsotn.parties.link_totals import quality, totals
from qsotn.service import link_keys


def light(network: Network, link: str, error_rate: float, *, distils: bool = True) -> None:
    """The modules at both ends of a link tell how many errors its light shows now."""
    for party in _ends(network, link):
        with network.desk(party) as km:
            link_keys.measured(km, link, error_rate, distils=distils)


def tell(network: Network, believed_s: float) -> None:
    """The QKMP looks, and tells everybody."""
    sights = [_sight(network, pair) for pair in network.shape]
    for page in link_sights.pages(sights, believed_s, NOISY_QBER):
        for party in network.parties:
            with network.desk(party) as km:
                link_sights.keep(km.desk, page)


def units(network: Network, link: str) -> int:
    """Units that the emptier end of a link may still allocate."""
    return _sight(network, _ends(network, link)).pool_bits // 256


def _ends(network: Network, link: str) -> tuple[PartyId, PartyId]:
    (pair,) = (pair for pair in network.shape if link_of(*pair) == link)
    return pair


def _sight(network: Network, pair: tuple[PartyId, PartyId]) -> LinkSight:
    link, bits, rates, distil = link_of(*pair), [], list[float](), True
    for party in pair:
        with network.desk(party) as km:
            bits.append(km.available_bits(link))
            told = quality(km, link, totals(km, link))
            rates += [] if told.error_rate is None else [told.error_rate]
            distil = distil and told.distils is not False
    worst = max(rates, default=None)
    noisy = not distil or (worst is not None and worst > NOISY_QBER)
    return LinkSight(link, pair, min(bits), 0.0, worst, noisy=noisy, unseen=False, age_s=0.0)
