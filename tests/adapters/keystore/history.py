"""A history of what a key store was asked and what it answered, and what must hold of every such history.

Operations are written down before they are asked. An answer is written down with its keys; one that never came (the
process died, the store raised) leaves open whether the operation was done.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from qsotn.domain import KeyId, Secret
from qsotn.keynetwork.delivery import (
    Applied,
    Collect,
    Deposit,
    Operation,
    Pool,
    PoolCount,
    ReadyKey,
    Reserve,
    Void,
    parse_key_id,
    units_of,
)

Request = tuple[str, str, tuple[KeyId, ...]]


@dataclass
class History:
    """What happened to one store, of which all replicas are meant."""

    pool: Pool
    material: dict[int, Secret] = field(default_factory=dict)
    """Every unit that was ever offered to the store."""
    deposited: set[int] = field(default_factory=set)
    """Those whose deposit was acknowledged."""
    reserved: list[tuple[Reserve, tuple[ReadyKey, ...]]] = field(default_factory=list)
    collected: list[tuple[Collect, tuple[ReadyKey, ...]]] = field(default_factory=list)
    open_reservations: int = 0
    """Units that reservations without an answer may have taken."""
    open_deposits: int = 0
    open_collections: set[KeyId] = field(default_factory=set)
    """Keys that a slave asked for without an answer: it may have been its last chance."""
    voided: set[KeyId] = field(default_factory=set)
    refused: list[tuple[Operation, str]] = field(default_factory=list)

    # --- writing ----------------------------------------------------------------------------------------------------

    def offered(self, operations: Sequence[Operation]) -> None:
        """Write down what is about to be asked."""
        for operation in operations:
            if isinstance(operation, Deposit):
                for at, unit in enumerate(operation.units):
                    self.material[operation.first + at] = unit
            elif isinstance(operation, Void):
                self.voided |= set(operation.key_ids)

    def answered(self, operations: Sequence[Operation], applied: Applied) -> None:
        """Write down the answer."""
        for index, operation in enumerate(operations):
            if index in applied.refused:
                self.refused.append((operation, str(applied.refused[index])))
                continue
            keys = applied.done[index]
            match operation:
                case Deposit(first=first, units=units):
                    self.deposited |= set(range(first, first + len(units)))
                case Reserve():
                    self.reserved.append((operation, keys))
                case Collect():
                    self.collected.append((operation, keys))
                case _:
                    pass

    def unanswered(self, operations: Sequence[Operation]) -> None:
        """Write down that no answer came."""
        for operation in operations:
            match operation:
                case Reserve(number=number, size=size):
                    self.open_reservations += number * units_of(size)
                case Deposit(units=units):
                    self.open_deposits += len(units)
                case Collect(key_ids=key_ids):
                    self.open_collections |= set(key_ids)
                case _:
                    pass

    # --- checking ---------------------------------------------------------------------------------------------------

    def violations(self, count: PoolCount) -> list[str]:
        """Say what does not hold, given how the pool stands in the end."""
        return [
            *self._duplicates(),
            *self._double_deliveries(),
            *self._wrong_material(),
            *self._lost(),
            *self._unaccounted(count),
        ]

    def _duplicates(self) -> Iterator[str]:
        """No unit is given to two reservations."""
        taken: Counter[int] = Counter()
        for operation, keys in self.reserved:
            for key in keys:
                first = number_of(key.key_id)
                taken.update(range(first, first + units_of(operation.size)))
        yield from (f"unit {number} was reserved {times} times" for number, times in taken.items() if times > 1)

    def _double_deliveries(self) -> Iterator[str]:
        """A key goes to the slaves that were named for it, and to each by one request."""
        named = {key.key_id: operation for operation, keys in self.reserved for key in keys}
        requests: dict[tuple[str, KeyId], set[Request]] = defaultdict(set)
        for operation, keys in self.collected:
            for key in keys:
                requests[operation.slave, key.key_id].add((operation.slave, operation.master, operation.key_ids))
                reservation = named.get(key.key_id)
                if reservation is not None and operation.slave not in reservation.slaves:
                    yield f"{key.key_id} was handed to {operation.slave}, which was not named"
                if key.key_id in self.voided:
                    yield f"{key.key_id} was handed out though it was void"
        for (slave, key_id), its in requests.items():
            if len(its) > 1:
                yield f"{key_id} was handed to {slave} by {len(its)} requests"

    def _wrong_material(self) -> Iterator[str]:
        """A key is made of the units that its ID names."""
        for operation, keys in self.reserved:
            for key in keys:
                if key.key != self._expected(key.key_id, operation.size):
                    yield f"{key.key_id} is not what was deposited"
        given = {key.key_id: key for _, keys in self.reserved for key in keys}
        for _, keys in self.collected:
            for key in keys:
                if key.key_id in given and key.key != given[key.key_id].key:
                    yield f"{key.key_id} is another key at its slave than at its master"
                elif number_of(key.key_id) not in self.material:
                    yield f"{key.key_id} was never deposited"

    def _expected(self, key_id: KeyId, size: int) -> Secret:
        first = number_of(key_id)
        units = (self.material.get(first + at, Secret(bytes(32))) for at in range(units_of(size)))
        return Secret(b"".join(unit.reveal() for unit in units)[: size // 8])

    def _lost(self) -> Iterator[str]:
        """A slave that asks in time for what its master was given gets it."""
        theirs = {key.key_id: asked for asked, keys in self.reserved if not asked.held for key in keys}
        had = {(operation.slave, key.key_id) for operation, keys in self.collected for key in keys}
        for asked, why in self.refused:
            if not isinstance(asked, Collect) or set(asked.key_ids) & (self.open_collections | self.voided):
                continue
            of = [theirs.get(key_id) for key_id in asked.key_ids]
            may = all(one is not None and asked.slave in one.slaves and one.master == asked.master for one in of)
            if of and may and not any((asked.slave, key_id) in had for key_id in asked.key_ids):
                yield f"{asked.slave} was refused {', '.join(asked.key_ids)}, which its master has: {why}"

    def _unaccounted(self, count: PoolCount) -> Iterator[str]:
        """Every unit is somewhere."""
        total = count.ready + count.waiting + count.delivered + count.voided + count.expired + count.burned
        known = len(self.deposited)
        if not known <= total <= known + self.open_deposits:
            yield f"{total} units are accounted for; {known} were deposited, and {self.open_deposits} may have been"
        taken = sum(len(keys) * units_of(operation.size) for operation, keys in self.reserved)
        gone = total - count.ready
        voided_ready = count.voided
        if not taken <= gone <= taken + self.open_reservations + voided_ready:
            yield f"{gone} units are no longer ready; {taken} were reserved, and {self.open_reservations} may have been"


def number_of(key_id: str) -> int:
    """The number of a key's first unit."""
    parsed = parse_key_id(key_id)
    assert parsed is not None, key_id
    return parsed[1]
