"""What two key managers tell each other of ready keys, and the asking end of it (Kx: assignments, voids, stocks).

A key for an SAE elsewhere is assigned there before anybody is told of it here: the far key manager answers when its own
transaction is durable. A body never says whose pool it means: the origin is whoever asks, by its certificate. There is
no key in it, but for those of a further key manager's SAEs, under one-time pads from the pool that it shares with the
origin.

Assignments for one key manager gather while a request is under way to it. All requests may be repeated: the same
again changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Protocol

import msgspec

from qsotn.domain import KeyId, PartyId
from qsotn.errors import LineError, Refusal
from qsotn.keynetwork.delivery import Pool, key_id
from qsotn.service.delivery.configuration import LONGEST_SAE_ID, MOST_BITS, MOST_SLAVES
from qsotn.service.worker import Overloaded

ASSIGNMENTS: Final = "/kx/v1/assignments"
VOIDS: Final = "/kx/v1/voids"
STOCKS: Final = "/kx/v1/stocks"
ANSWER_S: Final = 4.0
"""How long an SAE waits for the far end to answer; its keys are then void."""
PAUSE_S: Final = 1.0
"""How long a key manager that gave no answer is not asked again: SAEs are refused at once, and keep their keys."""
MOST_ASSIGNMENTS: Final = 64
LARGEST_BODY: Final = 48 * 1024
MOST_NUMBERS: Final = 1024
"""Of one assignment, or of one void."""
MOST_WAITING: Final = 1024
FAR_END_SILENT: Final = "FAR_END_SILENT"
_OK, _NO_CONTENT = 200, 204

Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62, description="The number of a key's first unit in its pool.")]
Numbers = Annotated[tuple[Number, ...], msgspec.Meta(min_length=1, max_length=MOST_NUMBERS)]
Series = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31, description="Which series of the pool, counted by its origin.")]
SaeId = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_SAE_ID, description="An SAE.")]
_UUID: Final = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$(?!\n)"
ForeignId = Annotated[str, msgspec.Meta(pattern=_UUID, description="A key ID of another operator.")]
KeyManager = Annotated[str, msgspec.Meta(pattern=r"^km/[A-Za-z0-9._-]{1,56}$(?!\n)", description="A key manager.")]


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys of a pool of whoever asks, by the target and the series of the pool and their numbers in it."""

    target: KeyManager
    series: Series
    numbers: Numbers

    def pool(self, origin: PartyId) -> Pool:
        """Return the pool, which is the one of whoever asks."""
        return Pool(origin, PartyId(self.target), self.series)

    def key_ids(self, origin: PartyId) -> tuple[KeyId, ...]:
        """Return the IDs of these keys."""
        tag = self.pool(origin).tag
        return tuple(key_id(tag, number) for number in self.numbers)


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Keys that a master SAE at the origin was promised, for these slave SAEs at the target. `size` in bits.

    `sealed` are the keys that the slaves are to get, if these were drawn from another pool, as `names` says, or are of
    another operator, which knows them by the IDs `foreign`: one each, under the keys of this pool as one-time pads.
    """

    series: Series
    numbers: Numbers
    size: Annotated[int, msgspec.Meta(ge=8, le=MOST_BITS, multiple_of=8)]
    master: SaeId
    slaves: Annotated[tuple[SaeId, ...], msgspec.Meta(min_length=1, max_length=MOST_SLAVES)]
    sealed: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MOST_NUMBERS)] = ()
    names: Named | None = None
    foreign: Annotated[tuple[ForeignId, ...], msgspec.Meta(max_length=MOST_NUMBERS)] = ()


class AssignmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Assignments, each standing alone."""

    assignments: Annotated[tuple[Assignment, ...], msgspec.Meta(min_length=1, max_length=MOST_ASSIGNMENTS)]


class RefusedAssignment(msgspec.Struct, frozen=True):
    """Why one assignment, by its position in the request, was not taken: nothing of it was."""

    position: int
    code: str
    detail: str


class AssignmentAnswer(msgspec.Struct, frozen=True):
    """The assignments that were refused. All others are durable."""

    refused: tuple[RefusedAssignment, ...]


class VoidRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys that no SAE was given, and none may get any more."""

    voids: Annotated[tuple[Named, ...], msgspec.Meta(min_length=1, max_length=MOST_ASSIGNMENTS)]


class StockQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a pool of whoever asks stands at its target."""

    series: Series


class Stock(msgspec.Struct, frozen=True):
    """How a pool stands at its target, in units: all that were ever laid in, and those of them that are ready no more.

    `next_number` is above every number of them. All are 0 for a pool of which nothing is known.
    """

    laid_in: int
    gone: int
    next_number: int


