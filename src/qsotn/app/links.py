"""The QKD network twin beside the key managers: it distils blocks and deposits each end's copy with that end's own KM.

Each end of a link keeps a pool of one-time authentication keys. Before an exchange both ends burn the same one,
durably, so that a crash in the middle costs a key and never uses one twice; the key that a block withholds refills
the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from qsotn.app.province import LINKS, Province
from qsotn.domain import Entropy, PartyId, Secret
from qsotn.errors import KeyShortage
from qsotn.parties.desk import Desk
from qsotn.parties.km import Km
from qsotn.procedures import key_supply
from qsotn.procedures.turn import Work
from qsotn.quantum.ledger import DistilledBlock
from qsotn.quantum.parameters import METRO

POOL_DEPTH = 32
"""One-time authentication keys that two ends share when a link is installed."""
AUTHENTICATION_BYTES = 64
Report = Callable[[str, float], None]


def install_links(province: Province, entropy: Entropy) -> None:
    """Give both ends of every link the same first authentication keys, as an installer with a sealed envelope does."""
    for link, ends in LINKS.items():
        keys = [Secret(entropy(AUTHENTICATION_BYTES)) for _ in range(POOL_DEPTH)]
        for party in ends:
            with province.nodes[party].desk() as km:
                if not any(True for _ in _pool(km.desk).items(f"{link}/")):
                    for number, key in enumerate(keys, 1):
                        _keep(km.desk, link, number, key)


def fill_links(province: Province, bits: int, entropy: Entropy, report: Report) -> None:
    """Distil until each end of every link can allocate that many bits. Raises `KeyShortage` if a link gives none."""
    for link, ends in LINKS.items():
        while min(_available(province, party, link) for party in ends) < bits:
            _distil(province, link, ends, entropy, report)


def _available(province: Province, party: PartyId, link: str) -> int:
    with province.nodes[party].desk() as km:
        return int(km.available_bits(link))


def _distil(province: Province, link: str, ends: tuple[PartyId, PartyId], entropy: Entropy, report: Report) -> None:
    number = 1 + max(_last_number(province, party, link) for party in ends)
    keys = [_burn(province, party, link, number) for party in ends]
    seed = int.from_bytes(entropy(8))
    blocks = _exchange(link, number, entropy, seed, (keys[0], keys[1]), report)
    for party, block in zip(ends, blocks, strict=True):
        _deposit(province, party, link, number, block)
    near = min(ends)
    province.nodes[near].begin(lambda km, work: key_supply.announce(km, work, link, number))
    while min(_available(province, party, link) for party in ends) == 0:
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


def _deposit(province: Province, party: PartyId, link: str, number: int, block: DistilledBlock) -> None:
    def deposit(km: Km, work: Work) -> None:
        km.deposit(link, number, block.key, msgspec.to_builtins(block.ledger))
        _keep(work.desk, link, number + POOL_DEPTH, block.next_authentication)

    province.nodes[party].begin(deposit)


def _pool(desk: Desk) -> Any:
    return desk.collection("link-authentication", bytes)


def _keep(desk: Desk, link: str, number: int, key: Secret) -> None:
    place = f"{link}/{number:08}"
    _pool(desk).put(place, desk.vault.wrap(key, place.encode()))


def _last_number(province: Province, party: PartyId, link: str) -> int:
    with province.nodes[party].desk() as km:
        return int(km.desk.collection("link-exchanges", int).get(link) or 0)


def _burn(province: Province, party: PartyId, link: str, number: int) -> Secret:
    """Take one authentication key out of the pool for good, before the exchange it will serve."""
    place = f"{link}/{number:08}"
    with province.nodes[party].desk() as km:
        wrapped = _pool(km.desk).get(place)
        if wrapped is None:
            raise KeyShortage(f"{party} has no authentication key {number} for {link}; install the link anew")
        _pool(km.desk).delete(place)
        km.desk.collection("link-exchanges", int).put(link, number)
        return Secret(km.desk.vault.unwrap(wrapped, place.encode()).reveal())
