"""Keys for SAEs as before (`KeyDelivery`), with those of other operators among them (ETSI GS QKD 020).

In this network a foreign SAE is attached to the key manager at the border, this one: a key for it is reserved as for
any other slave, collected here in its name, noted as *to be sent*, and handed to its operator. Its master, at whichever
key manager of this network, is answered only when the operator has acknowledged that it has the key; if that does not
happen in time, the key is void at both ends. The other way round, an SAE here finds keys of a foreign initiator under
the same methods of ETSI GS QKD 014.

A foreign SAE itself asks for nothing here, whatever certificate it shows: it has its own operator for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from qsotn.domain import KeyId
from qsotn.errors import MalformedMessage, QsotnError, Refusal, WrongParty
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.delivery.offered import KeyDelivery, Offer
from qsotn.service.delivery.saes import Saes
from qsotn.service.interoperation import received, sent
from qsotn.service.interoperation.border_store import InThread
from qsotn.service.interoperation.etsi020_messages import check_sae_id
from qsotn.service.interoperation.operators import Operator, Operators

ACKNOWLEDGED_S: Final = 8.0
"""How long a master SAE waits for another operator's acknowledgement."""
FORWARDED_S: Final = 2.5
"""The same where another key manager of this network asks: it waits for 4 s (`delivery.assignments.ANSWER_S`)."""
PAUSE_S: Final = 5.0
"""How long nothing is begun towards an operator that was silent: requests to others wait behind those to it."""
_log = structlog.get_logger("interoperation")


