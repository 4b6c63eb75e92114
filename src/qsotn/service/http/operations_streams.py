"""What the key manager of a stream's peer asks of the one that owns the stream (Kx; the API is ours), and an operator.

Streams are those of ETSI GS QKD 004. There is no key in any of it: the peer finds its copy among its ready keys.
"""

from __future__ import annotations

from typing import Any, Final

from qsotn.domain import PartyId, Role
from qsotn.service.http.answer import Answer, json_answer
from qsotn.service.http.context import Streams
from qsotn.service.http.operation import DESK, PREFIX, Call, Content, Operation, Success, operation
from qsotn.service.http.operations_km import WATCHERS
from qsotn.service.http.paging import Page, Window, page
from qsotn.service.http.problems import NOT_FOUND, REFUSED, WRONG_PARTY, HttpProblem
from qsotn.service.interoperation.etsi004_messages import (
    CONNECT,
    LEAVE,
    LOCATE,
    Connect,
    Connected,
    Leave,
    Locate,
    Located,
    QoS,
    Status,
    StreamReport,
)

_KEY_MANAGERS: Final = frozenset({Role.KM})
_TAG: Final = "Kx"
_PROBLEMS: Final = (*DESK, NOT_FOUND, REFUSED, WRONG_PARTY)
_STREAM: Final = "3f2c8a54-6d0b-4c58-9f4e-0a1b2c3d4e5f"
_LIFE: Final = "a4d7f1c2-5b83-4e19-8c60-7e9f0a1b2c3d"
_KEY_ID: Final = "0f1e2d3c-4b5a-8697-8000-000000000007"


def _streams(call: Call[Any, Any, Any]) -> Streams:
    streams = call.service.deployment.streams
    if streams is None:
        raise HttpProblem(NOT_FOUND, "this key manager has no streams: it is not configured to serve any")
    return streams


@operation(
    "POST",
    CONNECT,
    tag=_TAG,
    roles=_KEY_MANAGERS,
    body=Content(Connect, Connect(_STREAM, "branch")),
    successes=(
        Success(
            200,
            "The stream, if it is here and the application is its other end.",
            Content(Connected, Connected(True, _LIFE, "bank", QoS(32, max_bps=2560), 1.5)),
        ),
    ),
    problems=_PROBLEMS,
)
async def connect_stream(call: Call[Any, Any, Connect]) -> Answer:
    """Connect an application of whoever asks to a stream that was begun here."""
    return json_answer(200, await _streams(call).connect(call.peer.party, call.body))


@operation(
    "POST",
    LOCATE,
    tag=_TAG,
    roles=_KEY_MANAGERS,
    body=Content(Locate, Locate(_STREAM, _LIFE, "branch", 7)),
    successes=(
        Success(
            200,
            "Where the chunk waits, or why it does not.",
            Content(Located, Located(Status.SUCCESSFUL, _KEY_ID, 3599.5)),
        ),
    ),
    problems=_PROBLEMS,
)
async def locate_chunk(call: Call[Any, Any, Locate]) -> Answer:
    """The ID under which a chunk of a stream waits for an application of whoever asks."""
    return json_answer(200, await _streams(call).locate(call.peer.party, call.body))


@operation(
    "POST",
    LEAVE,
    tag=_TAG,
    roles=_KEY_MANAGERS,
    body=Content(Leave, Leave(_STREAM, _LIFE, "branch")),
    successes=(Success(204, "Noted; the application may connect again."),),
    problems=_PROBLEMS,
)
async def leave_stream(call: Call[Any, Any, Leave]) -> Answer:
    """Note that an application of whoever asks has left a stream."""
    await _streams(call).leave(call.peer.party, call.body)
    return Answer(204)


@operation(
    "GET",
    f"{PREFIX}/streams",
    tag="km",
    roles=WATCHERS,
    query_type=Window,
    successes=(
        Success(
            200,
            "A page.",
            Content(
                Page[StreamReport],
                Page(
                    (
                        StreamReport(
                            _STREAM, "bank", "branch", PartyId("km/qingdao"), QoS(32, min_bps=256), connected=True
                        ),
                    ),
                    None,
                ),
            ),
        ),
    ),
    problems=DESK,
)
async def list_streams(call: Call[Any, Window, None]) -> Answer:
    """The streams of key that applications here began, by their name, with the quality of service they were promised.

    A key manager that serves no streams has none.
    """
    streams = call.service.deployment.streams
    told = {} if streams is None else {one.stream: one for one in streams.reports()}

    def items(*, after: str, limit: int) -> list[tuple[str, StreamReport]]:
        return [(name, told[name]) for name in sorted(told) if name > after][:limit]

    return json_answer(200, page("streams", call.query, items, lambda one: one))


OPERATIONS: Final[tuple[Operation, ...]] = (connect_stream, locate_chunk, leave_stream, list_streams)
