"""What a key manager keeps of supplies for ready pools: the account of every share, and its bits for as long as needed.

A share's account (`Passage`) stays; its bits lie apart from it, wrapped as one blob, and are deleted as soon as nothing
needs them: at a relay when the receipt is back, at the two ends when the batch has arrived and was handed over. What is
destroyed keeps, wrapped, only the bits that its relay will show in an inquest, until it has shown them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from qsotn.domain import PartyId, Secret
from qsotn.errors import Refusal
from qsotn.keynetwork.delivery import Deposit, Pool
from qsotn.keynetwork.inquest import Finding, Outcome
from qsotn.keynetwork.pool import UNIT_BYTES
from qsotn.keynetwork.provenance import Order
from qsotn.keynetwork.relay import Mode
from qsotn.messages import PoolRelay
from qsotn.parties.desk import Collection, Desk
from qsotn.parties.km_blocks import Allocation

GRACE_US = 600 * 1_000_000
"""How long after a share's own time its last holder still waits for the confirmation, and a relay for an inquest."""
_SWEPT_AT_ONCE = 64


class PassageState(StrEnum):
    """How far a share has come at one key manager."""

    PASSED_ON = "PASSED_ON"
    """Sent to the next key manager; its receipt is awaited."""
    HELD = "HELD"
    """At an end of the pool: the whole way is known to have it, the batch is not yet confirmed."""
    RELAYED = "RELAYED"
    """At a relay, or where a copy was discarded: done, and no bit is left."""
    ARRIVED = "ARRIVED"
    DESTROYED = "DESTROYED"


class Passage(msgspec.Struct, frozen=True):
    """The account of one share at one key manager. `chain` are the signed statements, its own among them.

    `taken` are the units that it came by, at the origin those that were drawn; `pad` those it was passed on under.
    `inbound` and `onward` are the procedures of the hops before and behind it, empty at either end.
    """

    order: Order
    position: int
    state: PassageState
    taken: tuple[Allocation, ...]
    pad: tuple[Allocation, ...]
    chain: tuple[bytes, ...]
    link: str
    """The link that it was passed on over, or came by at the last."""
    next: PartyId
    inbound: str
    onward: str
    at: int
    outcome: Outcome = Outcome.TOLD
    code: str = ""
    detail: str = ""


class BatchState(StrEnum):
    """A batch as its origin sees it."""

    UNDER_WAY = "UNDER_WAY"
    CONFIRMING = "CONFIRMING"
    ARRIVED = "ARRIVED"
    FAILED = "FAILED"


class Batch(msgspec.Struct, frozen=True):
    """A batch at its origin: what was ordered, how it stands, and if it failed, where, why, and by whom.

    `code`, `link` and `detail` come with the refusal, at once: enough to choose another path. `findings` come when
    everybody on the failed path has testified, or had the time to.
    """

    orders: tuple[Order, ...]
    state: BatchState
    at: int
    code: str = ""
    link: str = ""
    detail: str = ""
    failed_share: int = -1
    findings: tuple[Finding, ...] = ()
    judged_at: int = 0


class ArrivedBatch(msgspec.Struct, frozen=True):
    """A batch at one of its ends, to be handed over to the key store: the same record at both."""

    batch: str
    origin: PartyId
    target: PartyId
    series: int
    first: int
    units: int
    mode: Mode
    wrapped: bytes
    provenance: bytes
    at: int


def passages(desk: Desk) -> Collection[Passage]:
    """The account of every share that passed here, by `batch/share`."""
    return desk.collection("passages", Passage)


def batches(desk: Desk) -> Collection[Batch]:
    """Batches that this key manager is the origin of, by name."""
    return desk.collection("pool-batches", Batch)


class Complaint(msgspec.Struct, frozen=True):
    """A share that was refused because of what its sender did, and the code of that refusal."""

    code: str
    asked: PoolRelay


class BurntUnits(msgspec.Struct, frozen=True):
    """The account of units that a share was refused under: nobody will use them."""

    units: tuple[Allocation, ...]
    code: str
    sender: PartyId
    at: int


def burnt_units(desk: Desk) -> Collection[BurntUnits]:
    """Units of refused shares, by `batch/share/sender`."""
    return desk.collection("burnt-units", BurntUnits)


def complaints(desk: Desk) -> Collection[Complaint]:
    """Complaints by `batch/share/sender`, until the inquest."""
    return desk.collection("pool-complaints", Complaint)


def arrived_batches(desk: Desk) -> Collection[ArrivedBatch]:
    """Batches to be handed over, by name."""
    return desk.collection("arrived-batches", ArrivedBatch)


def update(desk: Desk, passage: Passage, **changes: object) -> Passage:
    """Write a share's account with some fields changed."""
    changed = msgspec.structs.replace(passage, **changes)
    passages(desk).put(passage.order.key, changed)
    return changed


def destroy(desk: Desk, key: str, *, code: str, detail: str) -> None:
    """Destroy a share at an end of its pool, with the reason."""
    drop_bits(desk, key)
    passage = passages(desk).get(key)
    if passage is not None and passage.state is not PassageState.DESTROYED:
        update(desk, passage, state=PassageState.DESTROYED, code=code, detail=detail)


# --- bits -----------------------------------------------------------------------------------------------------------


