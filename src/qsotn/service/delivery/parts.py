"""What each key manager gets of one request for new keys: keys of its pool, for its slaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qsotn.domain import KeyId
from qsotn.keynetwork.delivery import Applied, Pool, ReadyKey, Reserve, parse_key_id, units_of
from qsotn.keynetwork.relay import one_time_pad
from qsotn.service.delivery.assignments import Assignment, Named


@dataclass(frozen=True, slots=True)
class Part:
    """Keys of one key manager's pool, and the slaves there."""

    pool: Pool
    slaves: tuple[str, ...]
    keys: tuple[ReadyKey, ...]
    size: int

    @property
    def named(self) -> Named:
        """The keys, each by its first unit."""
        return Named(self.pool.target, self.pool.series, tuple(self._numbers()))

    @property
    def units(self) -> Named:
        """Every unit that the keys are made of: where no key was made of them yet, they are destroyed one by one."""
        each = range(units_of(self.size))
        return Named(
            self.pool.target, self.pool.series, tuple(number + more for number in self._numbers() for more in each)
        )

    def _numbers(self) -> Iterator[int]:
        return (parsed[1] for key in self.keys if (parsed := parse_key_id(key.key_id)) is not None)

    @property
    def key_ids(self) -> tuple[KeyId, ...]:
        """The IDs of the keys."""
        return tuple(key.key_id for key in self.keys)


def parts_of(reserves: Sequence[Reserve], applied: Applied) -> list[Part]:
    """Return what was reserved; what was refused is left out."""
    return [
        Part(one.pool, one.slaves, tuple(applied.done[at]), one.size)
        for at, one in enumerate(reserves)
        if at in applied.done
    ]


def assignment(part: Part, first: Part, master: str, size: int) -> Assignment:
    """Say what a key manager is to do: keep the keys of its pool, or those of the first one's under them as pads."""
    named = part.named
    if part is first:
        return Assignment(named.series, named.numbers, size, master, part.slaves)
    sealed = tuple(
        one_time_pad(key.key.reveal(), pad.key.reveal()) for key, pad in zip(first.keys, part.keys, strict=True)
    )
    return Assignment(named.series, named.numbers, size, master, part.slaves, sealed, first.named)
