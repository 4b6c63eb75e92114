"""What an operator reads at every party: the service itself, and its procedures."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from qsotn import __version__
from qsotn.crypto.certificates import read_certificate
from qsotn.domain import PartyId, ProcedureId, Role
from qsotn.runtime import Node
from qsotn.service.http.answer import Answer, json_answer
from qsotn.service.http.context import Service
from qsotn.service.http.declaring import absent, listing, reading
from qsotn.service.http.names import ProcedurePath
from qsotn.service.http.operation import DESK, OPERATORS, PREFIX, Call, Content, Success, operation
from qsotn.service.http.paging import Page, Window
from qsotn.service.http.procedures import (
    PROCEDURE_EXAMPLE,
    STEP_EXAMPLE,
    Procedure,
    Steps,
    every_procedure,
    procedure_view,
    rows_of,
)

_TAG: Final = "every party"


class ServiceStatus(msgspec.Struct, frozen=True):
    """One party's service. Times in microseconds since the epoch; `waiting` counts datagrams without a receipt."""

    party: PartyId
    role: Role
    version: str
    started_at: int
    store: Literal["sqlite", "postgresql"]
    ready: bool
    waiting: int
    rejections: dict[str, int]
    certificate_not_after: int


SERVICE_EXAMPLE: Final = ServiceStatus(
    party=PartyId("pomp/shandong"),
    role=Role.POMP,
    version=__version__,
    started_at=1_780_000_000_000_000,
    store="sqlite",
    ready=True,
    waiting=0,
    rejections={"ReplayedMessage": 2},
    certificate_not_after=1_811_536_000_000_000,
)


@operation(
    "GET",
    f"{PREFIX}/service",
    tag=_TAG,
    roles=OPERATORS,
    successes=(Success(200, "What it is now.", Content(ServiceStatus, SERVICE_EXAMPLE)),),
    problems=DESK,
)
async def read_service(call: Call[Any, Any, None]) -> Answer:
    """The party's service: who it is, how it stands, what waits.

    `rejections` counts the datagrams this process refused, by the name of the error; nothing of them was kept.
    """
    service = call.service
    return json_answer(200, await service.worker.call(lambda node: _status(node, service)))


def _status(node: Node, service: Service) -> ServiceStatus:
    with node.desk() as party:
        waiting = party.desk.transaction.undelivered(party.desk.now)
    not_after = read_certificate(node.identity.chain[0]).not_valid_after_utc
    return ServiceStatus(
        party=node.party,
        role=node.role,
        version=__version__,
        started_at=service.deployment.started_at,
        store=service.deployment.store,
        ready=service.ready().ready,
        waiting=waiting,
        rejections=dict(sorted(node.rejections.items())),
        certificate_not_after=int(not_after.timestamp()) * 1_000_000,
    )


@listing("/procedures", tag=_TAG, item=Procedure, example=PROCEDURE_EXAMPLE)
def list_procedures(party: Any, call: Call[Any, Window, None]) -> Page[Procedure]:
    """The procedures this party takes or took part in, by identifier."""
    return every_procedure(party.desk.transaction, call.query)


@reading("/procedures/{procedure}", tag=_TAG, result=Procedure, example=PROCEDURE_EXAMPLE, path_type=ProcedurePath)
def read_procedure(party: Any, call: Call[ProcedurePath, Any, None]) -> Procedure:
    """One procedure as this party knows it."""
    rows = rows_of(party.desk, ProcedureId(call.path.procedure))
    if not rows:
        raise absent("procedure", call.path.procedure)
    return procedure_view(rows)


@reading(
    "/procedures/{procedure}/steps",
    tag=_TAG,
    result=Steps,
    example=Steps((STEP_EXAMPLE,)),
    path_type=ProcedurePath,
)
def read_steps(party: Any, call: Call[ProcedurePath, Any, None]) -> Steps:
    """The steps of one procedure that this party accepted, in that order."""
    procedure = ProcedureId(call.path.procedure)
    if not rows_of(party.desk, procedure):
        raise absent("procedure", procedure)
    return Steps(tuple(party.desk.transaction.taken(procedure)))


OPERATIONS: Final = (read_service, list_procedures, read_procedure, read_steps)
