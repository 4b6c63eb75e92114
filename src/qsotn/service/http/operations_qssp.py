"""What an operator reads at a QSSP: the key files of its devices by count, and the lines it serves."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from qsotn.domain import End, LineId, PartyId, ProcedureId
from qsotn.parties.qssp import Binding, BindingState, LineService, Qssp
from qsotn.service.http.declaring import listing
from qsotn.service.http.operation import Call
from qsotn.service.http.paging import Page, Window, page


class KeyFileStatus(msgspec.Struct, frozen=True):
    """A device of this city and its key file: how many entries it has, and how many are not burned yet."""

    cpe: PartyId
    state: BindingState
    binding_id: str
    key_file_id: str
    entries: int
    left: int


@listing(
    "/key-files",
    tag="qssp",
    item=KeyFileStatus,
    example=KeyFileStatus(
        cpe=PartyId("cpe/jinan-1"),
        state=BindingState.ACTIVE,
        binding_id="0b7f1b8e-3f0e-4c43-9d0e-5a9d0a1c2b3d",
        key_file_id="5d0c9f0a-7e0b-4a5c-8f5e-0f6c1d2e3a4b",
        entries=64,
        left=61,
    ),
)
def list_key_files(qssp: Qssp, call: Call[Any, Window, None]) -> Page[KeyFileStatus]:
    """The devices bound here, by identifier, and what is left of their key files."""
    return page("key-files", call.query, qssp.bindings.items, lambda binding: _status(qssp, binding))


def _status(qssp: Qssp, binding: Binding) -> KeyFileStatus:
    file = qssp.key_files.get(binding.key_file_id)
    entries = 0 if file is None else len(file.entries)
    left = 0 if file is None else entries - file.next_entry
    return KeyFileStatus(binding.cpe, binding.state, binding.binding_id, binding.key_file_id, entries, left)


@listing(
    "/services",
    tag="qssp",
    item=LineService,
    example=LineService(
        line=LineId("line-1"),
        cpe=PartyId("cpe/jinan-1"),
        end=End.A,
        peer_cpe=PartyId("cpe/qingdao-1"),
        peer_qssp=PartyId("qssp/qingdao"),
        rekey_interval_s=3600,
        procedure=ProcedureId("8c9e6679-7425-40de-944b-e07fc1f90ae7"),
        confirmed=True,
        generation=3,
        keys_drawn=6,
        keys_delivered=6,
        entries_burned=3,
    ),
)
def list_services(qssp: Qssp, call: Call[Any, Window, None]) -> Page[LineService]:
    """The ends of lines that are served here, by line and end, with the keys they took."""
    return page("services", call.query, qssp.services.items, lambda service: service)


OPERATIONS: Final = (list_key_files, list_services)
