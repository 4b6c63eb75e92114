"""Keys of other operators, on from the key manager at the border to the one at which their SAEs are.

They travel as the keys of a multicast do: each under a ready key of the pool towards that key manager as a one-time
pad, in an assignment that names it as its operator did. So they lie there, and are given, voided and destroyed, as
ready keys are; and how a pad came there is how the foreign key came from the border on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from qsotn.domain import KeyId, PartyId
from qsotn.errors import LineError
from qsotn.keynetwork.delivery import Applied, Confirm, Pool, ReadyKey, Reserve
from qsotn.keynetwork.relay import one_time_pad
from qsotn.service.delivery.assignments import Assignment, FarEnd, Named, silent
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.parts import Part
from qsotn.service.delivery.saes import Saes
from qsotn.service.delivery.voids import Voids


@dataclass(frozen=True, slots=True)
class ForeignPart:
    """Where a key came from that is not ours: its operator, and whose pad hid it from our border on."""

    operator: str
    border: PartyId
    pad: KeyId


class PassingOn:
    """The way on from a border."""

    def __init__(
        self,
        saes: Saes,
        group: Group,
        far_ends: Mapping[PartyId, FarEnd],
        voids: Voids,
        pool: Callable[[PartyId], Awaitable[Pool]],
        clock: Callable[[], int],
    ) -> None:
        """`pool` returns the pool in use towards a key manager; `clock` microseconds since the epoch."""
        self._saes, self._group, self._far_ends, self._voids = saes, group, far_ends, voids
        self._pool, self._clock = pool, clock

    def leads_to(self, sae: str) -> bool:
        """Whether the key manager of an SAE can be asked."""
        return self._saes.home(sae) in self._far_ends

    async def pass_on(
        self,
        initiator: str,
        slaves: Sequence[str],
        keys: Sequence[ReadyKey],
        noted: Callable[[Named], Awaitable[None]],
    ) -> None:
        """Have keys, all of one size, wait for SAEs that are at one other key manager; returning is its word.

        `noted` is awaited with the pads, before anybody is told of them: by these the keys are withdrawn. Raises
        `Refusal` KEY_SHORTAGE, FAR_END_SILENT, and what the far end refused; `LineError`, `Overloaded`, `StoreError`.
        """
        home, size = self._saes.home(slaves[0]), len(keys[0].key) * 8
        far_end = self._far_end(home)
        far_end.check()
        part = await self._pads(home, initiator, tuple(slaves), len(keys), size)
        try:
            await noted(part.named)
            await far_end.assign(_assignment(part, initiator, keys))
            _check_done(await self._group.apply_all([Confirm(part.key_ids)]))
        except BaseException:  # also one that goes away: nobody was told of these keys
            self._voids.later(home, tuple(dict.fromkeys((part.units, part.named))), part.key_ids)
            raise

    async def withdraw(self, home: PartyId, pads: Sequence[Named]) -> None:
        """Have keys void at another key manager that were passed on, or may have been, under pads. Raises `LineError`.

        Returning is its word that none of them can be had any more.
        """
        if home not in self._far_ends:
            raise LineError(f"no address of {home} is known")
        await self._far_ends[home].void(pads)

    def _far_end(self, home: PartyId) -> FarEnd:
        if home not in self._far_ends:
            raise silent(home)
        return self._far_ends[home]

    async def _pads(self, home: PartyId, initiator: str, slaves: tuple[str, ...], number: int, size: int) -> Part:
        pool = await self._pool(home)
        applied = await self._group.apply_all(
            [Reserve(pool, initiator, slaves, number, size, self._clock(), held=True)]
        )
        _check_done(applied)
        return Part(pool, slaves, tuple(applied.done[0]), size)


def _assignment(part: Part, initiator: str, keys: Sequence[ReadyKey]) -> Assignment:
    sealed = tuple(one_time_pad(key.key.reveal(), pad.key.reveal()) for key, pad in zip(keys, part.keys, strict=True))
    named = part.named
    foreign = tuple(KeyId(key.key_id) for key in keys)
    return Assignment(named.series, named.numbers, part.size, initiator, part.slaves, sealed, foreign=foreign)


def _check_done(applied: Applied) -> None:
    for error in applied.refused.values():
        raise error
