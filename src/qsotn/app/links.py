"""The QKD network twin beside the key managers, in one process: it distils blocks and brings each end its own copy."""

from __future__ import annotations

from collections.abc import Callable

from qsotn.app.province import LINKS, Province
from qsotn.domain import Entropy, PartyId, Secret
from qsotn.errors import KeyShortage
from qsotn.parties.km import Km
from qsotn.procedures.turn import Work
from qsotn.quantum.ledger import DistilledBlock
from qsotn.quantum.parameters import METRO
from qsotn.service import link_keys
from qsotn.service.link_keys import AUTHENTICATION_BYTES, POOL_DEPTH, LinkStatus

Report = Callable[[str, float], None]


def install_links(province: Province, entropy: Entropy) -> None:
    """Give both ends of every link the same first authentication keys, as an installer with a sealed envelope does.

    A link that has them is left alone, so that a run that was interrupted may call this again.
    """
    for link, ends in LINKS.items():
        if not link_keys.wants_first_keys([_status(province, party, link) for party in ends]):
            continue
        keys = [Secret(entropy(AUTHENTICATION_BYTES)) for _ in range(POOL_DEPTH)]
        for party in ends:
            with province.nodes[party].desk() as km:
                link_keys.install(km, link, keys)


def fill_links(province: Province, bits: int, entropy: Entropy, report: Report) -> None:
    """Distil until each end of every link can allocate that many bits. Raises `KeyShortage` if a link gives none."""
    for link, ends in LINKS.items():
        while min(_status(province, party, link).available_bits for party in ends) < bits:
            _distil(province, link, ends, entropy, report)


def _status(province: Province, party: PartyId, link: str) -> LinkStatus:
    with province.nodes[party].desk() as km:
        return link_keys.status(km, link)


def _distil(province: Province, link: str, ends: tuple[PartyId, PartyId], entropy: Entropy, report: Report) -> None:
    number = link_keys.next_exchange([_status(province, party, link) for party in ends])
    keys = [_burn(province, party, link, number) for party in ends]
    seed = int.from_bytes(entropy(8))
    blocks = _exchange(link, number, entropy, seed, (keys[0], keys[1]), report)
    for party, block in zip(ends, blocks, strict=True):
        _deposit(province, party, link, number, block)
    while min(_status(province, party, link).available_bits for party in ends) == 0:
        if not province.pump():
            raise KeyShortage(f"the ends of {link} could not agree on block {number}")
    province.pump()


def _exchange(
    link: str, number: int, entropy: Entropy, seed: int, keys: tuple[Secret, Secret], report: Report
) -> tuple[DistilledBlock, DistilledBlock]:
    from qsotn.quantum.link import distil_block  # numpy is loaded only where light is simulated

    return distil_block(
        METRO, link, number, entropy, entropy, seed, keys, lambda stage, part: report(f"{link} {stage}", part)
    )


def _burn(province: Province, party: PartyId, link: str, number: int) -> Secret:
    with province.nodes[party].desk() as km:
        return link_keys.begin_exchange(km, link, number)


def _deposit(province: Province, party: PartyId, link: str, number: int, block: DistilledBlock) -> None:
    def deposit(km: Km, work: Work) -> None:
        link_keys.deposit(km, work, link, number, block.key, block.ledger, block.next_authentication)

    province.nodes[party].begin(deposit)
