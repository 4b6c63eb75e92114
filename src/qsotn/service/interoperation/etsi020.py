"""ETSI GS QKD 020 V1.1.1, the receiving end: keys from other operators for SAEs here, their acknowledgements of ours.

Who asks is who its certificate names, and speaks for its own SAEs alone. `ext_keys` and `void` are answered 202 once
what they asked for is durable, together with the acknowledgement that is then posted until the operator has taken it
(`etsi020_client`). Without a callback they are answered 200 with the acknowledgement itself (synchronous mode). A
repetition is acknowledged again.

Keys are taken for the SAEs of this network: for those that are attached to this key manager they wait here, to those at
another they go on first (`relaying`). What is meant for anybody else is refused (400).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from qsotn.domain import KeyId
from qsotn.errors import LineError, QsotnError, Refusal
from qsotn.service.delivery.saes import Saes
from qsotn.service.interoperation import etsi020_messages as form
from qsotn.service.interoperation import received, relayed, sent
from qsotn.service.interoperation.border_store import BorderStore, InThread
from qsotn.service.interoperation.etsi020_problems import problem, problem_of
from qsotn.service.interoperation.operators import Operator, Operators, callback_path
from qsotn.service.interoperation.reading import read_json
from qsotn.service.interoperation.relaying import Relaying
from qsotn.service.interoperation.reply import (
    ACCEPTED,
    NOT_ALLOWED,
    NOT_FOUND,
    OK,
    Reply,
    json_reply,
)

Settled = Callable[[Mapping[KeyId, sent.Sending]], None]
_Act = Callable[[Operator, bytes], Awaitable[Reply]]
_Take = Callable[[BorderStore], Sequence[form.AckContainer]]


class Etsi020:
    """The four operations of the interface, for verified peers."""

    def __init__(
        self,
        operators: Operators,
        saes: Saes,
        store: InThread,
        clock: Callable[[], int],
        posted: Callable[[], None],
        settled: Settled,
        relaying: Relaying | None = None,
    ) -> None:
        """`clock` returns microseconds since the epoch.

        `posted` is called when an acknowledgement waits to be sent, `settled` with what acknowledgements changed.
        Without `relaying` there is no way to SAEs elsewhere.
        """
        self._relaying = relaying
        self._operators, self._saes, self._store, self._clock = operators, saes, store, clock
        self._posted, self._settled = posted, settled
        self._acts: Final[dict[tuple[str, str], _Act]] = {
            ("GET", form.VERSIONS): self._versions,
            ("POST", form.EXT_KEYS): self._take,
            ("POST", form.VOID): self._void,
            ("POST", form.ACK): self._settle,
        }

    async def answer(self, peer: str, method: str, path: str, body: bytes) -> Reply:
        """Answer a request of a peer that its certificate names so. Errors are answers, too."""
        act = self._acts.get((method, path))
        if act is None:
            known = [allowed for allowed, place in self._acts if place == path]
            if known:
                return problem(NOT_ALLOWED, f"{path} takes {known[0]}")
            return problem(NOT_FOUND, f"{path[:200]} is no resource of ETSI GS QKD 020")
        try:
            return await act(self._operators.named(peer), body)
        except QsotnError as error:
            return problem_of(error)

    async def _versions(self, _: Operator, __: bytes) -> Reply:
        return json_reply(OK, form.Versions(form.SPOKEN, form.CAPABILITIES))

    async def _take(self, operator: Operator, body: bytes) -> Reply:
        asked = read_json(body, form.ExtKeyContainer)
        form.check_transfer(asked)
        self._check_route(operator, asked.initiator_sae_id, asked.target_sae_ids)
        path = callback_path(operator, asked.ack_callback_url)
        elsewhere = [target for target in asked.target_sae_ids if self._saes.home(target) != self._saes.own]
        took = partial(
            received.take, operator=operator.name, asked=asked, path=path, now=self._clock(), elsewhere=elsewhere
        )
        acks = await self._store.call(took)
        if self._relaying is not None and elsewhere:
            if path is None:
                return await self._synchronous(operator, asked, self._relaying, took)
            self._relaying.nudge()
        return self._answered(path, acks)

    async def _synchronous(
        self, operator: Operator, asked: form.ExtKeyContainer, relaying: Relaying, took: _Take
    ) -> Reply:
        """Answer when keys are where they are to be. Raises `LineError` if they are not yet; they may get there."""
        await relaying.round()
        key_ids = [form.key_name(key.key_id) for key in asked.keys]
        if await self._store.call(partial(relayed.is_under_way, operator=operator.name, key_ids=key_ids)):
            raise LineError("the keys are on their way to their SAEs; ask again, or have them void")
        return json_reply(OK, await self._store.call(took))

    async def _void(self, operator: Operator, body: bytes) -> Reply:
        asked = read_json(body, form.VoidContainer)
        form.check_void(asked)
        self._check_route(operator, asked.initiator_sae_id, asked.target_sae_ids)
        path = callback_path(operator, asked.ack_callback_url)
        voided = partial(received.void, operator=operator.name, asked=asked, path=path, now=self._clock())
        acks = await self._store.call(voided)
        if self._relaying is not None:
            self._relaying.nudge()
        return self._answered(path, acks)

    def _answered(self, path: str | None, acks: Sequence[form.AckContainer]) -> Reply:
        if path is None:
            return json_reply(OK, acks)
        self._posted()
        return Reply(ACCEPTED)

    async def _settle(self, operator: Operator, body: bytes) -> Reply:
        acks = read_json(body, form.Acks)
        changed = await self._store.call(partial(sent.settle, operator=operator.name, acks=acks))
        self._settled(changed)
        return Reply(OK)

    def _check_route(self, operator: Operator, initiator: str, targets: tuple[str, ...]) -> None:
        """Check that an operator speaks for its own SAE, to SAEs that are here. Raises `Refusal`."""
        if initiator not in operator.saes:
            raise Refusal("WRONG_PARTY", f"initiator_sae_id {initiator!r} is no SAE of {operator.name}")
        for target in targets:
            # A foreign SAE counts as attached to this border as well, and its own operator is nobody's postman for us.
            if self._operators.of_sae(target) is not None:
                raise Refusal("NO_PASSBACK", f"target_sae_ids: {target!r} is not attached to {self._saes.own}")
            if self._saes.home(target) != self._saes.own and not self._goes_on(target):
                raise Refusal("NO_ROUTE", f"target_sae_ids: {target!r} is not attached to {self._saes.own}")

    def _goes_on(self, target: str) -> bool:
        return self._relaying is not None and self._relaying.leads_to(target)
