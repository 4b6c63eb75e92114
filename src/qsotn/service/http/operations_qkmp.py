"""What an operator reads at the QKMP: which keys its cities share, by identifier."""

from __future__ import annotations

from typing import Any, Final

from qsotn.domain import KeyId, LineId, PartyId
from qsotn.parties.qkmp import Qkmp, Synchronisation
from qsotn.service.http.declaring import listing
from qsotn.service.http.operation import Call
from qsotn.service.http.paging import Page, Window, page


@listing(
    "/synchronisations",
    tag="qkmp",
    item=Synchronisation,
    example=Synchronisation(
        line=LineId("line-1"),
        generation=1,
        master=PartyId("qssp/jinan"),
        responder=PartyId("qssp/qingdao"),
        key_ids=(KeyId("f02d0743-5956-43e3-9aec-35e959c5fdbd"), KeyId("329cbf91-fb76-42fc-b58b-d548d9502bcb")),
        at=1_780_000_000_400_000,
    ),
)
def list_synchronisations(qkmp: Qkmp, call: Call[Any, Window, None]) -> Page[Synchronisation]:
    """The generations of session keys that two cities share, by line and generation."""
    return page("synchronisations", call.query, qkmp.synchronisations.items, lambda shared: shared)


OPERATIONS: Final = (list_synchronisations,)
