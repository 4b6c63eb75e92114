"""A `Node`: one party, its identity, its store, and its transactions.

What a datagram or an order does is in `handling`; here is when it happens: one transaction takes any number of
datagrams, or one order, and ends with everything signed, stored and only then sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

from qsotn.crypto.identity import Identity, TrustAnchors
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, LineId, PartyId, role_of
from qsotn.errors import LineError, PeerError, StoreError
from qsotn.parties.desk import Desk
from qsotn.ports import Posted, Store, Transaction, Transport
from qsotn.procedures.turn import Row, State, Work, read_row
from qsotn.runtime.admission import Bearer
from qsotn.runtime.batch import Accepted, Batch
from qsotn.runtime.handling import PARTIES, Handler
from qsotn.runtime.outcomes import Begun, Intake, Observer, Unobserved
from qsotn.runtime.posting import Poster

T = TypeVar("T")

FIRST_RETRY_US = 20_000
LAST_RETRY_US = 5_000_000
LATE_ROWS, EXPIRED_DATAGRAMS = 64, 1024
"""How much of either one `tick` clears away."""


def collects_nothing(_: PartyId) -> bool:
    """Say that every next hop is sent to."""
    return False


class Node:
    """One party at work. `begin` gives it orders, `receive` datagrams; `flush`, or a service, sends what it says.

    With a `lease` (microseconds), what is posted is handed out once by `posted` and becomes due again only when the
    lease has ended, for this process or another one; without, it is due at once and `flush` sends it. What next hops
    fetch themselves (`collects`) is handed out so, by `mail`, only if they wait for it here now (`expects`).
    """

    def __init__(
        self,
        identity: Identity,
        anchors: TrustAnchors,
        store: Store,
        vault: Vault,
        entropy: Entropy,
        clock: Callable[[], int],
        courier: PartyId | None = None,
        *,
        lease: int = 0,
        collects: Callable[[PartyId], bool] = collects_nothing,
        expects: Callable[[PartyId], bool] = collects_nothing,
        observer: Observer | None = None,
    ) -> None:
        self.identity = identity
        self.party = identity.party
        self.role = role_of(identity.party)
        self.rejections: Counter[str] = Counter()
        """How many datagrams were refused, by the name of the error."""
        self.changes = 0
        """Grows with every datagram taken and every local command: whoever watches this party's records looks again."""
        self.repeats = 0
        """Grows when datagrams may have been heard before, so that stored answers may be due again."""
        self._anchors = anchors
        self._store = store
        self._vault = vault
        self._entropy = entropy
        self._clock = clock
        self._lease, self._collects, self._expects = lease, collects, expects
        self._courier = courier
        self._poster = self._new_poster(identity)
        self._handler = Handler(self.role, clock)
        self._observer = observer or Unobserved()
        self._posted: list[Posted] = []
        self._mail: dict[PartyId, list[Posted]] = {}
        self._receipts: list[tuple[int, PartyId | None]] = []
        self._may_have_mail = True

    def renew(self, identity: Identity) -> None:
        """Go on under another certificate of the same keys."""
        self.identity = identity
        self._poster = self._new_poster(identity)

    def _new_poster(self, identity: Identity) -> Poster:
        return Poster(identity, self._entropy, self._courier, self._collects, self._expects, self._lease)

    # --- in ---------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take one datagram. Returning is the receipt: everything it caused is durable.

        Raises `PeerError` with the state as before; the error's class is counted in `rejections`.
        """
        intake = self.receive_all([(data, None)])
        if intake.refused:
            raise intake.refused[0]

    def receive_all(self, datagrams: Sequence[tuple[bytes, Bearer | None]]) -> Intake:
        """Take datagrams, each with who handed it over, in one transaction, each by itself.

        Returning is the receipt of all that were not refused. Raises `PeerError` if what one of them asked for could
        not be answered, `StoreConflict` if another replica was faster: nothing was taken then, and each may be tried
        alone.
        """
        intake = Intake({}, {})
        try:
            with self._batch() as batch:
                self._take_each(batch, datagrams, intake)
        except PeerError as error:
            if len(datagrams) == 1:  # of several, it is not known yet whose fault it is
                self._note_refused(error)
            raise
        for refusal in intake.refused.values():
            self._note_refused(refusal)
        if len(batch.accepted) < len(intake.taken):
            self.repeats += 1
        return intake

    def _take_each(self, batch: Batch, datagrams: Sequence[tuple[bytes, Bearer | None]], intake: Intake) -> None:
        for position, (data, bearer) in enumerate(datagrams):
            try:
                intake.taken[position] = self._handler.take(batch, data, bearer)
            except PeerError as error:
                intake.refused[position] = error

    def _note_refused(self, error: PeerError) -> None:
        self.rejections[type(error).__name__] += 1
        self._observer.refused(error)

    def begin(self, start: Callable[[Any, Work], T], traceparent: str = "") -> T:
        """Run a local command of this party (an operator's order, a timer) in one transaction; return its result."""
        with self._batch() as batch:
            return self._begin_one(batch, start, traceparent)

    def begin_all(self, starts: Sequence[tuple[Callable[[Any, Work], T], str]]) -> Begun[T]:
        """Run several local commands, each with its trace, in one transaction, each by itself.

        One that raises leaves nothing behind. Raises `StoreConflict` and `StoreError` if none was done, and what cannot
        be sent for one of them: each may be tried alone then.
        """
        begun: Begun[T] = Begun({}, {})
        with self._batch() as batch:
            for position, (start, traceparent) in enumerate(starts):
                try:
                    begun.results[position] = self._begin_one(batch, start, traceparent)
                except StoreError:
                    raise
                except Exception as error:  # noqa: BLE001  (it is told to whoever gave this command)
                    begun.failed[position] = error
        return begun

    def _begin_one(self, batch: Batch, start: Callable[[Any, Work], T], traceparent: str) -> T:
        with batch.part(traceparent or self._new_trace()) as work:
            result = start(self._seated(work.desk), work)
        batch.answer(work, b"")
        return result

    def _new_trace(self) -> str:
        """Begin a trace (W3C Trace Context): version, trace, parent, sampled."""
        return f"00-{self._entropy(16).hex()}-{self._entropy(8).hex()}-01"

    def line_encrypted(self, line: LineId, generation: int, armed_at: int) -> None:
        """Take the line's own word (Figure 4, step 12): both ends proved this generation's keys in band."""
        with self._batch() as batch:
            self._handler.take_from_line(batch, line, generation, armed_at)

    def tick(self) -> None:
        """Fail what is past its deadline, and forget datagrams past theirs."""
        with self._batch() as batch:
            self._handler.fail_late(batch, LATE_ROWS)
            batch.desk.transaction.prune(batch.desk.now, EXPIRED_DATAGRAMS)

    # --- out --------------------------------------------------------------------------------------------------------

    def flush(self, transport: Transport, limit: int = 64) -> int:
        """Hand over what is due; return how many datagrams got their receipt."""
        if not self._may_have_mail:
            return 0
        due = self.lease(limit)
        if not due:
            self.settle()
        return sum(self._hand_over(transport, posted) for posted in due)

    def _hand_over(self, transport: Transport, posted: Posted) -> bool:
        try:
            transport.send(self.party, posted.next_hop, posted.datagram)
        except LineError:
            self.postpone([posted])
            return False
        self.acknowledge([posted.number])
        return True

    def posted(self) -> list[Posted]:
        """Return, once, what was posted since the last call: it is on lease to whoever asks."""
        taken, self._posted = self._posted, []
        return taken

    def lease(self, limit: int, collector: PartyId | None = None, received: Sequence[int] = ()) -> Sequence[Posted]:
        """Return what is due, to be sent, or collected by `collector`, before the lease ends.

        `received` are the collector's receipts for what it collected before; numbers not its own change nothing.
        """
        now = self._clock()
        with self._transaction() as transaction:
            if received:
                transaction.delivered(received, collector)
            return transaction.lease(now, now + self._lease, limit, collector)

    def mail(self) -> dict[PartyId, list[Posted]]:
        """Return, once, for which collectors something was posted since the last call, and what of it is on lease."""
        waiting, self._mail = self._mail, {}
        return waiting

    def mail_for(self, collectors: Sequence[PartyId]) -> Sequence[PartyId]:
        """Return which of these collectors have something due."""
        with self._transaction() as transaction:
            return transaction.collectors_due(self._clock(), collectors)

    def acknowledge(self, numbers: Sequence[int], collector: PartyId | None = None) -> None:
        """Note that a next hop has these datagrams; it is written down with the next transaction.

        Numbers that are not a `collector`'s own change nothing. A receipt may be written late: if it is lost, the
        receiver sees, and recognises, the same bytes again. This one method may be called from another thread than the
        store's.
        """
        self._receipts.extend((number, collector) for number in numbers)

    def collected(self, numbers: Sequence[int], collector: PartyId) -> None:
        """Take a collector's receipts. Numbers that are not its own change nothing."""
        with self._transaction() as transaction:
            transaction.delivered(numbers, collector)

    def postpone(self, failed: Sequence[Posted]) -> None:
        """Set when to try again what no receipt came back for."""
        now = self._clock()
        with self._transaction() as transaction:
            for posted in failed:
                delay = min(FIRST_RETRY_US << min(posted.attempts, 16), LAST_RETRY_US)
                transaction.postpone(posted.number, now + delay)

    def settle(self) -> int:
        """Write down the receipts that came in; return how many datagrams still wait for one."""
        with self._transaction() as transaction:
            waiting = transaction.undelivered(self._clock())
        self._may_have_mail = waiting > 0
        return waiting

    # --- transactions -----------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        receipts = list(self._receipts)
        with self._store.transaction() as transaction:
            for collector, noted in groupby(receipts, key=itemgetter(1)):
                transaction.delivered([number for number, _ in noted], collector)
            yield transaction
        del self._receipts[: len(receipts)]

    @contextmanager
    def _batch(self) -> Iterator[Batch]:
        with self._transaction() as transaction:
            batch = Batch(self._desk(transaction))
            yield batch
            postings = self._poster.post_all(batch)
            changed = batch.write()
        if self._lease:
            self._posted += postings.sent
            for collector, mail in postings.mail.items():
                self._mail.setdefault(collector, []).extend(mail)
        self.changes += 1
        self._may_have_mail = True
        self._tell(batch.accepted, changed)

    def _tell(self, accepted: Sequence[Accepted], changed: Sequence[Row]) -> None:
        for step in accepted:
            self._observer.accepted(step)
        for row in changed:
            if row.state is not State.RUNNING:
                self._observer.ended(row)

    @contextmanager
    def desk(self) -> Iterator[Any]:
        """Open this party's desk: its records, in one transaction that is committed at the end."""
        with self._transaction() as transaction:
            yield self._seated(self._desk(transaction))

    @contextmanager
    def rows(self, *, after: str = "", limit: int | None = None) -> Iterator[list[Row]]:
        """Read this party's rows of all procedures, by `procedure/seat`."""
        with self._transaction() as transaction:
            yield [read_row(content) for content in transaction.rows(after=after, limit=limit)]

    def _desk(self, transaction: Transaction) -> Desk:
        return Desk(self.identity, self._anchors, transaction, self._vault, self._entropy, self._clock())

    def _seated(self, desk: Desk) -> Any:
        return PARTIES[self.role](desk)
