"""The mailbox of a PMP: a device has no address, so it collects what is for it, and says what it has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Annotated, Any, Final, TypeVar

import msgspec

from qsotn.domain import Role
from qsotn.service.http.answer import Answer, Receive, Scope, Send, send_answer
from qsotn.service.http.context import Mailbox, Peer, Service
from qsotn.service.http.framing import CBOR_SEQUENCE, MOST_DATAGRAMS, join_numbered
from qsotn.service.http.names import END
from qsotn.service.http.operation import ALWAYS, DESK, Call, Content, Operation, Success, operation, words_of
from qsotn.service.http.problems import NOT_READY, HttpProblem
from qsotn.service.http.request import ClientGone, query_parameters

T = TypeVar("T")

LONGEST_WAIT_S: Final = 30
MOST_NUMBERS: Final = 1024
_PATH: Final = "/ax/v1/mailbox"
_DEVICES: Final = frozenset({Role.CPE})
_LARGEST_NUMBER: Final = 2**63 - 1
_NUMBER: Final = "[1-9][0-9]{0,17}"


class Collecting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a device collects."""

    wait: Annotated[
        int, msgspec.Meta(ge=0, le=LONGEST_WAIT_S, description="How many seconds to wait for the first datagram.")
    ] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_DATAGRAMS, description="The most datagrams wanted.")] = 16
    received: Annotated[
        str,
        msgspec.Meta(
            pattern=f"^({_NUMBER}(,{_NUMBER}){{0,{MOST_DATAGRAMS - 1}}})?{END}",
            description="Numbers of datagrams the device has durably, with commas between: a receipt on the way.",
        ),
    ] = ""


class Numbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers of datagrams that the device has durably."""

    numbers: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=_LARGEST_NUMBER)], ...], msgspec.Meta(max_length=MOST_NUMBERS)
    ]


def _opened(service: Service) -> Mailbox:
    if service.mailbox is None:
        raise HttpProblem(NOT_READY, "this service was started without a mailbox")
    return service.mailbox


async def collect_mail(service: Service, peer: Peer, scope: Scope, receive: Receive, send: Send) -> None:
    """Collect the datagrams that wait for the calling device.

    The body is a CBOR sequence (RFC 8742) of arrays `[number, datagram]`. What is not acknowledged by its number, in
    `received` of a later call or in `/ax/v1/mailbox/receipts`, comes again.
    """
    asked = query_parameters(scope, Collecting)
    received = [int(number) for number in asked.received.split(",") if number]
    collecting = _opened(service).collect(peer.party, asked.wait, asked.limit, received)
    posted = await while_connected(receive, collecting)
    answer = Answer(200, join_numbered(posted), CBOR_SEQUENCE) if posted else Answer(204)
    await send_answer(send, answer)


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Await something as long as the client is there. Raises `ClientGone`: nobody else may wait in its place."""
    task, left = asyncio.current_task(), False
    if task is None:
        raise RuntimeError("only a task can be kept waiting")

    def leave(watching: asyncio.Task[None]) -> None:
        nonlocal left
        if not watching.cancelled():
            left = True
            task.cancel()

    watching = asyncio.create_task(_gone(receive))
    watching.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if left and not task.uncancel():
            raise ClientGone from None
        raise
    finally:
        watching.remove_done_callback(leave)
        watching.cancel()


async def _gone(receive: Receive) -> None:
    """Return when the client has left, or what it sends cannot be taken."""
    with contextlib.suppress(HttpProblem):
        while (await receive())["type"] != "http.disconnect":
            pass


_SUMMARY, _DESCRIPTION = words_of(collect_mail)
_COLLECT: Final = Operation(
    method="GET",
    path=_PATH,
    name=collect_mail.__name__,
    summary=_SUMMARY,
    description=_DESCRIPTION,
    tag="Ax",
    roles=_DEVICES,
    endpoint=collect_mail,
    successes=(
        Success(
            200,
            "Datagrams with their numbers.",
            Content(media_type=CBOR_SEQUENCE, schema={"contentMediaType": CBOR_SEQUENCE}),
        ),
        Success(204, "Nothing waits."),
    ),
    problems=(*ALWAYS, *DESK, NOT_READY),
    query_type=Collecting,
    safe=False,
)


@operation(
    "POST",
    f"{_PATH}/receipts",
    tag="Ax",
    roles=_DEVICES,
    body=Content(Numbers, Numbers((17, 18))),
    successes=(Success(204, "Noted."),),
    problems=(*DESK, NOT_READY),
)
async def acknowledge_mail(call: Call[Any, Any, Numbers]) -> Answer:
    """Say which datagrams the calling device has durably: they do not come again.

    Numbers that are not its own change nothing.
    """
    await _opened(call.service).acknowledge(call.peer.party, call.body.numbers)
    return Answer(204)


OPERATIONS: Final = (_COLLECT, acknowledge_mail)
