"""What every store does, told once and run over both: records, rows, the outbox, the journal, parts, durability."""

from __future__ import annotations

import pytest
from tests.adapters.storage.places import DEVICE, HOP, NEVER, Place, Undone, refused, row, taken

from qsotn.domain import PartyId, ProcedureId
from qsotn.ports import Posted, Store, Transaction

ONE, TWO = ProcedureId("one"), ProcedureId("two")
ODD_KEYS = [
    " ", "%", "%a", "'; DROP TABLE records; --", "?1", "$1", "A", "Z", "\\", "\\%", "_", "__", "a", "a%b", "a/b",
    "aa", "a\U0010ffff", "a\U0010ffff\U0010ffff", "ab", "b", "z", "ß", "é", "é1", "\ud7ff", "\ue000", "\uffff",
    "\U00010000", "\U0010ffff", "\U0010ffffa",
]  # fmt: skip
"""In no order; among them the patterns of LIKE, quotes, parameters, and the borders of Unicode."""


def keys(transaction: Transaction, prefix: str = "", *, after: str = "", limit: int | None = None) -> list[str]:
    return [key for key, _ in transaction.scan("odd", prefix, after=after, limit=limit)]


def post(
    transaction: Transaction,
    content: bytes,
    *,
    procedure: ProcedureId = ONE,
    next_hop: PartyId = HOP,
    answers: bytes = b"digest",
    expires_at: int = NEVER,
    due: int = 0,
    collected: bool = False,
) -> int:
    return transaction.post(procedure, next_hop, content, answers, expires_at=expires_at, due=due, collected=collected)


def leased(
    store: Store, now: int, until: int = NEVER, limit: int = 100, collector: PartyId | None = None
) -> list[bytes]:
    with store.transaction() as transaction:
        return [posted.datagram for posted in transaction.lease(now, until, limit, collector)]


# --- records --------------------------------------------------------------------------------------------------------


def test_a_record_is_what_was_last_written(store: Store) -> None:
    with store.transaction() as transaction:
        assert transaction.get("lines", "1") is None
        transaction.put("lines", "1", b"first")
        transaction.put("lines", "1", b"\x00second\xff")
        transaction.put("devices", "1", b"other")
    with store.transaction() as transaction:
        assert transaction.get("lines", "1") == b"\x00second\xff"
        transaction.delete("lines", "1")
        transaction.delete("lines", "never there")
        assert transaction.get("lines", "1") is None
        assert transaction.get("devices", "1") == b"other"


def test_a_large_record_comes_back_whole(store: Store) -> None:
    large = bytes(range(256)) * 8192
    with store.transaction() as transaction:
        transaction.put("key-blocks", "1", large)
    with store.transaction() as transaction:
        assert transaction.get("key-blocks", "1") == large


@pytest.fixture
def odd(store: Store) -> Store:
    with store.transaction() as transaction:
        transaction.put("other", "a", b"not of this collection")
        for key in ODD_KEYS:
            transaction.put("odd", key, key.encode())
    return store


def test_keys_are_ordered_by_code_point(odd: Store) -> None:
    with odd.transaction() as transaction:
        assert list(transaction.scan("odd")) == [(key, key.encode()) for key in sorted(ODD_KEYS)]


def test_a_prefix_is_compared_and_never_a_pattern(odd: Store) -> None:
    prefixes = {key[:length] for key in ODD_KEYS for length in (0, 1, 2)} | {"c", "\U0010fffe"}
    with odd.transaction() as transaction:
        found = {prefix: keys(transaction, prefix) for prefix in prefixes}
    assert found == {prefix: sorted(key for key in ODD_KEYS if key.startswith(prefix)) for prefix in prefixes}


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_join_to_the_whole(odd: Store, limit: int) -> None:
    with odd.transaction() as transaction:
        for prefix in ("", "a", "%", "\U0010ffff"):
            pages, after = list[str](), ""
            while page := keys(transaction, prefix, after=after, limit=limit):
                pages, after = pages + page, page[-1]
            assert pages == keys(transaction, prefix)


@pytest.mark.parametrize(
    ("prefix", "after", "expected"),
    [
        ("b", "a", ["b"]),
        ("a", "b", []),
        ("a", "a", ["a%b", "a/b", "aa", "ab", "a\U0010ffff", "a\U0010ffff\U0010ffff"]),
        ("a", "aa", ["ab", "a\U0010ffff", "a\U0010ffff\U0010ffff"]),
        ("a", "a\U0010ffff\U0010ffff", []),
        ("aa", "a", ["aa"]),
    ],
)
def test_a_page_begins_behind_its_bound_whether_or_not_that_exists(
    odd: Store, prefix: str, after: str, expected: list[str]
) -> None:
    with odd.transaction() as transaction:
        assert keys(transaction, prefix, after=after) == expected


