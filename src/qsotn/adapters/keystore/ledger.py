"""Ready keys over the tables of either dialect, and what is kept beside the database: epoch keys and witnesses.

Within one call, operations are done by kind: deposits, reservations, assignments, confirmations, voids, collections,
sweeps; those of a kind in their order. They came at the same time, so any order is a true one.

*The folder* holds the epoch keys and the witnesses; it must not be in the same backup as the database. Replicas that
share a database share the folder too (one machine, or a network file system that syncs), since any of them may be asked
for a key that another has wrapped. Each fills epochs of its own.

*A restored backup* is noticed because every transaction that changes anything raises its replica's counter, which that
replica's witness repeats. Opening compares the counters with all witnesses of the folder; a running replica compares
its own in every transaction before it commits, and all of them at every sweep. So, once `apply` has returned, no older
copy of the database gives out any of its keys again, but for one case: a replica that runs on while the database is
exchanged beneath it, and that itself had done nothing since the copy was made, may go on until its next sweep. Stop all
replicas before a database is restored.

Where an older copy was found (`restored`), everything in it is destroyed and counted as burned, its pools end, and the
next series of a pool is higher than any that a witness has seen.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from qsotn.adapters.keystore import dispatch
from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.epochs import Epochs
from qsotn.adapters.keystore.forgetting import TOUCHES, forget
from qsotn.adapters.keystore.opening import check_counter, check_evidence, open_beside
from qsotn.adapters.keystore.registry import KnownPool, Registry
from qsotn.adapters.keystore.statements import State, Tables, Tally
from qsotn.adapters.keystore.sweeping import burn, rewrap
from qsotn.adapters.keystore.work import Times, Work
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, KeyId, PartyId
from qsotn.errors import StoreConflict, StoreError, UsageError
from qsotn.keynetwork.delivery import Applied, Forgotten, Operation, Pool, PoolCount, Sweep


class KeyLedger:
    """`delivery.KeyStore` over tables. It belongs to one thread at a time."""

    restored: Final[bool]
    """Whether an older copy of the database was found on opening (or `discard` was asked), and its keys destroyed."""

    def __init__(
        self,
        tables: Tables,
        folder: Path,
        vault: Vault,
        entropy: Entropy,
        *,
        replica: str,
        times: Times,
        discard: bool = False,
    ) -> None:
        self._tables = tables
        self._folder = folder
        self._times = times
        self._replica = replica
        opened = open_beside(tables, folder, entropy, replica, discard=discard)
        self.restored = opened.restored
        self._witness = opened.witness
        self._said = opened.evidence
        self._registry = Registry(tables, times.retention // TOUCHES)
        self._epochs = Epochs(folder, vault, entropy, opened.evidence.identity)
        self._epoch: int | None = None
        self._wrapped = 0
        self._scanned = -1
        self._floors: dict[int, int] = {}
        self._now = 0
        self._prepared: tuple[Work, int | None] | None = None
        try:
            self._start()
        except BaseException:
            self._witness.close()
            raise

    def _start(self) -> None:
        with self._tables.transaction(exclusive=True):
            self._registry.read_pools()
            self._registry.read_audiences()
            # A new epoch for what comes now: how much the last one was used is not known.
            self._tables.fetch(sql.CLOSE_EPOCHS, self._replica)
            live = {number for number, _, _, rows in self._tables.fetch(sql.EPOCHS) if rows}
        if missing := live - self._epochs.files():
            raise StoreError(
                f"{self._tables.name} has keys of epochs {', '.join(map(str, sorted(missing)))}, whose files are not in"
                f" {self._folder}: put them back; if they are lost, the keys are too: set the database aside with"
                f" {self._folder}, and new pools begin"
            )
        self._shred()

    # --- operations -------------------------------------------------------------------------------------------------

    def apply(self, operations: Sequence[Operation]) -> Applied:
        """Do all in one transaction; see `delivery.KeyStore`."""
        kinds = dispatch.by_kind(operations)
        self._now = dispatch.latest(kinds, self._now)
        self._registry.add(dispatch.pools(kinds), dispatch.audiences(kinds), self._now)
        old = self._look_after_epochs() if Sweep in kinds else set()
        wraps = bool(old) or dispatch.wraps(kinds)
        if wraps:
            self._fill_epoch()
        work, scanned = self._work(), self._scanned
        with self._tables.transaction():
            if wraps and self._epoch is not None and not self._tables.fills(self._epoch):
                raise StoreConflict(f"epoch {self._epoch} was closed by another replica; try again")
            dispatch.do_all(work, kinds)
            if old:
                scanned = rewrap(work, old, scanned)
            counted = self._counted(work.write_back())
        self._scanned = scanned
        self._committed(work, counted)
        return work.applied

    def prepare(self, operations: Sequence[Operation]) -> Applied | None:
        """Do what is short work in a transaction that is left open for `commit`; see `delivery.KeyStore`."""
        kinds = dispatch.by_kind(operations)
        now = dispatch.latest(kinds, self._now)
        is_short = dispatch.is_short(kinds) and self._registry.knows(dispatch.audiences(kinds), now)
        if not is_short or not self._tables.begin_at_once():
            return None
        self._now = now
        work = self._work()
        try:
            dispatch.do_all(work, kinds)
            self._prepared = work, self._counted(work.write_back())
        except BaseException:
            self._tables.roll_back()
            raise
        return work.applied

    def commit(self) -> None:
        """Make what was prepared durable."""
        if self._prepared is None:
            raise UsageError("nothing was prepared")
        (work, counted), self._prepared = self._prepared, None
        self._tables.commit()
        self._committed(work, counted)

    def _committed(self, work: Work, transactions: int | None) -> None:
        self._floors = work.floors
        self._wrapped += work.wrapped
        self._testify(transactions)

    def _work(self) -> Work:
        return Work(self._tables, self._registry, self._epochs, self._times, self._now, self._epoch, dict(self._floors))

    def _counted(self, transactions: int | None) -> int | None:
        if transactions is not None:
            check_counter(self._tables, self._said.transactions, transactions)
        return transactions

    def _testify(self, transactions: int | None, series: int = 0) -> None:
        """Write down outside of the database what was committed in it."""
        if transactions is not None:
            self._said = self._said.after(transactions, series)
            self._witness.write(self._said)

    # --- epochs -----------------------------------------------------------------------------------------------------

    def _fill_epoch(self) -> None:
        """Have an epoch that new wrappings may belong to."""
        if self._epoch is not None and self._wrapped < self._times.epoch_units:
            with self._tables.transaction():
                if self._tables.fills(self._epoch):
                    return
        with self._tables.transaction(exclusive=True):
            self._tables.fetch(sql.CLOSE_EPOCHS, self._replica)
            ((number,),) = self._tables.fetch(sql.BEGIN_EPOCH, self._replica)
            self._epochs.begin(number)
        self._epoch, self._wrapped = number, 0

    def _look_after_epochs(self) -> set[int]:
        """Shred epochs that are empty, and return those whose rest is to be wrapped anew."""
        with self._tables.transaction():
            check_evidence(self._tables, self._folder, self._replica, self._said.transactions)
            rows = self._tables.fetch(sql.EPOCHS)
        if any(not filling and not live for _, _, filling, live in rows):
            self._shred()
        self._epochs.forget_all_but(number for number, *_ in rows)
        limit = self._now - self._times.epoch_limit
        return {number for number, begun, filling, live in rows if live and not filling and (begun or 0) <= limit}

    def _shred(self) -> None:
        """Shred every epoch that nothing is left of, and files that no epoch leads to."""
        with self._tables.transaction(exclusive=True):
            rows = self._tables.fetch(sql.EPOCHS)
            empty = [number for number, _, filling, live in rows if not filling and not live]
            orphans = self._epochs.files() - {number for number, *_ in rows}
            for epoch in sorted(orphans.union(empty)):
                self._epochs.shred(epoch)
            self._tables.fetch(sql.END_EPOCHS, empty)
            self._tables.fetch(sql.END_LIVE, empty)

    # --- pools ------------------------------------------------------------------------------------------------------

    def pools(self) -> Sequence[Pool]:
        """Return the pools that were ever deposited into, or begun, here."""
        with self._tables.transaction():
            self._registry.read_pools()
        return [known.pool for known in self._registry.pools.values()]

    def begin_pool(self, origin: PartyId, target: PartyId) -> Pool:
        """At the origin: return the pool in use towards a target; see `delivery.KeyStore`."""
        counted = None
        with self._tables.transaction(exclusive=True):
            series, ended = self._last_series(origin, target)
            if series == 0 or ended:
                ((_, floor),) = self._tables.fetch(sql.STORE)
                series = max(series, floor) + 1
                self._tables.fetch(sql.ADD_POOL, origin, target, series)
                counted = self._counted(self._tables.tally([]))
            self._registry.read_pools()
        self._testify(counted, series)
        return Pool(origin, target, series)

    def end_pool(self, pool: Pool) -> None:
        """Destroy what nobody was given of a pool, and begin no more of it: the far end has lost its units."""
        work = self._work()
        with self._tables.transaction(exclusive=True):
            self._registry.read_pools()
            known = self._registry.pool(pool)
            # What waits for a slave when its series ended with the next one (`depositing`) is not to be destroyed.
            if known is not None and not self._tables.fetch(sql.TAKES_IN, known.number)[0][0]:
                burn(work, known)
            counted = self._counted(work.write_back())
        self._testify(counted)

    def _last_series(self, origin: PartyId, target: PartyId) -> tuple[int, bool]:
        found = self._tables.fetch(sql.SERIES, origin, target)
        return (int(found[0][0]), bool(found[0][1])) if found else (0, False)

    def next_number(self, pool: Pool) -> int:
        """Return the number above every unit that this pool ever had at this end."""
        with self._looking_at(pool) as known:
            if known is None:
                return 0
            batch = self._batch_below(known.ceiling - 1, known)
            # What was forgotten was used all the same.
            kept_from = 0 if batch is not None else self._tables.fetch(sql.TAKES_IN, known.number)[0][1]
        return int(kept_from) if batch is None else int(batch[1]) - known.floor + 1

    def held(self, before: int) -> Sequence[tuple[KeyId, int]]:
        """Return the keys that were reserved, held, before this moment and still are, with their sizes in bits."""
        self._now = max(self._now, before)
        with self._tables.transaction():
            self._registry.read_pools()
            noted = self._tables.fetch(sql.HELD_SINCE, before + self._times.held)
            places = array("q", b"".join(bytes(places) for (places,) in noted)).tolist()
            units = [unit for unit in self._tables.read(places) if unit.state == State.HELD and unit.until is None]
            return [(self._registry.key_id(unit.place), unit.size) for unit in units]

    def count(self, pool: Pool) -> PoolCount:
        """Return how a pool stands."""
        with self._looking_at(pool) as known:
            rows = [] if known is None else self._tables.fetch(sql.COUNT, known.number)
        found = {Tally(what): int(value) for what, value in rows}
        kinds = (Tally.READY, Tally.WAITING, Tally.DELIVERED, Tally.VOIDED, Tally.EXPIRED, Tally.BURNED)
        return PoolCount(*(found.get(kind, 0) for kind in kinds))

    def provenance(self, key_id: str) -> bytes | None:
        """Return how the units of a key came here, as it was deposited with them; None for a key of no batch here."""
        with self._tables.transaction():
            self._registry.read_pools()
            place = self._registry.place(key_id)
            batch = None if place is None else self._batch_below(place, self._registry.pool_at(place))
        return bytes(batch[3]) if batch is not None and place is not None and batch[1] >= place else None

    def forget(self, now: int) -> Forgotten:
        """Delete accounts that are past their time, and what pools that have ended left; see `delivery.KeyStore`."""
        self._now = max(self._now, now)
        work = self._work()
        with self._tables.transaction(exclusive=True):
            self._registry.read_pools()
            forgotten = forget(work)
            counted = self._counted(work.write_back())
        self._testify(counted)
        return forgotten

    def _batch_below(self, place: int, pool: KnownPool) -> Sequence[Any] | None:
        found = self._tables.fetch(sql.BATCH_BELOW, place)
        return found[0] if found and found[0][0] >= pool.floor else None

    @contextmanager
    def _looking_at(self, pool: Pool) -> Iterator[KnownPool | None]:
        with self._tables.transaction():
            if self._registry.pool(pool) is None:
                self._registry.read_pools()
            yield self._registry.pool(pool)

    def close(self) -> None:
        """Close it; what is not committed is undone."""
        self._tables.close()
        self._witness.close()
