"""The interfaces between parties: datagrams in, receipts out, and how a neighbour watches its procedures.

An interface is served where it joins this party's role, for peers of the roles at its other end. On Iaq nobody but
the PMP, its courier, meets a QSSP, so that a device's datagrams pass the PMP's gate. A device has no address: nothing
is served at it, and it collects from the mailbox.

`post_messages` is the path that everything a province does takes many times. It reads the body into one buffer, cuts
it at the heads of its items, and leaves everything inside to the desk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from qsotn.domain import ProcedureId, Role
from qsotn.interfaces import BY_NAME, LINE, Interface
from qsotn.runtime.admission import Bearer
from qsotn.runtime.batch import COURIER
from qsotn.service.http import conditional
from qsotn.service.http.answer import Answer, Receive, Scope, Send, encoded, json_answer, send_answer
from qsotn.service.http.context import Peer, Service
from qsotn.service.http.declaring import IF_NONE_MATCH, absent, at_desk
from qsotn.service.http.framing import CBOR_SEQUENCE, LARGEST_SEQUENCE, split
from qsotn.service.http.names import ProcedurePath
from qsotn.service.http.operation import (
    ALWAYS,
    BODY,
    DESK,
    Call,
    Content,
    Endpoint,
    Operation,
    Success,
    operation,
    words_of,
)
from qsotn.service.http.paging import Page, Window
from qsotn.service.http.problems import (
    BAD_PROOF,
    BAD_SIGNATURE,
    EXPIRED_MESSAGE,
    MALFORMED_MESSAGE,
    OUT_OF_ORDER,
    REPLAYED_MESSAGE,
    WRONG_PARTY,
    answer_to,
    problem_of,
)
from qsotn.service.http.procedures import (
    NEIGHBOUR_EXAMPLE,
    SCANNED,
    NeighbourProcedure,
    neighbour_view,
    procedure_page,
    rows_of,
    sits_in,
)
from qsotn.service.http.request import NoParameters, check_media_type, query_parameters, read_body
from qsotn.service.taking import Receipts

REFUSALS: Final = (
    MALFORMED_MESSAGE,
    BAD_SIGNATURE,
    BAD_PROOF,
    WRONG_PARTY,
    REPLAYED_MESSAGE,
    OUT_OF_ORDER,
    EXPIRED_MESSAGE,
)
"""Why a datagram is not taken. A party's own *no* is none of them: it is taken, and answered by a datagram."""
ACCEPTED: Final = 202


class Receipt(msgspec.Struct, frozen=True):
    """What became of one datagram: 202 if it is durable here, and whose procedure it is; else why not."""

    status: int
    title: str
    detail: str
    procedure: str


class ReceiptList(msgspec.Struct, frozen=True):
    """One receipt a datagram, in their order."""

    receipts: tuple[Receipt, ...]


RECEIPTS_EXAMPLE: Final = ReceiptList((Receipt(ACCEPTED, "taken", "", "8c9e6679-7425-40de-944b-e07fc1f90ae7"),))


def doors(role: Role) -> dict[Interface, frozenset[Role]]:
    """Return the interfaces that a party of this role serves, each with the roles it serves it for."""
    if role is Role.CPE:
        return {}
    return {
        interface: visitors
        for interface in BY_NAME.values()
        if interface != LINE and (visitors := _at(interface, role))
    }


def _at(interface: Interface, role: Role) -> frozenset[Role]:
    if interface.courier is role:
        return frozenset(end for pair in interface.joins for end in pair)
    far = frozenset(other for pair in interface.joins for own, other in (pair, pair[::-1]) if own is role)
    return frozenset({interface.courier}) if far and interface.courier is not None else far


def interface_operations(role: Role) -> tuple[Operation, ...]:
    """Return what a party of this role serves its neighbours, interface by interface."""
    return tuple(made for interface, visitors in doors(role).items() for made in _operations(interface, visitors))


def _operations(interface: Interface, visitors: frozenset[Role]) -> tuple[Operation, ...]:
    prefix = f"/{interface.name.lower()}/v1"
    return (
        _messages(interface, prefix, visitors),
        _procedures(interface, prefix, visitors),
        _procedure(interface, prefix, visitors),
    )


# --- messages -------------------------------------------------------------------------------------------------------