class Gateway:
    """`KeyDelivery` at the border. It is started after `recover`, which knows what an earlier process left."""

    def __init__(
        self,
        delivery: KeyDelivery,
        operators: Operators,
        saes: Saes,
        store: InThread,
        clock: Callable[[], int],
        due: Callable[[], None],
        patience_s: float = ACKNOWLEDGED_S,
    ) -> None:
        """`due` is called when there is something to send."""
        self._delivery, self._operators, self._saes, self._store = delivery, operators, saes, store
        self._clock, self._due, self._patience_s = clock, due, patience_s
        self._waiting: dict[KeyId, asyncio.Future[sent.Sending]] = {}
        self._silent_until: dict[str, float] = {}
        self._noting = asyncio.Lock()

    async def recover(self) -> None:
        """Have void what was being sent when an earlier process ended: no master was given it. Raises `StoreError`."""
        left = await self._store.call(partial(sent.abandon_all, now=self._clock()))
        if left:
            _log.warning("keys that were being sent to other operators are void", keys=left)
        self._due()

    def settled(self, changed: Mapping[KeyId, sent.Sending]) -> None:
        """Tell whoever waits what became of keys."""
        for key_id, state in changed.items():
            future = self._waiting.get(key_id)
            if future is not None and not future.done():
                future.set_result(state)

    # --- KeyDelivery ------------------------------------------------------------------------------------------------

    async def offer(self, master: str, slave: str) -> Offer:
        """Return what is on offer, as `KeyDelivery.offer` does; one SAE of another operator at a time."""
        self._check_own(master)
        offer = await self._delivery.offer(master, slave)
        return offer if self._operators.of_sae(slave) is None else replace(offer, most_additional_slaves=0)

    async def reserve(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        """Give new keys to a master SAE, as `KeyDelivery.reserve` does.

        Raises also `Refusal` FAR_END_SILENT and OPERATOR_REFUSED, with the keys void.
        """
        self._check_own(master)
        foreign = [operator for slave in slaves if (operator := self._operators.of_sae(slave)) is not None]
        if not foreign:
            return await self._delivery.reserve(master, slaves, number, size)
        if len(slaves) > 1:
            raise Refusal("BAD_REQUEST", "an SAE of another operator shares keys with one SAE at a time")
        _check_master(master)
        self._check_answers(foreign[0])
        keys = await self._delivery.reserve(master, slaves, number, size)
        await self._hand_over(foreign[0], master, slaves[0], [key.key_id for key in keys], self._patience_s)
        return keys

    async def collect(self, slave: str, master: str, key_ids: Sequence[KeyId]) -> Sequence[ReadyKey]:
        """Give waiting keys to a slave SAE, as `KeyDelivery.collect` does."""
        self._check_own(slave)
        operator = self._operators.of_sae(master)
        if operator is None:
            return await self._delivery.collect(slave, master, key_ids)
        asker = received.Asker(slave, master, operator.name)
        return await self._store.call(partial(received.collect, asker=asker, key_ids=tuple(key_ids), now=self._clock()))

    def _check_own(self, sae: str) -> None:
        self._saes.check_own(sae)
        if self._operators.of_sae(sae) is not None:
            raise WrongParty(f"{sae} belongs to another operator, and asks there")

    # --- to another operator ----------------------------------------------------------------------------------------

    async def forward(self, master: str, slave: str, key_ids: Sequence[KeyId]) -> None:
        """Send keys on that wait here for a foreign SAE, because a master elsewhere in this network reserved them.

        Returning is the operator's word that it has them; the same again changes nothing. Raises what `reserve` raises,
        with the keys void, and what `KeyDelivery.collect` raises.
        """
        operator = self._operators.of_sae(slave)
        if operator is None:
            raise Refusal("UNKNOWN_SAE", f"{slave} belongs to no other operator")
        _check_master(master)
        self._check_answers(operator)
        await self._hand_over(operator, master, slave, key_ids, min(self._patience_s, FORWARDED_S))

    async def withdraw(self, key_ids: Sequence[KeyId]) -> None:
        """Have void what was sent on under these IDs: no master was given it. Raises `StoreError`."""
        async with self._noting:  # what was collected just now is noted before
            await self._store.call(partial(sent.abandon, key_ids=key_ids, now=self._clock()))
        self._due()

    def _check_answers(self, operator: Operator) -> None:
        if asyncio.get_running_loop().time() < self._silent_until.get(operator.name, 0.0):
            raise _silent(operator)

    async def _hand_over(
        self, operator: Operator, master: str, slave: str, key_ids: Sequence[KeyId], patience_s: float
    ) -> None:
        futures = [self._waiting.setdefault(key_id, _future()) for key_id in key_ids]
        try:
            async with asyncio.timeout(patience_s):
                await self._note(operator, master, slave, key_ids)
                await asyncio.wait(futures)
        except BaseException as error:
            await asyncio.shield(self._abandon(slave, key_ids))
            if isinstance(error, TimeoutError):
                self._silent_until[operator.name] = asyncio.get_running_loop().time() + PAUSE_S
                raise _silent(operator) from None
            raise
        finally:
            for key_id in key_ids:
                self._waiting.pop(key_id, None)
        if {future.result() for future in futures} != {sent.Sending.RELAYED}:
            await self._abandon(slave, key_ids)
            raise Refusal("OPERATOR_REFUSED", f"{operator.name} did not take the keys")

    async def _note(self, operator: Operator, master: str, slave: str, key_ids: Sequence[KeyId]) -> None:
        """Collect keys in a foreign SAE's name, and have them sent, but for those that were before.

        A crash in between leaves keys nobody knows of.
        """
        async with self._noting:
            known = await self._store.call(partial(sent.states_of, key_ids=key_ids, target=slave))
            if fresh := [key_id for key_id in key_ids if key_id not in known]:
                keys = await self._delivery.collect(slave, master, fresh)
                noted = partial(sent.prepare, operator=operator.name, initiator=master, target=slave)
                await self._store.call(lambda store: noted(store, keys=keys, now=self._clock()))
                self._due()
        self.settled({key_id: state for key_id, state in known.items() if state is not sent.Sending.SENDING})

    async def _abandon(self, slave: str, key_ids: Sequence[KeyId]) -> None:
        try:
            abandoned = partial(sent.abandon, key_ids=key_ids, now=self._clock(), target=slave)
            await self._store.call(abandoned)
            self._due()
        except QsotnError as error:
            _log.error("keys that nobody was given are not void yet", keys=len(key_ids), reason=str(error))


def _check_master(master: str) -> None:
    try:
        check_sae_id(master)
    except MalformedMessage as error:
        raise Refusal("BAD_REQUEST", str(error)) from error


def _future() -> asyncio.Future[sent.Sending]:
    return asyncio.get_running_loop().create_future()


def _silent(operator: Operator) -> Refusal:
    return Refusal("FAR_END_SILENT", f"{operator.name} did not acknowledge keys in time")
