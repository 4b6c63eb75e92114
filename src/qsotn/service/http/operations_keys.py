"""What an operator reads of where keys came from: a link's blocks at a key manager, a line's generations at a QSSP.

Both are accounts, by identifier and count; neither holds a bit of a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from qsotn.domain import End, KeyId, LineId, PartyId
from qsotn.keynetwork import pool
from qsotn.parties.km import BlockState, KeyBlock, Km
from qsotn.parties.qssp import Generation, LineService, Qssp
from qsotn.service.http.declaring import absent, listing
from qsotn.service.http.names import LinePath
from qsotn.service.http.operation import Call, Operation
from qsotn.service.http.operations_km import WATCHERS
from qsotn.service.http.paging import Page, Window, page
from qsotn.service.http.quantum_modules import LinkPath

NEWEST: Final = 8
"""Generations of a line end that are compared."""


class BlockStatus(msgspec.Struct, frozen=True):
    """One distilled block as this end holds it, and the ledger of its distillation.

    `bits` is what came out for keys, `left_bits` what this end may still allocate of its own half.
    """

    link: str
    number: int
    state: BlockState
    bits: int
    left_bits: int
    pulses: int
    sifted_bits: int
    error_rate: float


class GenerationStatus(msgspec.Struct, frozen=True):
    """The two session keys of one generation of one end of a line: a-to-b first. Times in microseconds, or 0.

    `sources` are the key managers whose links carried each key; it is empty before the keys were drawn.
    """

    line: LineId
    end: End
    generation: int
    key_ids: tuple[KeyId, KeyId]
    sources: tuple[str, ...]
    drawn_at: int
    armed_at: int


class DrawnGeneration(msgspec.Struct, frozen=True):
    """One generation by its number and the IDs of its two keys, a-to-b first; `drawn_at` in microseconds."""

    generation: int
    key_ids: tuple[KeyId, KeyId]
    drawn_at: int


class LineGenerations(msgspec.Struct, frozen=True):
    """The newest generations that this city has drawn for one end of a line, the oldest of them first.

    `km` is the key manager they were drawn from, `rekey_interval_s` how often new ones are.
    """

    line: LineId
    end: End
    peer_qssp: PartyId
    km: PartyId
    rekey_interval_s: int
    drawn: tuple[DrawnGeneration, ...]


@listing(
    "/links/{link}/blocks",
    tag="km",
    item=BlockStatus,
    example=BlockStatus("jinan-weifang", 4, BlockState.AVAILABLE, 128_768, 46_080, 12_582_912, 454_504, 0.0046),
    path_type=LinkPath,
)
def list_blocks(km: Km, call: Call[LinkPath, Window, None]) -> Page[BlockStatus]:
    """The blocks of one QKD link, by number."""
    link = call.path.link
    if link not in km.configuration.links:
        raise absent("link", link)

    def items(*, after: str, limit: int) -> Iterator[tuple[str, KeyBlock]]:
        return km.blocks.items(f"{link}/", after=after, limit=limit)

    return page(f"blocks of {link}", call.query, items, lambda block: _block(km, block))


def _block(km: Km, block: KeyBlock) -> BlockStatus:
    own = pool.half(km.desk.party, km.configuration.links[block.link], block.units)
    left = own.stop - block.own_mark if block.state is BlockState.AVAILABLE else 0
    ledger = block.ledger
    return BlockStatus(
        link=block.link,
        number=block.number,
        state=block.state,
        bits=block.units * pool.UNIT_BITS,
        left_bits=left * pool.UNIT_BITS,
        pulses=ledger["pulses"],
        sifted_bits=ledger["key_basis_bits"] + ledger["test_basis_bits"],
        error_rate=ledger["error_rate"],
    )


@listing(
    "/lines/{line}/generations",
    tag="qssp",
    item=GenerationStatus,
    example=GenerationStatus(
        line=LineId("line-1"),
        end=End.A,
        generation=1,
        key_ids=(KeyId("f02d0743-5956-43e3-9aec-35e959c5fdbd"), KeyId("329cbf91-fb76-42fc-b58b-d548d9502bcb")),
        sources=("qkd:km/jinan–km/weifang–km/qingdao",) * 2,
        drawn_at=1_780_000_000_300_000,
        armed_at=1_780_000_000_400_000,
    ),
    path_type=LinePath,
)
def list_generations(qssp: Qssp, call: Call[LinePath, Window, None]) -> Page[GenerationStatus]:
    """The generations of session keys that this city drew for a line, by end and number; deleted lines keep theirs."""
    line = call.path.line

    def items(*, after: str, limit: int) -> Iterator[tuple[str, tuple[str, Generation]]]:
        return ((key, (key, kept)) for key, kept in qssp.generations.items(f"{line}/", after=after, limit=limit))

    return page(f"generations of {line}", call.query, items, lambda item: _generation(*item))


def _generation(key: str, kept: Generation) -> GenerationStatus:
    end = End(key.split("/")[1])
    ids = (kept.key_id_a_to_b, kept.key_id_b_to_a)
    return GenerationStatus(kept.line, end, kept.generation, ids, kept.sources, kept.drawn_at, kept.armed_at)


@listing(
    "/generations",
    tag="qssp",
    item=LineGenerations,
    example=LineGenerations(
        line=LineId("line-1"),
        end=End.A,
        peer_qssp=PartyId("qssp/qingdao"),
        km=PartyId("km/jinan"),
        rekey_interval_s=3600,
        drawn=(
            DrawnGeneration(
                generation=1,
                key_ids=(KeyId("f02d0743-5956-43e3-9aec-35e959c5fdbd"), KeyId("329cbf91-fb76-42fc-b58b-d548d9502bcb")),
                drawn_at=1_780_000_000_300_000,
            ),
        ),
    ),
    roles=WATCHERS,
)
def list_newest_generations(qssp: Qssp, call: Call[Any, Window, None]) -> Page[LineGenerations]:
    """The newest generations of every end of a line in service here, by line and end: what the QKMP compares."""
    return page("newest generations", call.query, qssp.services.items, lambda service: _newest(qssp, service))


def _newest(qssp: Qssp, service: LineService) -> LineGenerations:
    prefix = f"{service.line}/{service.end}/"
    after = f"{prefix}{max(0, service.generation - NEWEST):08}"
    drawn = tuple(
        DrawnGeneration(kept.generation, (kept.key_id_a_to_b, kept.key_id_b_to_a), kept.drawn_at)
        for kept in qssp.generations.values(prefix, after=after)
        if kept.drawn_at
    )
    km, interval = qssp.configuration.km, service.rekey_interval_s
    return LineGenerations(service.line, service.end, service.peer_qssp, km, interval, drawn)


KM_OPERATIONS: Final[tuple[Operation, ...]] = (list_blocks,)
QSSP_OPERATIONS: Final[tuple[Operation, ...]] = (list_generations, list_newest_generations)
