"""What must hold after any run, however it went: no key ID, key-file entry or unit of a link ever served twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from qsotn.app.province import CPE_A, CPE_B, HOMES, LINE, LINKS, QKMP, Province
from qsotn.domain import End, PartyId


def check_no_key_twice(province: Province) -> None:
    """Each key ID in one generation or one key-file entry; each entry for one generation; each unit for one key."""
    used: Counter[str] = Counter()
    for cpe in (CPE_A, CPE_B):
        with province.nodes[cpe].desk() as device, province.nodes[HOMES[cpe]].desk() as qssp:
            (near,), (far,) = device.key_files.values(), qssp.key_files.values()
            _check_entries(near, far, list(device.generations.values()))
            used.update(far.key_ids)
    with province.nodes[HOMES[CPE_A]].desk() as qssp:
        for kept in qssp.generations.values():
            used.update((kept.key_id_a_to_b, kept.key_id_b_to_a))
    assert max(used.values()) == 1
    _check_same_ids(province)
    _check_units(province)


def _check_entries(near: Any, far: Any, generations: list[Any]) -> None:
    """An entry was burned once at each side, for one generation, the same at both."""
    entries = [kept.entry for kept in generations]
    assert len(entries) == len(set(entries))
    assert near.burned_below <= far.next_entry
    assert len(far.burned) == len(set(far.burned.values())) == far.next_entry
    assert all(far.burned[str(kept.entry)] == f"{LINE}/{kept.generation}" for kept in generations)
    assert not any(far.entries[: far.next_entry])
    assert not any(near.entries[: near.burned_below])


def _check_same_ids(province: Province) -> None:
    """What an end armed is what its city drew under that number, and what the QKMP saw both cities share."""
    with province.nodes[QKMP].desk() as qkmp:
        shared = {one.generation: tuple(one.key_ids) for one in qkmp.synchronisations.values()}
    for cpe, end in ((CPE_A, End.A), (CPE_B, End.B)):
        with province.nodes[cpe].desk() as device, province.nodes[HOMES[cpe]].desk() as qssp:
            for kept in device.generations.values():
                drawn = qssp.generations.require(f"{LINE}/{end}/{kept.generation:08}")
                assert kept.key_ids == (drawn.key_id_a_to_b, drawn.key_id_b_to_a) == shared[kept.generation]


def _check_units(province: Province) -> None:
    """No unit of a block served two keys, and both ends of its link gave it to the same one."""
    for link, ends in LINKS.items():
        assert len({tuple(sorted(_given(province, party, link).items())) for party in ends}) == 1


def _given(province: Province, party: PartyId, link: str) -> dict[tuple[int, int], str]:
    given: dict[tuple[int, int], str] = {}
    for key_id, taken in _taken(province, party, link):
        for unit in range(taken.unit, taken.unit + taken.units):
            assert (taken.block, unit) not in given
            given[taken.block, unit] = key_id
    return given


def _taken(province: Province, party: PartyId, link: str) -> Iterator[tuple[str, Any]]:
    with province.nodes[party].desk() as km:
        for record in list(km.keys.values()):
            for taken in (record.taken, record.pad):
                if taken is not None and taken.link == link:
                    yield record.key_id, taken
