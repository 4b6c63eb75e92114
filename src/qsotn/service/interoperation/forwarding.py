"""Assignments of other key managers in this network (`delivery.assigned`) at a border: some are for foreign SAEs.

Such an assignment is taken when the operator has acknowledged the keys, so that its master is never given a key that
its slave cannot have. Whoever is refused has the keys void here, and thereby at the operator, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from qsotn.domain import KeyId, PartyId
from qsotn.errors import QsotnError, Refusal
from qsotn.service.delivery.assigned import Assigned
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
from qsotn.service.interoperation.gateway import Gateway


class Forwarding:
    """`delivery.assigned.Assigned` at a border. `foreign` are the SAEs of other operators."""

    def __init__(self, own: PartyId, assigned: Assigned, gateway: Gateway, foreign: frozenset[str]) -> None:
        self._own, self._assigned, self._gateway, self._foreign = own, assigned, gateway, foreign

    async def assign(self, origin: PartyId, request: AssignmentRequest) -> AssignmentAnswer:
        """Have keys wait for slave SAEs, and send them on for foreign ones; what is not refused is durable.

        Raises `Overloaded`, `StoreError`.
        """
        answer = await self._assigned.assign(origin, request)
        refused = {one.position: one for one in answer.refused}
        taken = [(at, one) for at, one in enumerate(request.assignments) if at not in refused]
        forwarded = await asyncio.gather(*(self._forwarded(origin, at, one) for at, one in taken))
        refused |= {one.position: one for one in forwarded if one is not None}
        return AssignmentAnswer(tuple(refused[position] for position in sorted(refused)))

    async def void(self, origin: PartyId, request: VoidRequest) -> None:
        """Destroy keys that no SAE was given, here and at other operators. Raises `Overloaded`, `StoreError`."""
        await self._assigned.void(origin, request)
        await self._gateway.withdraw([key_id for one in request.voids for key_id in one.key_ids(origin)])

    async def stock(self, origin: PartyId, question: StockQuestion) -> Stock:
        """Say how a pool of another key manager stands here. Raises `Overloaded`, `StoreError`."""
        return await self._assigned.stock(origin, question)

    async def _forwarded(self, origin: PartyId, position: int, asked: Assignment) -> RefusedAssignment | None:
        foreign = [slave for slave in asked.slaves if slave in self._foreign]
        try:
            for slave in foreign:
                await self._gateway.forward(asked.master, slave, self._key_ids(origin, asked))
        except QsotnError as error:
            if isinstance(error, Refusal):
                return RefusedAssignment(position, error.code, error.detail)
            return RefusedAssignment(position, type(error).__name__, str(error))
        return None

    def _key_ids(self, origin: PartyId, asked: Assignment) -> Sequence[KeyId]:
        """Return the IDs under which the slaves know the keys."""
        return (asked.names or Named(self._own, asked.series, asked.numbers)).key_ids(origin)