def keep_bits(desk: Desk, name: str, bits: Secret) -> None:
    """Keep the bits of a share, or of a pad, wrapped as one blob."""
    desk.transaction.put("pool-bits", name, desk.vault.wrap(bits, f"pool-bits/{name}".encode()))


def kept_bits(desk: Desk, name: str) -> Secret | None:
    """Return bits that were kept, or None."""
    wrapped = desk.transaction.get("pool-bits", name)
    return None if wrapped is None else desk.vault.unwrap(wrapped, f"pool-bits/{name}".encode())


def drop_bits(desk: Desk, name: str) -> None:
    """Delete bits; their absence is no error."""
    desk.transaction.delete("pool-bits", name)


def note_deadline(desk: Desk, key: str, expires_at: int) -> None:
    """Note when a share's bits are deleted at the latest, whatever comes or does not come."""
    desk.collection("pool-deadlines", str).put(f"{expires_at + GRACE_US:017}/{key}", key)


def sweep(desk: Desk) -> int:
    """Destroy what is past its time, and return how many shares were due; every new share begins with it."""
    deadlines = desk.collection("pool-deadlines", str)
    due = [(name, key) for name, key in deadlines.items(limit=_SWEPT_AT_ONCE) if int(name[:17]) <= desk.now]
    for name, key in due:
        deadlines.delete(name)
        _let_go(desk, key)
    return len(due)


def _let_go(desk: Desk, key: str) -> None:
    drop_bits(desk, key)
    drop_complaints(desk, key)
    passage = passages(desk).get(key)
    if passage is not None and passage.state in (PassageState.PASSED_ON, PassageState.HELD):
        late = "neither confirmed nor refused in time"
        update(desk, passage, state=PassageState.DESTROYED, code="TIMEOUT", detail=late)


def drop_complaints(desk: Desk, key: str) -> None:
    """Delete the complaints about a share, with the bits that they show."""
    for name, _ in list(complaints(desk).items(f"{key}/")):
        complaints(desk).delete(name)
        drop_bits(desk, name)


# --- numbers --------------------------------------------------------------------------------------------------------


def take_numbers(desk: Desk, pool: Pool, first: int, units: int) -> None:
    """Reserve numbers of a pool for one batch, whatever becomes of it. Raises `Refusal` KEY_REUSED."""
    mark = next_number(desk, pool)
    if first < mark:
        raise Refusal("KEY_REUSED", f"unit {first} was given to a batch of this pool before; the next is {mark}")
    desk.collection("pool-marks", int).put(f"{pool.tag:x}", first + units)


def next_number(desk: Desk, pool: Pool) -> int:
    """Return the number above every unit of a pool that any supply was begun for here."""
    return desk.collection("pool-marks", int).get(f"{pool.tag:x}") or 0


def _under_way(desk: Desk) -> Collection[int]:
    """Units of batches that were begun and are neither handed over nor destroyed, by the pool's tag and the batch."""
    return desk.collection("pool-units-under-way", int)


def begin_batch(desk: Desk, batch: Batch) -> None:
    """Write a new batch down at its origin."""
    order = batch.orders[0]
    batches(desk).put(order.batch, batch)
    _under_way(desk).put(f"{order.pool.tag:x}/{order.batch}", order.units)


def fail_batch(desk: Desk, batch: Batch, **reason: object) -> None:
    """Write down that a batch failed, and why."""
    order = batch.orders[0]
    batches(desk).put(order.batch, msgspec.structs.replace(batch, state=BatchState.FAILED, **reason))
    _under_way(desk).delete(f"{order.pool.tag:x}/{order.batch}")


def units_under_way(desk: Desk, pool: Pool) -> int:
    """Return how many units of a pool are on their way, or have arrived and wait for the hand-over."""
    return sum(_under_way(desk).values(f"{pool.tag:x}/"))


# --- the hand-over --------------------------------------------------------------------------------------------------


def leave_arrived(desk: Desk, order: Order, units: Secret, provenance: bytes) -> None:
    """Leave a batch for the hand-over."""
    wrapped = desk.vault.wrap(units, f"arrived/{order.batch}".encode())
    record = ArrivedBatch(
        batch=order.batch,
        origin=order.origin,
        target=order.target,
        series=order.series,
        first=order.first,
        units=order.units,
        mode=order.mode,
        wrapped=wrapped,
        provenance=provenance,
        at=desk.now,
    )
    arrived_batches(desk).put(order.batch, record)


def arrived(desk: Desk, *, after: str = "", limit: int | None = None) -> Iterator[Deposit]:
    """Yield the batches to be handed over, by name, each as the key store takes it."""
    records = arrived_batches(desk).items(after=after, limit=limit)
    for record in (record for _, record in records):
        material = desk.vault.unwrap(record.wrapped, f"arrived/{record.batch}".encode()).reveal()
        units = tuple(Secret(material[at : at + UNIT_BYTES]) for at in range(0, len(material), UNIT_BYTES))
        pool = Pool(record.origin, record.target, record.series)
        yield Deposit(pool, record.batch, record.first, units, record.provenance)


def handed_over(desk: Desk, batch: str) -> None:
    """Forget a batch that the key store has durably. One that is not here any more changes nothing."""
    record = arrived_batches(desk).get(batch)
    if record is not None:
        pool = Pool(record.origin, record.target, record.series)
        _under_way(desk).delete(f"{pool.tag:x}/{batch}")
        arrived_batches(desk).delete(batch)
