"""What a run left at the parties of a running province, for its report, read from their services.

It is the same facts that `qsotn.app.report` reads from stores. A party that had no part in a procedure has no steps of
it; one that does not answer fails the report, which is complete or not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from qsotn.app.operator import Operator, together
from qsotn.app.operator_orders import device, line_status, usage
from qsotn.app.report_form import BlockFacts, DeviceFacts, Facts, LineFacts, LinkFacts
from qsotn.domain import End, KeyId, LineId, PartyId, ProcedureId
from qsotn.errors import QsotnError
from qsotn.parties.km import BlockState
from qsotn.ports import Taken
from qsotn.procedures.leased_line import REKEY
from qsotn.procedures.turn import State
from qsotn.service.http.operations_keys import BlockStatus, GenerationStatus
from qsotn.service.http.operations_lines import LineStatus
from qsotn.service.http.procedures import Procedure, Steps

Links = dict[str, tuple[PartyId, PartyId]]


async def gather(operator: Operator, line: LineId, deletion: ProcedureId, links: Links) -> Facts:
    """Return what a line that was deleted left. Raises `QsotnError` if it was not, or if a party cannot be asked."""
    held, record = await line_status(operator, line), await usage(operator, line)
    if record is None:
        raise QsotnError(f"{line} has no usage record yet")
    return Facts(
        devices=[await _device(operator, cpe) for cpe in (held.cpe_a, held.cpe_b)],
        line=await _line(operator, held, deletion),
        record=record,
        rekeys=await completed_rekeys(operator, held),
        sources=await _sources(operator, held),
        links=[await _link(operator, link, ends) for link, ends in links.items()],
    )


async def completed_rekeys(operator: Operator, line: LineStatus) -> int:
    """Return how many key changes end A of a line has completed."""
    procedures = await operator.every(line.cpe_a, "/procedures", Procedure)
    changes = (one for one in procedures if one.ladder == REKEY.name and one.subject == line.line)
    return sum(one.state is State.COMPLETED for one in changes)


async def _device(operator: Operator, cpe: PartyId) -> DeviceFacts:
    known = await device(operator, cpe)
    return DeviceFacts(cpe, known.state, await _journals(operator, known.work_order))


async def _line(operator: Operator, line: LineStatus, deletion: ProcedureId) -> LineFacts:
    establishment = await _journals(operator, line.procedure)
    return LineFacts(line.line, line.state, line.quality.odu, establishment, await _journals(operator, deletion))


async def _journals(operator: Operator, procedure: ProcedureId) -> list[Taken]:
    """Return the steps of one procedure from every party's journal: who took part is known to nobody alone."""
    journals = await together(*(_journal(operator, party, procedure) for party in operator.parties))
    return list(chain.from_iterable(journals))


async def _journal(operator: Operator, party: PartyId, procedure: ProcedureId) -> Sequence[Taken]:
    steps = await operator.find(party, f"/procedures/{procedure}/steps", Steps)
    return () if steps is None else steps.items


async def _sources(operator: Operator, line: LineStatus) -> dict[KeyId, str]:
    generations = await operator.every(line.qssp_a, f"/lines/{line.line}/generations", GenerationStatus)
    return {
        key_id: source
        for one in generations
        if one.end is End.A and one.sources
        for key_id, source in zip(one.key_ids, one.sources, strict=True)
    }


async def _link(operator: Operator, link: str, ends: tuple[PartyId, PartyId]) -> LinkFacts:
    """Return a link's blocks that both ends have agreed on: the twin may be bringing another one just now."""
    near, far = [await _blocks(operator, km, link) for km in ends]
    agreed = sorted(near.keys() & far.keys())
    blocks = [BlockFacts(one.pulses, one.sifted_bits, one.error_rate, one.bits) for one in map(near.get, agreed) if one]
    return LinkFacts(link, blocks, sum(side[number].left_bits for side in (near, far) for number in agreed))


async def _blocks(operator: Operator, km: PartyId, link: str) -> dict[int, BlockStatus]:
    found = await operator.every(km, f"/links/{link}/blocks", BlockStatus)
    return {one.number: one for one in found if one.state is BlockState.AVAILABLE}
