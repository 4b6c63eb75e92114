"""What goes on to key managers of this network that another operator's SAEs share keys with (ETSI GS QKD 020).

One after the other, so that no key is withdrawn while it is on its way. What is due is in the store (`relayed`), and is
tried once a second, for as long as an operator may be expected to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import structlog

from qsotn.domain import PartyId
from qsotn.errors import LineError, QsotnError, Refusal, StoreError
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.delivery.assignments import MOST_NUMBERS, Named
from qsotn.service.delivery.saes import Saes
from qsotn.service.delivery.throttled import Throttled
from qsotn.service.interoperation import relayed
from qsotn.service.interoperation.border_store import InThread
from qsotn.service.interoperation.received_rows import SECOND
from qsotn.service.worker import Overloaded

TRIED_S: Final = 60
"""How long it is tried to have a key at its SAE's key manager before its operator is told that it failed."""
LOOK_S: Final = 1.0
_MAY_CHANGE: Final = frozenset({"KEY_SHORTAGE", "FAR_END_SILENT"})
_log = structlog.get_logger("interoperation")


class Onward(Protocol):
    """The way on, as `delivery.passing_on.PassingOn` is one."""

    def leads_to(self, sae: str) -> bool:
        """Whether the key manager of an SAE can be asked."""

    async def pass_on(
        self,
        initiator: str,
        slaves: Sequence[str],
        keys: Sequence[ReadyKey],
        noted: Callable[[Named], Awaitable[None]],
    ) -> None:
        """Have keys wait for SAEs at one other key manager. Raises `Refusal`, `LineError`, `Overloaded`, `StoreError`.

        `noted` is awaited with the pads, one for each key, before anybody is told of them.
        """

    async def withdraw(self, home: PartyId, pads: Sequence[Named]) -> None:
        """Have void what went on, or may have, under pads. Raises `LineError`."""


class Relaying:
    """Has keys go on, and withdrawn, until it is stopped."""

    def __init__(
        self, onward: Onward, saes: Saes, store: InThread, clock: Callable[[], int], posted: Callable[[], None]
    ) -> None:
        """`clock` returns microseconds since the epoch; `posted` is called when an acknowledgement waits to be sent."""
        self._onward, self._saes, self._store, self._clock, self._posted = onward, saes, store, clock, posted
        self._due, self._turn, self._throttled = asyncio.Event(), asyncio.Lock(), Throttled()

    def leads_to(self, sae: str) -> bool:
        """Whether keys can go on to an SAE."""
        return self._onward.leads_to(sae)

    def nudge(self) -> None:
        """Something may be due now."""
        self._due.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            self._due.clear()
            try:
                await self.round()
            except StoreError as error:
                _log.error("the border store is not available", reason=str(error))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._due.wait()
            except TimeoutError:
                pass  # what could not be done is tried again

    async def round(self) -> None:
        """Do once all that is due. Raises `StoreError`."""
        async with self._turn:
            for withdrawal in await self._store.call(relayed.withdrawals):
                await self._withdraw(withdrawal)
            for relay in await self._store.call(partial(relayed.due, home=self._saes.home)):
                await self._relay(relay)

    async def _withdraw(self, one: relayed.Withdrawal) -> None:
        try:
            await self._onward.withdraw(self._saes.home(one.place[2]), one.way.pads)
        except (LineError, Refusal) as error:
            self._throttled.tell(_log.warning, "a key of another operator is not withdrawn yet", reason=str(error))
            return
        await self._store.call(partial(relayed.withdrawn, one=one, now=self._clock()))
        self._posted()

    async def _relay(self, relay: relayed.Relay) -> None:
        try:
            if relay.earlier:
                await self._onward.withdraw(relay.home, _together(relay.earlier))
            fresh = replace(relay, earlier=())
            await self._onward.pass_on(relay.initiator, relay.targets, relay.keys, partial(self._noted, fresh))
        except (QsotnError, Overloaded) as error:
            await self._not_relayed(relay, error)
        else:
            await self._store.call(partial(relayed.done, relay=relay, now=self._clock()))
            self._posted()

    async def _noted(self, relay: relayed.Relay, pads: Named) -> None:
        await self._store.call(partial(relayed.noted, relay=relay, pads=pads))

    async def _not_relayed(self, relay: relayed.Relay, error: Exception) -> None:
        self._throttled.tell(
            _log.warning, "keys of another operator do not go on", relay.home, to=relay.home, reason=str(error)
        )
        final = isinstance(error, Refusal) and error.code not in _MAY_CHANGE
        if final or self._clock() - relay.since >= TRIED_S * SECOND:
            await self._store.call(partial(relayed.failed, relay=relay, reason=str(error), now=self._clock()))
            self._posted()


def _together(pads: Iterable[Named]) -> list[Named]:
    """Return the same keys in fewer pieces: one for each pool."""
    pools: dict[tuple[str, int], list[int]] = {}
    for pad in pads:
        pools.setdefault((pad.target, pad.series), []).extend(pad.numbers)
    return [
        Named(target, series, tuple(numbers[at : at + MOST_NUMBERS]))
        for (target, series), numbers in pools.items()
        for at in range(0, len(numbers), MOST_NUMBERS)
    ]