def _messages(interface: Interface, prefix: str, visitors: frozenset[Role]) -> Operation:
    endpoint = _message_endpoint(interface.name, prefix)
    summary, description = words_of(endpoint)
    return Operation(
        method="POST",
        path=f"{prefix}/messages",
        name=f"post_{interface.name.lower()}_messages",
        summary=summary,
        description=description,
        tag=interface.name,
        roles=visitors,
        endpoint=endpoint,
        successes=(Success(ACCEPTED, "What became of each datagram.", Content(ReceiptList, RECEIPTS_EXAMPLE)),),
        problems=(*ALWAYS, *REFUSALS, *BODY, *DESK),
        body=Content(media_type=CBOR_SEQUENCE, schema={"contentMediaType": CBOR_SEQUENCE}),
    )


def _message_endpoint(interface: str, prefix: str) -> Endpoint:
    async def post_messages(service: Service, peer: Peer, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand over datagrams of this interface.

        The body is a CBOR sequence (RFC 8742) of 1 to 64 byte strings, each a datagram of at most 4 MiB, 8 MiB in all.
        Each is taken or refused by itself; a receipt with status 202 says that it is durable here. If there was one
        datagram, `Location` names its procedure, and if that one was refused, the answer is the problem itself. A
        datagram that was taken before gets its receipt again.
        """
        query_parameters(scope, NoParameters)
        check_media_type(scope, CBOR_SEQUENCE)
        datagrams = split(await read_body(scope, receive, LARGEST_SEQUENCE))
        receipts = await service.worker.receive(datagrams, Bearer(peer.party, interface))
        await send_answer(send, _answer(receipts, len(datagrams), prefix, scope["path"]))

    return post_messages


def _answer(receipts: Receipts, count: int, prefix: str, path: str) -> Answer:
    if count == 1 and receipts.refused:
        return answer_to(receipts.refused[0], "POST", path)
    listed = ReceiptList(tuple(_receipt(receipts, position, path) for position in range(count)))
    if count == 1 and receipts.taken[0] != COURIER:
        return json_answer(ACCEPTED, listed, ("location", f"{prefix}/procedures/{receipts.taken[0]}"))
    return json_answer(ACCEPTED, listed)


def _receipt(receipts: Receipts, position: int, path: str) -> Receipt:
    if position in receipts.refused:
        problem = problem_of(receipts.refused[position], "POST", path)
        return Receipt(problem.status, problem.title, problem.detail, "")
    procedure = receipts.taken[position]
    return Receipt(ACCEPTED, "taken", "", "" if procedure == COURIER else procedure)


# --- procedures -----------------------------------------------------------------------------------------------------


def _procedures(interface: Interface, prefix: str, visitors: frozenset[Role]) -> Operation:
    async def list_procedures(call: Call[Any, Window, None]) -> Answer:
        """List the procedures in which the caller has a seat, as far as this party knows them.

        A page may be empty and still have a next one.
        """

        def read(party: Any) -> Page[NeighbourProcedure]:
            transaction, visitor = party.desk.transaction, call.peer.party
            return procedure_page(transaction, call.query, neighbour_view, lambda rows: sits_in(rows, visitor), SCANNED)

        return json_answer(200, await at_desk(call, read))

    return operation(
        "GET",
        f"{prefix}/procedures",
        tag=interface.name,
        roles=visitors,
        query_type=Window,
        successes=(Success(200, "A page.", Content(Page[NeighbourProcedure], Page((NEIGHBOUR_EXAMPLE,), None))),),
        problems=DESK,
        words=_named(list_procedures, f"list_{interface.name.lower()}_procedures"),
    )(list_procedures)


def _procedure(interface: Interface, prefix: str, visitors: frozenset[Role]) -> Operation:
    async def read_procedure(call: Call[ProcedurePath, Any, None]) -> Answer:
        """Read one procedure in which the caller has a seat: how it stands here, and what is awaited."""

        def read(party: Any) -> NeighbourProcedure:
            rows = rows_of(party.desk, ProcedureId(call.path.procedure))
            if not sits_in(rows, call.peer.party):
                raise absent("procedure", call.path.procedure)
            return neighbour_view(rows)

        shown = encoded(await at_desk(call, read))
        return conditional.represent(shown, call.header(b"if-none-match"))

    return operation(
        "GET",
        f"{prefix}/procedures/{{procedure}}",
        tag=interface.name,
        roles=visitors,
        path_type=ProcedurePath,
        headers=(IF_NONE_MATCH,),
        successes=(
            Success(200, "What it is now.", Content(NeighbourProcedure, NEIGHBOUR_EXAMPLE), ("ETag",)),
            Success(304, "It is what the client has.", headers=("ETag",)),
        ),
        problems=DESK,
        words=_named(read_procedure, f"read_{interface.name.lower()}_procedure"),
    )(read_procedure)


def _named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    function.__name__ = name
    return function