def test_a_scan_shows_what_was_there_when_it_was_asked_for(odd: Store) -> None:
    with odd.transaction() as transaction:
        found = transaction.scan("odd")
        for key, _ in found:
            transaction.delete("odd", key)
            transaction.put("odd", f"{key}+", b"later")
        assert keys(transaction) == sorted(f"{key}+" for key in ODD_KEYS)


@pytest.mark.parametrize(
    ("first", "last", "taken_away"),
    [
        ("a", "ab", ["a", "a%b", "a/b", "aa", "ab"]),
        ("aa", "aa", ["aa"]),
        ("ac", "ad", []),
        ("b", "a", []),
        ("\U0010ffff", "\U0010ffff", ["\U0010ffff"]),
        ("a\U0010ffff", "b", ["a\U0010ffff", "a\U0010ffff\U0010ffff", "b"]),
    ],
)
def test_what_is_taken_is_returned_and_gone(odd: Store, first: str, last: str, taken_away: list[str]) -> None:
    with odd.transaction() as transaction:
        assert list(transaction.take("odd", first, last)) == [(key, key.encode()) for key in taken_away]
    with odd.transaction() as transaction:
        assert keys(transaction) == sorted(set(ODD_KEYS) - set(taken_away))
        assert transaction.get("other", "a") == b"not of this collection"


# --- procedures -----------------------------------------------------------------------------------------------------


def test_a_row_is_what_was_last_written(store: Store) -> None:
    with store.transaction() as transaction:
        assert transaction.row(ONE, "pmp") is None
        transaction.put_row(row("one"))
        transaction.put_row(row("one", ladder="deletion", subject="line-2", deadline=7, running=False))
        assert transaction.row(ONE, "pmp") == b"one/pmp"
        assert transaction.rows_about("line-1") == []
        assert transaction.rows_about("line-2") == []
        transaction.put_row(row("one", subject="line-2", deadline=7))
        assert transaction.rows_about("line-2") == [b"one/pmp"]
        assert transaction.late_rows(7, 10) == [b"one/pmp"]


def test_rows_of_a_procedure_come_by_seat(store: Store) -> None:
    with store.transaction() as transaction:
        for seat in ("qssp-b", "qssp", "qssp-a"):
            transaction.put_row(row("one", seat))
        transaction.put_row(row("one-more", "qssp"))
        assert transaction.rows_of(ONE) == [b"one/qssp", b"one/qssp-a", b"one/qssp-b"]
        assert transaction.rows_of(TWO) == []


def test_rows_about_a_subject_are_those_that_run_by_procedure_and_seat(store: Store) -> None:
    with store.transaction() as transaction:
        for procedure, seat in (("b", "pmp"), ("a", "qssp"), ("a", "pmp"), ("a!", "pmp")):
            transaction.put_row(row(procedure, seat))
        transaction.put_row(row("c", running=False))
        transaction.put_row(row("d", subject="line-10"))
        assert transaction.rows_about("line-1") == [b"a/pmp", b"a/qssp", b"a!/pmp", b"b/pmp"]


def test_late_rows_are_those_that_run_and_whose_deadline_has_come_the_oldest_first(store: Store) -> None:
    with store.transaction() as transaction:
        for procedure, deadline in (("c", 10), ("a", 30), ("b", 20), ("d", 31), ("e", 10)):
            transaction.put_row(row(procedure, deadline=deadline))
        transaction.put_row(row("over", deadline=5, running=False))
        assert transaction.late_rows(30, 10) == [b"c/pmp", b"e/pmp", b"b/pmp", b"a/pmp"]
        assert transaction.late_rows(30, 2) == [b"c/pmp", b"e/pmp"]
        assert transaction.late_rows(9, 10) == []


def test_rows_are_paged_by_procedure_and_seat_in_any_state(store: Store) -> None:
    names = [("a", "pmp"), ("a", "qssp"), ("a!", "pmp"), ("b/c", "pmp"), ("b/c", "qssp-a")]
    with store.transaction() as transaction:
        for procedure, seat in reversed(names):
            transaction.put_row(row(procedure, seat, running=procedure == "a"))
        whole = [f"{procedure}/{seat}".encode() for procedure, seat in names]
        assert transaction.rows() == whole
        pages, after = list[bytes](), ""
        while page := transaction.rows(after=after, limit=2):
            pages, after = [*pages, *page], page[-1].decode()
        assert pages == whole
        assert transaction.rows(after="a") == whole
        assert transaction.rows(after="a/pmp", limit=1) == [b"a/qssp"]