class Destination(Protocol):
    """A far key manager, as `adapters.transport.http.HttpPeer` is one."""

    async def ask(self, method: str, path: str, body: msgspec.Struct | None, expected: int) -> bytes:
        """Ask in JSON; return the body of the answer with the status `expected`. Raises `LineError`."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    assignment: Assignment
    size: int
    future: asyncio.Future[None]


class FarEnd:
    """One far key manager. Every method is for one event loop."""

    def __init__(self, party: PartyId, destination: Destination, clock: Callable[[], float] = time.monotonic) -> None:
        self.party = party
        self._destination = destination
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._draining: asyncio.Task[None] | None = None
        self._silent_until = 0.0
        self.requests = 0
        """Requests of assignments so far."""

    def check(self) -> None:
        """Check that this key manager is worth asking. Raises `Refusal` FAR_END_SILENT, `Overloaded`."""
        if self._clock() < self._silent_until:
            raise silent(self.party)
        if len(self._waiting) >= MOST_WAITING:
            raise Overloaded(f"{len(self._waiting)} assignments wait for {self.party} already")

    async def assign(self, assignment: Assignment) -> None:
        """Assign keys; returning is the far end's word that this is durable there.

        Raises `Refusal` with the far end's own code if it took nothing; `LineError` if its answer is not known.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(assignment, len(msgspec.json.encode(assignment)) + 1, future))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        await future

    async def void(self, voids: Sequence[Named]) -> None:
        """Have keys destroyed; returning is the far end's word that none of them can be had. Raises `LineError`."""
        request = VoidRequest(tuple(voids))
        await self._heard(self._destination.ask("POST", VOIDS, request, _NO_CONTENT))

    async def stock(self, series: int) -> Stock:
        """Ask how the pool of this series towards this key manager stands there. Raises `LineError`."""
        question = StockQuestion(series)
        try:
            # No SAE waits for it, and a far end that does not answer this may well answer them.
            async with asyncio.timeout(ANSWER_S):
                return msgspec.json.decode(await self._destination.ask("POST", STOCKS, question, _OK), type=Stock)
        except TimeoutError:
            raise LineError(f"{self.party} gave no answer within {ANSWER_S:g} s") from None
        except msgspec.DecodeError as error:
            raise LineError(f"{self.party} answered with what is no stock: {error}") from None

    async def stop(self) -> None:
        """Send nothing more; whoever waits gets `LineError`."""
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.gather(self._draining, return_exceptions=True)

    async def _drain(self) -> None:
        batch: list[_Waiting] = []
        try:
            while batch := self._next():
                await self._send(batch)
        finally:
            self._draining = None
            _reject([*batch, *self._waiting], LineError(f"nothing more is sent to {self.party}"))
            self._waiting.clear()

    def _next(self) -> list[_Waiting]:
        """Take what fits into one request; whoever went away before it was sent is left out."""
        batch, size = list[_Waiting](), 0
        while self._waiting and len(batch) < MOST_ASSIGNMENTS:
            if self._waiting[0].future.done():
                self._waiting.popleft()
                continue
            size += self._waiting[0].size
            if batch and size > LARGEST_BODY:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        self.requests += 1
        request = AssignmentRequest(tuple(one.assignment for one in batch))
        try:
            answer = await self._heard(self._destination.ask("POST", ASSIGNMENTS, request, _OK))
            refused = _refusals(answer, len(batch))
        except LineError as error:
            _reject(batch, error)
            return
        for position, one in enumerate(batch):
            if one.future.done():
                continue
            if position in refused:
                one.future.set_exception(refused[position])
            else:
                one.future.set_result(None)

    async def _heard(self, asking: Awaitable[bytes]) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await asking
        except (LineError, TimeoutError) as error:
            self._silent_until = self._clock() + PAUSE_S
            raise (
                error
                if isinstance(error, LineError)
                else LineError(f"{self.party} gave no answer within {ANSWER_S:g} s")
            ) from error
        self._silent_until = 0.0
        return answer


def silent(party: PartyId) -> Refusal:
    """Say that the far key manager does not answer: the caller gets nothing."""
    return Refusal(FAR_END_SILENT, f"{party} does not answer now, so that no key can be shared with its SAEs")


def _refusals(answer: bytes, count: int) -> dict[int, Refusal]:
    try:
        refused = msgspec.json.decode(answer, type=AssignmentAnswer).refused
    except msgspec.DecodeError as error:
        raise LineError(f"an answer to assignments that is none: {error}") from None
    if any(not 0 <= one.position < count for one in refused):
        raise LineError(f"an answer about others than the {count} assignments that were sent")
    return {one.position: Refusal(one.code, one.detail) for one in refused}


def _reject(waiting: Sequence[_Waiting], error: LineError) -> None:
    for one in waiting:
        if not one.future.done():
            one.future.set_exception(error)
