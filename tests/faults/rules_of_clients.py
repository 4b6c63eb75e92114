"""What a client was told holds, and what it asked for once was done once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.faults.facts import History, Operation, Outcome, beginner, overtaken, rule

from qsotn.domain import ProcedureId
from qsotn.procedures.turn import State


@rule
def an_acknowledged_order_is_never_lost(history: History) -> Iterator[str]:
    """The party that acknowledged it has the procedure, of this kind and about this subject, and it ended."""
    for told in history.operations:
        if told.procedure is not None:
            yield from (f"{_named(told)}, but {wrong}" for wrong in _lost(history, told, told.procedure))


def _lost(history: History, told: Operation, procedure: ProcedureId) -> Iterator[str]:
    one = history.procedures.get(procedure, {}).get(beginner(told.kind))
    if one is None or one.party != told.party:
        yield f"{told.party} does not have it"
    elif (one.row.ladder, one.row.subject) != (told.kind, told.subject):
        yield f"that is another one: {one}"
    elif one.row.state is State.RUNNING and not overtaken(one.row):
        yield f"it did not end: {one}"


@rule
def a_repeated_order_is_one_procedure(history: History) -> Iterator[str]:
    """However often a request was repeated, it was always told the same; and another one something else."""
    by_request: dict[tuple[str, str], set[ProcedureId]] = defaultdict(set)
    by_procedure: dict[ProcedureId, set[str]] = defaultdict(set)
    for told in history.operations:
        if told.procedure is not None:
            by_request[told.party, told.request].add(told.procedure)
            by_procedure[told.procedure].add(told.request)
    for (party, request), procedures in by_request.items():
        if len(procedures) > 1:
            yield f"request {request} made {' and '.join(sorted(procedures))} at {party}"
    for procedure, requests in by_procedure.items():
        if len(requests) > 1:
            yield f"requests {' and '.join(sorted(requests))} were all told that they made {procedure}"


@rule
def nothing_was_done_that_nobody_ordered(history: History) -> Iterator[str]:
    """About a subject that clients ordered something of, there are not more procedures than accepted requests.

    A request without an answer may have been accepted, and counts as one.
    """
    requests: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for told in history.operations:
        asked = requests[told.kind, told.subject]
        asked[told.request] = asked.get(told.request, False) or told.outcome is not Outcome.REFUSED
    for (kind, subject), asked in requests.items():
        begun, most = history.begun.get((kind, subject), []), sum(asked.values())
        if len(begun) > most:
            names = ", ".join(one.row.procedure for one in begun)
            yield f"{begun[0].party} began {names} of {subject}: {len(begun)} of {kind} for {most} requests"


def _named(told: Operation) -> str:
    return f"{told.kind} of {told.subject} was acknowledged by {told.party} as {told.procedure} for {told.request}"
