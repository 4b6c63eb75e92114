"""The three shapes an operator's operations have: read one thing, list many, give an order.

A function declared here runs at the desk, in one transaction; it gets the party and the call. What is common to its
shape is done around it: ETags, cursors, idempotency, preconditions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from qsotn.domain import ProcedureId, Role
from qsotn.parties.pomp import Pomp
from qsotn.procedures.turn import Work
from qsotn.runtime import Node
from qsotn.service.http import conditional, idempotency
from qsotn.service.http.answer import Answer, encoded, json_answer
from qsotn.service.http.operation import (
    DESK,
    OPERATORS,
    PREFIX,
    Act,
    Call,
    Content,
    HeaderParameter,
    Operation,
    Success,
    operation,
)
from qsotn.service.http.paging import Page, Window
from qsotn.service.http.problems import (
    INVALID_REQUEST,
    KEY_USED_OTHERWISE,
    NO_IDEMPOTENCY_KEY,
    NOT_FOUND,
    NOT_READY,
    PRECONDITION_FAILED,
    REFUSED,
    HttpProblem,
)
from qsotn.service.http.procedures import PROCEDURE_EXAMPLE, Procedure, procedure_view
from qsotn.service.http.request import NoParameters
from qsotn.service.orders import Terms
from qsotn.wire import TRACEPARENT as TRACEPARENT_SYNTAX

T = TypeVar("T")

IF_NONE_MATCH: Final = HeaderParameter(
    "If-None-Match", "ETags the client has: answered 304 if one still holds.", conditional.ENTITY_TAGS
)
IF_MATCH: Final = HeaderParameter(
    "If-Match", "ETags of the resource as the client saw it: refused with 412 if it changed.", conditional.ENTITY_TAGS
)
IDEMPOTENCY_KEY: Final = HeaderParameter(
    "Idempotency-Key",
    "A fresh name for this order, and the same one when it is sent again; kept for 24 hours.",
    idempotency.SYNTAX,
    required=True,
    example="8e03978e-40d5-43e8-bc93-6894a57f9324",
)
TRACEPARENT: Final = HeaderParameter(
    "traceparent", "The trace the order belongs to (W3C Trace Context); what is not one is ignored."
)

WRITING: Final = (*DESK, NOT_READY, NO_IDEMPOTENCY_KEY, KEY_USED_OTHERWISE, INVALID_REQUEST, REFUSED)


def absent(what: str, name: str) -> HttpProblem:
    """Say that there is no such resource."""
    return HttpProblem(NOT_FOUND, f"there is no {what} {name!r} here")


def terms_of(call: Call[Any, Any, Any]) -> Terms:
    """Return what orders are given under here. Raises `HttpProblem` 503 where the service was not told."""
    if call.service.deployment.terms is None:
        raise HttpProblem(NOT_READY, "this service was configured without a PMP to carry orders out")
    return call.service.deployment.terms


async def at_desk(call: Call[Any, Any, Any], read: Callable[[Any], T]) -> T:
    """Read a party's records in one transaction."""

    def run(node: Node) -> T:
        with node.desk() as party:
            return read(party)

    return await call.service.worker.call(run)


def reading(
    path: str, *, tag: str, result: Any, example: object, path_type: type[msgspec.Struct] = NoParameters
) -> Callable[[Callable[[Any, Any], object]], Operation]:
    """Declare how an operator reads one resource."""

    def declare(read: Callable[[Any, Any], object]) -> Operation:
        async def act(call: Call[Any, Any, Any]) -> Answer:
            value = await at_desk(call, lambda party: read(party, call))
            return conditional.represent(encoded(value), call.header(b"if-none-match"))

        return operation(
            "GET",
            PREFIX + path,
            tag=tag,
            roles=OPERATORS,
            path_type=path_type,
            headers=(IF_NONE_MATCH,),
            successes=(
                Success(200, "What it is now.", Content(result, example), ("ETag",)),
                Success(304, "It is what the client has.", headers=("ETag",)),
            ),
            problems=(*DESK, NOT_FOUND),
            words=read,
        )(act)

    return declare


def listing(
    path: str,
    *,
    tag: str,
    item: Any,
    example: object,
    path_type: type[msgspec.Struct] = NoParameters,
    roles: frozenset[Role] = OPERATORS,
) -> Callable[[Callable[[Any, Any], Page[Any]]], Operation]:
    """Declare how an operator, or whoever else `roles` names, lists resources."""

    def declare(read: Callable[[Any, Any], Page[Any]]) -> Operation:
        async def act(call: Call[Any, Any, Any]) -> Answer:
            return json_answer(200, await at_desk(call, lambda party: read(party, call)))

        return operation(
            "GET",
            PREFIX + path,
            tag=tag,
            roles=roles,
            path_type=path_type,
            query_type=Window,
            successes=(Success(200, "A page.", Content(Page[item], Page((example,), None))),),
            problems=DESK,
            words=read,
        )(act)

    return declare


def ordering(
    method: str,
    path: str,
    *,
    tag: str,
    path_type: type[msgspec.Struct] = NoParameters,
    query_type: type[msgspec.Struct] = NoParameters,
    body: Content | None = None,
    resource: Callable[[Pomp, Any], object] | None = None,
) -> Callable[[Callable[[Pomp, Work, Any], ProcedureId]], Operation]:
    """Declare an order that begins a procedure. `resource` reads what it is about, for `If-Match` and 404."""

    def declare(order: Callable[[Pomp, Work, Any], ProcedureId]) -> Operation:
        def place(pomp: Pomp, work: Work, call: Call[Any, Any, Any]) -> Answer:
            if resource is not None:
                conditional.check_match(encoded(resource(pomp, call)), call.header(b"if-match"))
            return _accepted(work, order(pomp, work, call))

        conditions, failed = ((IF_MATCH,), (PRECONDITION_FAILED,)) if resource else ((), ())
        return operation(
            method,
            PREFIX + path,
            tag=tag,
            roles=OPERATORS,
            path_type=path_type,
            query_type=query_type,
            body=body,
            headers=(IDEMPOTENCY_KEY, TRACEPARENT, *conditions),
            successes=(Success(202, "The procedure has begun.", Content(Procedure, PROCEDURE_EXAMPLE), ("Location",)),),
            problems=(*WRITING, *failed),
            words=order,
        )(idempotent(place))

    return declare


def idempotent(place: Callable[[Pomp, Work, Call[Any, Any, Any]], Answer]) -> Act:
    """Make an act of something that changes the POMP's records: done once for each Idempotency-Key."""

    async def act(call: Call[Any, Any, Any]) -> Answer:
        key, asked = call.header(idempotency.HEADER), (call.scope["method"], call.scope["path"], call.query, call.body)
        request = idempotency.asked(call.peer.party, key, *asked)
        trace = _traceparent(call)

        def start(pomp: Pomp, work: Work) -> Answer:
            return idempotency.once(pomp.desk, request, lambda: place(pomp, work, call))

        return await call.service.worker.order(start, trace)

    return act


def _traceparent(call: Call[Any, Any, Any]) -> str:
    given = call.header(b"traceparent") or ""
    return given if re.fullmatch(TRACEPARENT_SYNTAX, given) else ""


def _accepted(work: Work, procedure: ProcedureId) -> Answer:
    begun = [row for row in work.rows.values() if row.procedure == procedure]
    shown = msgspec.structs.replace(procedure_view(begun), traceparent=work.traceparent)
    return json_answer(202, shown, ("location", f"{PREFIX}/procedures/{procedure}"))