# --- outbox ---------------------------------------------------------------------------------------------------------


def test_numbers_grow_and_loans_come_in_their_order(store: Store) -> None:
    with store.transaction() as transaction:
        numbers = [post(transaction, content) for content in (b"one", b"two", b"three")]
    assert numbers == sorted(set(numbers))
    with store.transaction() as transaction:
        assert transaction.lease(0, 10, 10) == [
            Posted(number, HOP, content, 0) for number, content in zip(numbers, (b"one", b"two", b"three"), strict=True)
        ]


def test_a_number_is_not_given_again_when_its_datagram_is_forgotten(store: Store) -> None:
    with store.transaction() as transaction:
        first = post(transaction, b"one", expires_at=5)
    with store.transaction() as transaction:
        assert transaction.prune(5, 10) == 1
        assert post(transaction, b"two") > first


def test_a_datagram_is_leased_from_its_time_on_and_not_after_it_expired(store: Store) -> None:
    with store.transaction() as transaction:
        post(transaction, b"at 10", due=10)
        post(transaction, b"until 20", expires_at=20)
    assert leased(store, 9, until=9) == [b"until 20"]
    assert leased(store, 10, until=10) == [b"at 10", b"until 20"]
    assert leased(store, 19, until=19) == [b"at 10", b"until 20"]
    assert leased(store, 20, until=20) == [b"at 10"]


def test_nobody_gets_what_is_on_loan_until_the_loan_ends(store: Store, place: Place) -> None:
    other = place.open()
    with store.transaction() as transaction:
        post(transaction, b"one")
    assert leased(store, 100, until=200) == [b"one"]
    assert leased(store, 199) == []
    assert leased(other, 199) == []
    assert leased(other, 200, until=300) == [b"one"]
    assert leased(store, 299) == []


def test_those_due_the_longest_are_leased_first(store: Store) -> None:
    with store.transaction() as transaction:
        late = post(transaction, b"postponed")
        transaction.postpone(late, 50)
        post(transaction, b"second", due=20)
        post(transaction, b"first", due=10)
    assert leased(store, 100, limit=2) == [b"second", b"first"]
    assert leased(store, 100, limit=2) == [b"postponed"]


def test_a_datagram_is_sent_or_collected_and_only_by_its_next_hop(store: Store) -> None:
    with store.transaction() as transaction:
        post(transaction, b"sent")
        post(transaction, b"to the device", next_hop=DEVICE, collected=True)
        post(transaction, b"to another", next_hop=PartyId("cpe/jinan-2"), collected=True)
        post(transaction, b"sent to the device", next_hop=DEVICE)
    assert leased(store, 1) == [b"sent", b"sent to the device"]
    assert leased(store, 1, collector=DEVICE) == [b"to the device"]
    assert leased(store, 1, collector=PartyId("cpe/qingdao-1")) == []


def test_collectors_are_told_whether_something_is_due(store: Store) -> None:
    waiting, early, late, sent, nobody = (PartyId(f"cpe/{name}") for name in ("waiting", "early", "late", "sent", "é"))
    with store.transaction() as transaction:
        for _ in range(2):
            post(transaction, b"", next_hop=waiting, collected=True)
        post(transaction, b"", next_hop=early, collected=True, due=11)
        post(transaction, b"", next_hop=late, collected=True, expires_at=10)
        post(transaction, b"", next_hop=sent)
        post(transaction, b"", next_hop=PartyId("cpe/not-asked"), collected=True)
    asked = [waiting, early, late, sent, nobody]
    with store.transaction() as transaction:
        assert list(transaction.collectors_due(10, asked)) == [waiting]
        assert list(transaction.collectors_due(10, [])) == []
        assert sorted(transaction.collectors_due(11, asked)) == [early, waiting]
    assert leased(store, 10, until=20, collector=waiting) == [b"", b""]
    with store.transaction() as transaction:
        assert list(transaction.collectors_due(10, asked)) == []


def test_what_is_delivered_is_not_leased_again(store: Store) -> None:
    with store.transaction() as transaction:
        numbers = [post(transaction, content) for content in (b"one", b"two", b"three")]
        assert transaction.undelivered(0) == 3
    with store.transaction() as transaction:
        transaction.delivered([numbers[2], numbers[0], numbers[0]])
        transaction.delivered([])
        assert transaction.undelivered(0) == 1
    assert leased(store, 1) == [b"two"]


