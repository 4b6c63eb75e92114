"""How a province stands with keys: what its links hold, what its devices hold, what its lines took."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import aiohttp
import msgspec

from qsotn.app.operator import Operator
from qsotn.app.operator_errors import reason_of
from qsotn.domain import LineId, PartyId, Role, role_of
from qsotn.errors import QsotnError
from qsotn.parties.pomp import UsageRecord
from qsotn.parties.qssp import BindingState, LineService
from qsotn.service.http.operations_km import LinkSupply
from qsotn.service.http.operations_qssp import KeyFileStatus

T = TypeVar("T")

_TWIN_PATIENCE_S: Final = 5.0
_READY: Final = 200


class LinkEnd(msgspec.Struct, frozen=True):
    """One end of a QKD link: what it may still allocate, and what it wrote off because the far end does not share it.

    The twin distils when an end has less than `fill_bits`.
    """

    link: str
    km: PartyId
    neighbour: PartyId
    available_bits: int
    fill_bits: int
    blocks: int
    pending_blocks: int
    lost_bits: int


class KeyFileHeld(msgspec.Struct, frozen=True):
    """A device's key file as its home QSSP counts it."""

    qssp: PartyId
    cpe: PartyId
    state: BindingState
    key_file_id: str
    entries: int
    left: int


class KeysDrawn(msgspec.Struct, frozen=True):
    """What one end of a line took, in service or after its deletion: keys, and entries of the device's key file."""

    line: LineId
    cpe: PartyId
    in_service: bool
    keys_drawn: int
    keys_delivered: int
    entries_burned: int


class TwinStatus(msgspec.Struct, frozen=True):
    """Whether the QKD twin has filled every link, or why not."""

    ready: bool
    reason: str
    fill_bits: int


class Unreached(msgspec.Struct, frozen=True):
    """A party that could not be asked, and why."""

    party: PartyId
    reason: str


class KeyStatus(msgspec.Struct, frozen=True):
    """Everything about keys that can be counted; `unreached` names whose counts are missing."""

    twin: TwinStatus
    links: tuple[LinkEnd, ...]
    key_files: tuple[KeyFileHeld, ...]
    lines: tuple[KeysDrawn, ...]
    unreached: tuple[Unreached, ...]


async def key_status(operator: Operator, fill_bits: int, twin_monitoring: str) -> KeyStatus:
    """Ask all key managers, all QSSPs, the POMP and the twin, at once; who does not answer is named."""
    survey = _Survey(operator, fill_bits)
    links, key_files, serving, deleted, twin = await asyncio.gather(
        survey.of(Role.KM, survey.links),
        survey.of(Role.QSSP, survey.key_files),
        survey.of(Role.QSSP, survey.services),
        survey.of(Role.POMP, survey.deleted),
        _twin(twin_monitoring, fill_bits),
    )
    drawn = sorted([*serving, *deleted], key=lambda one: (one.line, one.cpe))
    links.sort(key=lambda one: (one.link, one.km))
    return KeyStatus(twin, tuple(links), tuple(key_files), tuple(drawn), tuple(survey.unreached.values()))


class _Survey:
    """Questions to all parties of a role."""

    def __init__(self, operator: Operator, fill_bits: int) -> None:
        self._operator = operator
        self._fill_bits = fill_bits
        self.unreached: dict[PartyId, Unreached] = {}

    async def of(self, role: Role, ask: Callable[[PartyId], Awaitable[Sequence[T]]]) -> list[T]:
        """Ask every party of a role; return all answers."""
        asked = [party for party in self._operator.parties if role_of(party) is role]
        answers = await asyncio.gather(*(self._answer(party, ask) for party in asked))
        return [one for answer in answers for one in answer]

    async def _answer(self, party: PartyId, ask: Callable[[PartyId], Awaitable[Sequence[T]]]) -> Sequence[T]:
        try:
            return await ask(party)
        except QsotnError as error:
            self.unreached[party] = Unreached(party, str(error))
            return ()

    async def links(self, km: PartyId) -> list[LinkEnd]:
        """Ask a key manager for its links."""
        supplies = await self._operator.every(km, "/links", LinkSupply)
        return [
            LinkEnd(
                link=one.link,
                km=km,
                neighbour=one.neighbour,
                available_bits=one.available_bits,
                fill_bits=self._fill_bits,
                blocks=one.blocks,
                pending_blocks=one.pending_blocks,
                lost_bits=one.lost_bits,
            )
            for one in supplies
        ]

    async def key_files(self, qssp: PartyId) -> list[KeyFileHeld]:
        """Ask a QSSP for the key files of its devices."""
        held = await self._operator.every(qssp, "/key-files", KeyFileStatus)
        return [KeyFileHeld(qssp, one.cpe, one.state, one.key_file_id, one.entries, one.left) for one in held]

    async def services(self, qssp: PartyId) -> list[KeysDrawn]:
        """Ask a QSSP for the line ends it serves."""
        served = await self._operator.every(qssp, "/services", LineService)
        return [
            KeysDrawn(one.line, one.cpe, True, one.keys_drawn, one.keys_delivered, one.entries_burned) for one in served
        ]

    async def deleted(self, pomp: PartyId) -> list[KeysDrawn]:
        """Ask the POMP for what deleted lines had used."""
        records = await self._operator.every(pomp, "/usage", UsageRecord)
        return [
            KeysDrawn(one.line, one.cpe, False, one.keys_drawn, one.keys_delivered, one.entries_burned)
            for record in records
            for one in record.key_usage
        ]


async def _twin(monitoring: str, fill_bits: int) -> TwinStatus:
    """Ask the twin's monitoring listener, which is all that it serves."""
    timeout = aiohttp.ClientTimeout(total=_TWIN_PATIENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{monitoring}/readyz") as response,
        ):
            ready, answer = response.status == _READY, await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return TwinStatus(False, f"not reached at {monitoring}: {reason_of(error)}", fill_bits)
    return TwinStatus(ready, "" if ready else _why(answer), fill_bits)


def _why(answer: bytes) -> str:
    try:
        return str(msgspec.json.decode(answer, type=dict[str, object]).get("detail", ""))
    except msgspec.DecodeError:
        return "it does not say why"
