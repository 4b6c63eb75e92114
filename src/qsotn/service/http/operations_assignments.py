"""What another key manager has done with the ready keys it shares with this one (Kx; the API is ours).

There is no key in it but under one-time pads. Every operation may be repeated: the same again changes nothing.
"""

from __future__ import annotations

from typing import Any, Final

from qsotn.domain import Role
from qsotn.service.delivery.assignments import (
    ASSIGNMENTS,
    STOCKS,
    VOIDS,
    Assignment,
    AssignmentAnswer,
    AssignmentRequest,
    Named,
    RefusedAssignment,
    Stock,
    StockQuestion,
    VoidRequest,
)
from qsotn.service.http.answer import Answer, json_answer
from qsotn.service.http.context import Assigned
from qsotn.service.http.operation import DESK, Call, Content, Operation, Success, operation
from qsotn.service.http.problems import NOT_FOUND, HttpProblem

_KEY_MANAGERS: Final = frozenset({Role.KM})
_TAG: Final = "Kx"
_ASSIGNMENTS_EXAMPLE: Final = AssignmentRequest((Assignment(1, (4_711,), 256, "bank", ("branch",)),))
_ANSWER_EXAMPLE: Final = AssignmentAnswer(
    (RefusedAssignment(0, "KEYS_NOT_FOUND", "one or more keys specified are not found on KME"),)
)
_VOIDS_EXAMPLE: Final = VoidRequest((Named("km/qingdao", 1, (4_711,)),))


def _assigned(call: Call[Any, Any, Any]) -> Assigned:
    assigned = call.service.deployment.assigned
    if assigned is None:
        raise HttpProblem(NOT_FOUND, "this key manager has no ready keys: it serves no SAE")
    return assigned


@operation(
    "POST",
    ASSIGNMENTS,
    tag=_TAG,
    roles=_KEY_MANAGERS,
    body=Content(AssignmentRequest, _ASSIGNMENTS_EXAMPLE),
    successes=(Success(200, "What was refused; all else is durable.", Content(AssignmentAnswer, _ANSWER_EXAMPLE)),),
    problems=(*DESK, NOT_FOUND),
)
async def assign_keys(call: Call[Any, Any, AssignmentRequest]) -> Answer:
    """Have keys of whoever asks wait for slave SAEs here.

    The pool is the one that the asking key manager is the origin of. Each assignment stands alone.
    """
    return json_answer(200, await _assigned(call).assign(call.peer.party, call.body))


@operation(
    "POST",
    VOIDS,
    tag=_TAG,
    roles=_KEY_MANAGERS,
    body=Content(VoidRequest, _VOIDS_EXAMPLE),
    successes=(Success(204, "None of them can be had any more."),),
    problems=(*DESK, NOT_FOUND),
)
async def void_keys(call: Call[Any, Any, VoidRequest]) -> Answer:
    """Destroy keys of whoever asks that no SAE was given; those that are not here change nothing."""
    await _assigned(call).void(call.peer.party, call.body)
    return Answer(204)


@operation(
    "POST",
    STOCKS,
    tag=_TAG,
    roles=_KEY_MANAGERS,
    body=Content(StockQuestion, StockQuestion(1)),
    successes=(Success(200, "How it stands.", Content(Stock, Stock(4_800, 4_288, 4_800))),),
    problems=(*DESK, NOT_FOUND),
)
async def tell_stock(call: Call[Any, Any, StockQuestion]) -> Answer:
    """How a pool of whoever asks stands here, so that its origin promises no key that is not here.

    All that has arrived is laid in first.
    """
    return json_answer(200, await _assigned(call).stock(call.peer.party, call.body))


OPERATIONS: Final[tuple[Operation, ...]] = (assign_keys, void_keys, tell_stock)