def test_a_receipt_counts_only_for_the_datagrams_of_whoever_gives_it(store: Store) -> None:
    with store.transaction() as transaction:
        sent = post(transaction, b"sent")
        collected = post(transaction, b"collected", next_hop=DEVICE, collected=True)
    with store.transaction() as transaction:
        transaction.delivered([sent, collected, collected + 1], DEVICE)
    assert leased(store, 1, collector=DEVICE) == []
    assert leased(store, 1) == [b"sent"]


def test_receipts_of_datagrams_that_are_gone_or_never_were_change_nothing(store: Store) -> None:
    with store.transaction() as transaction:
        gone = post(transaction, b"gone", expires_at=5)
    with store.transaction() as transaction:
        transaction.prune(5, 10)
    with store.transaction() as transaction:
        transaction.delivered([gone, gone + 1, gone + 1000])
    with store.transaction() as transaction:
        assert transaction.undelivered(0) == 0
        assert [post(transaction, b"next") for _ in range(3)] == [gone + 1, gone + 2, gone + 3]
    assert leased(store, 1) == [b"next"] * 3


def test_a_postponed_datagram_counts_its_attempts(store: Store) -> None:
    with store.transaction() as transaction:
        number = post(transaction, b"one")
    with store.transaction() as transaction:
        transaction.postpone(number, 10)
        transaction.postpone(number, 20)
    assert leased(store, 19) == []
    with store.transaction() as transaction:
        assert transaction.lease(20, 30, 10) == [Posted(number, HOP, b"one", 2)]


