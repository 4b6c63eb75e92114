"""What a finished run left in the parties' own stores, for its report: nothing in it is remembered by the demo."""

from __future__ import annotations

from collections.abc import Sequence

from qsotn.app.province import CPE_A, CPE_B, LINE, LINKS, POMP, QSSP_A, Province
from qsotn.app.report_form import (
    BlockFacts,
    DeviceFacts,
    Facts,
    KeyUsed,
    LineFacts,
    LinkFacts,
    StepTaken,
    keys_of,
    steps_of,
)
from qsotn.domain import End, KeyId, LineId, PartyId, ProcedureId
from qsotn.errors import QsotnError
from qsotn.keynetwork.pool import UNIT_BITS
from qsotn.parties.km import KeyBlock
from qsotn.parties.pomp import UsageRecord
from qsotn.ports import Taken
from qsotn.procedures.deletion import DELETION
from qsotn.procedures.leased_line import REKEY
from qsotn.procedures.turn import State


def gather(province: Province) -> Facts:
    """Return what a run that ended with the line's deletion left. Raises `QsotnError` before that."""
    record = usage_record(province)
    return Facts(
        devices=[_device(province, cpe) for cpe in (CPE_A, CPE_B)],
        line=_line(province),
        record=record,
        rekeys=_rekeys(province),
        sources=_sources(province, record.line),
        links=[_link(province, link, ends) for link, ends in LINKS.items()],
    )


def usage_record(province: Province) -> UsageRecord:
    """Return the POMP's record of the line. Raises `QsotnError` before the line was deleted."""
    with province.nodes[POMP].desk() as pomp:
        record = pomp.usage.get(LINE)
    if record is None:
        raise QsotnError(f"{LINE} has no usage record yet")
    return record  # type: ignore[no-any-return]  # a Node's desk is of its own party's type


def steps_taken(province: Province, procedure: ProcedureId) -> tuple[StepTaken, ...]:
    """Return one procedure's steps as their receivers accepted them, from every party's journal."""
    return steps_of(_journals(province, procedure))


def keys_used(province: Province, record: UsageRecord) -> tuple[KeyUsed, ...]:
    """Return every session key of the line, with the frames its own sender encrypted under it."""
    return keys_of(record, _sources(province, record.line))


def _journals(province: Province, procedure: ProcedureId) -> list[Taken]:
    taken: list[Taken] = []
    for store in province.stores.values():
        with store.transaction() as transaction:
            taken += transaction.taken(procedure)
    return taken


def _device(province: Province, cpe: PartyId) -> DeviceFacts:
    with province.nodes[POMP].desk() as pomp:
        device = pomp.devices.require(cpe)
    return DeviceFacts(cpe, device.state, _journals(province, device.work_order))


def _line(province: Province) -> LineFacts:
    with province.nodes[POMP].desk() as pomp:
        line = pomp.lines.require(LINE)
    with province.nodes[POMP].rows() as rows:
        removed = next(row for row in rows if row.ladder == DELETION.name and row.subject == LINE)
    establishment, deletion = (_journals(province, procedure) for procedure in (line.procedure, removed.procedure))
    return LineFacts(LINE, line.state, line.quality.odu, establishment, deletion)


def _rekeys(province: Province) -> int:
    with province.nodes[CPE_A].rows() as rows:
        return sum(row.ladder == REKEY.name and row.state is State.COMPLETED for row in rows)


def _sources(province: Province, line: LineId) -> dict[KeyId, str]:
    with province.nodes[QSSP_A].desk() as qssp:
        kept = list(qssp.generations.values(f"{line}/{End.A}/"))
    return {
        key_id: source
        for generation in kept
        for key_id, source in zip((generation.key_id_a_to_b, generation.key_id_b_to_a), generation.sources, strict=True)
    }


def _link(province: Province, link: str, ends: tuple[PartyId, PartyId]) -> LinkFacts:
    remaining = 0
    blocks: Sequence[KeyBlock] = ()
    for party in ends:
        with province.nodes[party].desk() as km:
            blocks = list(km.blocks.values(f"{link}/"))
            remaining += km.available_bits(link)
    return LinkFacts(link, [_block(block) for block in blocks], remaining)


def _block(block: KeyBlock) -> BlockFacts:
    ledger = block.ledger
    sifted = ledger["key_basis_bits"] + ledger["test_basis_bits"]
    return BlockFacts(ledger["pulses"], sifted, ledger["error_rate"], block.units * UNIT_BITS)
