"""The far end of an assignment: what another key manager, known by its certificate, may have done with keys here.

It speaks for its own pools and its own SAEs alone. A pool's origin is whoever asks, so that nobody can name another's;
a master must be attached there, a slave here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from qsotn.domain import KeyId, PartyId
from qsotn.errors import QsotnError, Refusal
from qsotn.keynetwork.delivery import Assign, KeyStore, Pool, Void, parse_key_id
from qsotn.service.delivery.assignments import (
    Assignment,
    AssignmentAnswer,
    AssignmentRequest,
    Named,
    RefusedAssignment,
    Stock,
    StockQuestion,
    VoidRequest,
)
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.saes import Saes

FORGOTTEN: Final = "the origin never gave them"


class Assigned:
    """Takes assignments and voids into the key store."""

    def __init__(
        self, saes: Saes, group: Group, clock: Callable[[], int], hand_over: Callable[[], Awaitable[int]]
    ) -> None:
        """`clock` returns microseconds since the epoch; `hand_over` lays into the store what has just arrived."""
        self._saes = saes
        self._group = group
        self._clock = clock
        self._hand_over = hand_over

    async def assign(self, origin: PartyId, request: AssignmentRequest) -> AssignmentAnswer:
        """Have keys wait for slave SAEs; what is not refused is durable. Raises `Overloaded`, `StoreError`."""
        operations: dict[int, Assign] = {}
        refused: dict[int, QsotnError] = {}
        for position, asked in enumerate(request.assignments):
            try:
                await self._check_foreign(asked)
                operations[position] = self._operation(origin, asked)
            except QsotnError as error:
                refused[position] = error
        lacking = await self._apply(operations, refused)
        if lacking:
            await self._lay_in()
            # Also if that found nothing: another task, or another replica, may have been laying in what was lacking.
            await self._apply(lacking, refused)
        return AssignmentAnswer(tuple(_told(position, refused[position]) for position in sorted(refused)))

    async def _apply(self, operations: Mapping[int, Assign], refused: dict[int, QsotnError]) -> dict[int, Assign]:
        """Apply by position, and note what is refused now; return those for whose keys the units are not here (yet)."""
        if not operations:
            return {}
        applied = await self._group.apply_all(tuple(operations.values()))
        for at, position in enumerate(operations):
            refused.pop(position, None)
            if at in applied.refused:
                refused[position] = applied.refused[at]
        return {at: one for at, one in operations.items() if _is_lacking(refused.get(at))}

    async def void(self, origin: PartyId, request: VoidRequest) -> None:
        """Destroy keys that no SAE was given. Raises `Overloaded`, `StoreError`."""
        await self._group.apply_all([Void(one.key_ids(origin), FORGOTTEN) for one in request.voids])

    async def stock(self, origin: PartyId, question: StockQuestion) -> Stock:
        """Say how a pool of another key manager stands here, with all that has arrived for it laid in.

        Raises `Overloaded`, `StoreError`.
        """
        await self._lay_in()
        pool = Pool(origin, self._saes.own, question.series)
        return await self._group.call(lambda store: _stock(store, pool))

    async def _lay_in(self) -> None:
        """Lay in as much as the party's own store had when this was asked, and what came meanwhile."""
        while await self._hand_over():
            pass

    def _operation(self, origin: PartyId, asked: Assignment) -> Assign:
        self._check(origin, asked)
        own = Named(self._saes.own, asked.series, asked.numbers)
        return Assign(
            pool=own.pool(origin),
            key_ids=own.key_ids(origin),
            master=asked.master,
            slaves=asked.slaves,
            size=asked.size,
            now=self._clock(),
            sealed=asked.sealed,
            names=_names(origin, asked),
        )

    async def _check_foreign(self, asked: Assignment) -> None:
        """Check that no other operator's ID is that of a key here: it would be found in the place of that key."""
        if not asked.foreign:
            return
        known = await self._group.call(lambda store: _any_known(store, asked.foreign))
        if known:
            raise Refusal("KEY_REUSED", "a key of this network has one of these IDs")

    def _check(self, origin: PartyId, asked: Assignment) -> None:
        if self._saes.home(asked.master) != origin:
            raise Refusal("WRONG_PARTY", f"{asked.master} is not attached to {origin}")
        for slave in asked.slaves:
            if self._saes.home(slave) != self._saes.own:
                raise Refusal("UNKNOWN_SAE", f"no SAE {slave} is attached to {self._saes.own}")
        _check_form(asked)


def _stock(store: KeyStore, pool: Pool) -> Stock:
    count = store.count(pool)
    return Stock(count.ready + count.gone, count.gone, store.next_number(pool))


def _names(origin: PartyId, asked: Assignment) -> tuple[KeyId, ...]:
    if asked.names is not None:
        return asked.names.key_ids(origin)
    return tuple(map(KeyId, asked.foreign))


def _any_known(store: KeyStore, key_ids: Sequence[str]) -> bool:
    """Say whether an ID is one that a pool here has given to a key, or will give."""
    tags = {pool.tag for pool in store.pools()}
    return any(parsed is not None and parsed[0] in tags for parsed in map(parse_key_id, key_ids))


def _is_lacking(error: QsotnError | None) -> bool:
    return isinstance(error, Refusal) and error.code == "KEYS_NOT_FOUND"


def _check_form(asked: Assignment) -> None:
    keys = len(asked.numbers)
    named = asked.foreign if asked.names is None else asked.names.numbers
    if asked.names is not None and asked.foreign:
        raise Refusal("BAD_REQUEST", "keys are of another pool or of another operator, not of both")
    if len(set(asked.numbers)) != keys or len(set(named)) != len(named):
        raise Refusal("BAD_REQUEST", "a key is named twice in one assignment")
    if {len(asked.sealed), len(named)} not in ({0}, {keys}):
        raise Refusal(
            "BAD_REQUEST", f"{len(asked.sealed)} sealed keys of {len(named)} names do not go with {keys} pads"
        )
    if any(len(one) * 8 != asked.size for one in asked.sealed):
        raise Refusal("BAD_REQUEST", f"a sealed key is not of {asked.size} bits")


def _told(position: int, error: QsotnError) -> RefusedAssignment:
    if isinstance(error, Refusal):
        return RefusedAssignment(position, error.code, error.detail)
    return RefusedAssignment(position, type(error).__name__, str(error))