def test_answers_become_due_again_byte_for_byte_and_no_others(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.delivered([post(transaction, b"answer one"), post(transaction, b"answer two")])
        transaction.delivered([post(transaction, b"to another message", answers=b"other")])
        transaction.delivered([post(transaction, b"of another procedure", procedure=TWO)])
    assert leased(store, 1) == []
    with store.transaction() as transaction:
        transaction.post_again(ONE, b"digest")
        transaction.post_again(ONE, b"never heard")
    assert leased(store, 1) == [b"answer one", b"answer two"]


def test_an_answer_is_posted_whether_or_not_it_was_delivered(store: Store) -> None:
    with store.transaction() as transaction:
        number = post(transaction, b"one")
        transaction.delivered([number])
        assert transaction.is_posted(ONE, b"digest")
        assert not transaction.is_posted(ONE, b"other")
        assert not transaction.is_posted(TWO, b"digest")


def test_what_waits_is_counted_until_it_expires(store: Store) -> None:
    with store.transaction() as transaction:
        post(transaction, b"sent", expires_at=10)
        post(transaction, b"collected", expires_at=20, collected=True)
        post(transaction, b"on loan", expires_at=30, due=25)
        assert [transaction.undelivered(now) for now in (9, 10, 19, 20, 30)] == [3, 2, 2, 1, 0]


def test_expired_datagrams_are_forgotten_delivered_or_not_the_oldest_first(store: Store) -> None:
    with store.transaction() as transaction:
        for expires_at in (30, 10, 20, 40):
            post(transaction, b"%d" % expires_at, expires_at=expires_at, answers=b"%d" % expires_at)
        transaction.delivered([post(transaction, b"delivered", expires_at=5, answers=b"5")])
    with store.transaction() as transaction:
        assert transaction.prune(30, 2) == 2
        assert [transaction.is_posted(ONE, b"%d" % then) for then in (5, 10, 20, 30, 40)] == [
            False,
            False,
            True,
            True,
            True,
        ]
        assert transaction.prune(30, 10) == 2
        assert transaction.prune(30, 10) == 0
    assert leased(store, 1) == [b"40"]


# --- journal --------------------------------------------------------------------------------------------------------


def test_the_journal_keeps_the_order_of_acceptance(store: Store) -> None:
    with store.transaction() as transaction:
        for procedure, number in (("one", 2), ("two", 1), ("one", 1), ("one", 3)):
            transaction.journal(taken(procedure, number))
    with store.transaction() as transaction:
        assert transaction.taken(ONE) == [taken("one", 2), taken("one", 1), taken("one", 3)]
        assert transaction.taken(ProcedureId("three")) == []


# --- all or nothing -------------------------------------------------------------------------------------------------


def everything(store: Store) -> tuple[object, ...]:
    with store.transaction() as transaction:
        records = [list(transaction.scan(name)) for name in ("lines", "odd")]
        journal = [transaction.taken(name) for name in (ONE, TWO)]
        return records, journal, transaction.rows(), transaction.undelivered(0), transaction.is_posted(TWO, b"digest")


def change_all(transaction: Transaction) -> None:
    transaction.put("lines", "1", b"changed")
    transaction.put("lines", "2", b"new")
    transaction.delete("lines", "3")
    transaction.put_row(row("one", running=False))
    transaction.put_row(row("two"))
    transaction.journal(taken("one", 2))
    transaction.delivered([post(transaction, b"other", procedure=TWO), 1])
    post(transaction, b"more")


@pytest.fixture
def written(store: Store) -> Store:
    with store.transaction() as transaction:
        transaction.put("lines", "1", b"first")
        transaction.put("lines", "3", b"third")
        transaction.put_row(row("one"))
        transaction.journal(taken("one", 1))
        post(transaction, b"one")
    return store


@pytest.mark.parametrize("error", [Undone, KeyboardInterrupt, GeneratorExit])
def test_any_exception_undoes_the_whole_transaction(written: Store, error: type[BaseException]) -> None:
    before = everything(written)
    with refused(error), written.transaction() as transaction:
        change_all(transaction)
        raise error
    assert everything(written) == before


def test_a_lease_that_is_undone_was_none(written: Store) -> None:
    with refused(Undone), written.transaction() as transaction:
        transaction.delivered([1])
        assert transaction.lease(1, NEVER, 10) == []
        raise Undone
    with refused(Undone), written.transaction() as transaction:
        assert len(transaction.lease(1, NEVER, 10)) == 1
        raise Undone
    assert leased(written, 1) == [b"one"]


def test_receipts_and_leases_share_a_transaction(written: Store) -> None:
    with written.transaction() as transaction:
        post(transaction, b"two")
    with written.transaction() as transaction:
        transaction.delivered([1])
        (posted,) = transaction.lease(1, NEVER, 10)
        assert posted.datagram == b"two"
        transaction.delivered([posted.number])
        assert transaction.undelivered(1) == 0
    assert leased(written, NEVER) == []


def test_a_part_is_undone_alone(written: Store) -> None:
    with written.transaction() as transaction:
        transaction.put("odd", "before", b"")
        with refused(Undone), transaction.part():
            change_all(transaction)
            raise Undone
        with transaction.part():
            transaction.put("odd", "kept", b"")
        with refused(Undone), transaction.part():
            raise Undone
        transaction.put("odd", "after", b"")
    with written.transaction() as transaction:
        assert keys(transaction) == ["after", "before", "kept"]
        assert [key for key, _ in transaction.scan("lines")] == ["1", "3"]
        assert transaction.get("lines", "1") == b"first"
        assert transaction.rows_about("line-1") == [b"one/pmp"]
        assert transaction.taken(ONE) == [taken("one", 1)]
        assert transaction.undelivered(0) == 1


def test_a_part_within_a_part_is_undone_alone_and_with_it(store: Store) -> None:
    with store.transaction() as transaction:
        with transaction.part():
            transaction.put("odd", "outer", b"")
            with refused(Undone), transaction.part():
                transaction.put("odd", "inner, undone", b"")
                raise Undone
            with transaction.part():
                transaction.put("odd", "inner", b"")
        with refused(Undone), transaction.part():
            with transaction.part():
                transaction.put("odd", "inner of one undone", b"")
            raise Undone
        with refused(Undone), transaction.part():
            with transaction.part():
                pass
            transaction.put("odd", "behind an empty one", b"")
            raise Undone
    with store.transaction() as transaction:
        assert keys(transaction) == ["inner", "outer"]


def test_a_part_that_is_kept_goes_with_its_transaction(written: Store) -> None:
    before = everything(written)
    with refused(Undone), written.transaction() as transaction:
        with transaction.part():
            change_all(transaction)
        raise Undone
    assert everything(written) == before


def test_receipts_in_a_part_are_undone_with_it(written: Store) -> None:
    with written.transaction() as transaction:
        with refused(Undone), transaction.part():
            transaction.delivered([1])
            raise Undone
        assert transaction.undelivered(0) == 1
    assert leased(written, 1) == [b"one"]


def test_what_was_committed_is_there_when_the_store_is_opened_again(written: Store, place: Place) -> None:
    with written.transaction() as transaction:
        change_all(transaction)
    before = everything(written)
    written.close()
    assert everything(place.open()) == before


def test_a_closed_store_can_be_closed_again(store: Store) -> None:
    store.close()
    store.close()
