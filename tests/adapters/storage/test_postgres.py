"""What only PostgreSQL does: replicas that collide or hang, connections that are lost, servers that crash or must not
be used."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from tests.adapters.storage.cut import Cut, cut
from tests.adapters.storage.places import HOP, NEVER, Place, refused
from tests.postgresql import USER, PostgresServer

from qsotn.adapters.storage import open_store, postgres_session
from qsotn.adapters.storage.postgres import PostgresStore, schema_of
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import StoreConflict, StoreError, UsageError
from qsotn.ports import Store

ONE = ProcedureId("one")


@pytest.fixture
def place(postgres_place: Place) -> Place:
    return postgres_place


def put(store: Store, key: str, value: bytes = b"") -> None:
    with store.transaction() as transaction:
        transaction.put("records", key, value)


def keys(store: Store) -> set[str]:
    with store.transaction() as transaction:
        return {key for key, _ in transaction.scan("records")}


@contextmanager
def configured(server: PostgresServer, name: str, value: str) -> Iterator[None]:
    """Run with another setting of the server."""
    try:
        _configure(server, name, f"SET {name} = '{value}'")
        yield
    finally:
        _configure(server, name, f"RESET {name}")


def _configure(server: PostgresServer, name: str, change: str) -> None:
    show = f"SELECT current_setting('{name}')"
    (before,) = server.fetch(show)
    server.execute(f"ALTER SYSTEM {change}")
    server.execute("SELECT pg_reload_conf()")
    for _ in range(500):
        if server.fetch(show) != [before]:
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} stays {before[0]}")


# --- replicas that collide ------------------------------------------------------------------------------------------


def test_a_lost_update_is_refused_and_its_repetition_succeeds(place: Place) -> None:
    first, second = place.open(), place.open()
    put(first, "counter", b"1")
    with refused(StoreConflict), first.transaction() as late:
        assert late.get("records", "counter") == b"1"
        put(second, "counter", b"2")
        late.put("records", "counter", b"2")
    with first.transaction() as again:
        assert again.get("records", "counter") == b"2"
        again.put("records", "counter", b"3")
    assert keys(second) == {"counter"}


def test_write_skew_is_refused_and_its_repetition_sees_the_other(place: Place) -> None:
    first, second = place.open(), place.open()
    with refused(StoreConflict), first.transaction() as one:
        assert one.get("records", "of the second") is None
        with second.transaction() as other:
            assert other.get("records", "of the first") is None
            other.put("records", "of the second", b"")
        one.put("records", "of the first", b"")
    assert keys(first) == {"of the second"}


def test_two_rows_that_begin_the_same_procedure_collide(place: Place) -> None:
    first, second = place.open(), place.open()
    with refused(StoreConflict), first.transaction() as one:
        one.get("records", "anything")
        with second.transaction() as other:
            other.put("records", "the same", b"second")
        one.put("records", "the same", b"first")
    with first.transaction() as transaction:
        assert transaction.get("records", "the same") == b"second"


def test_a_conflict_that_somebody_swallows_is_not_committed(place: Place) -> None:
    first, second = place.open(), place.open()
    with refused(StoreConflict), first.transaction() as transaction:
        transaction.put("records", "written before", b"")
        put(second, "counter")
        with suppress(StoreConflict), transaction.part():
            transaction.put("records", "counter", b"")
        with pytest.raises(StoreConflict):
            transaction.put("records", "written after", b"")
    assert keys(first) == {"counter"}


def test_a_transaction_that_the_server_gave_up_is_never_taken_for_committed(place: Place) -> None:
    store = place.open()
    assert isinstance(store, PostgresStore)
    with refused(StoreError), store.transaction() as transaction:
        transaction.put("records", "1", b"")
        with pytest.raises(StoreError, match="division by zero"):
            store._session.execute("SELECT 1 / 0")
    assert keys(store) == set()


def test_a_lease_does_not_wait_for_one_that_is_not_yet_committed(place: Place) -> None:
    first, second = place.open(), place.open()
    with first.transaction() as transaction:
        posted = [transaction.post(ONE, HOP, b"", b"", expires_at=NEVER) for _ in range(5)]
    with first.transaction() as one:
        held = [loan.number for loan in one.lease(1, 100, 2)]
        with second.transaction() as other:
            rest = [loan.number for loan in other.lease(1, 100, 10)]
    assert (held, rest) == (posted[:2], posted[2:])


def test_a_lease_opens_its_transaction_and_concerns_the_outbox_alone(place: Place) -> None:
    store = place.open()
    with refused(StoreError, match="outbox alone"), store.transaction() as transaction:
        transaction.lease(1, NEVER, 10)
        transaction.put("records", "1", b"")
    with refused(StoreError, match="outbox alone"), store.transaction() as transaction:
        transaction.delivered([1], HOP)
        transaction.lease(1, NEVER, 10, HOP)
        transaction.put("records", "1", b"")
    with store.transaction() as transaction:
        transaction.put("records", "2", b"")
        assert transaction.lease(1, NEVER, 10) == []
    assert keys(store) == {"2"}


# --- replicas that hang ---------------------------------------------------------------------------------------------


def test_a_replica_that_hangs_in_a_transaction_is_put_out_of_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    other = place.open()
    monkeypatch.setattr(postgres_session, "PAUSE_SECONDS", 0.7)
    hung = place.open()
    with refused(StoreError, match="lost"), hung.transaction() as transaction:
        transaction.put("records", "1", b"of the one that hangs")
        put(other, "1", b"of the other")
        transaction.put("records", "2", b"")
    with hung.transaction() as transaction:
        assert transaction.get("records", "1") == b"of the other"


def test_a_statement_that_takes_too_long_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = place.open()
    monkeypatch.setattr(postgres_session, "STATEMENT_SECONDS", 0.5)
    other = place.open()
    with holder.transaction() as transaction:
        transaction.put("records", "1", b"")
        with pytest.raises(StoreError, match="57014"):
            put(other, "1")
        put(other, "2")
    assert keys(other) == {"1", "2"}


def test_a_commit_that_waits_for_a_standby_is_not_taken_for_done(
    place: Place, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would end such a wait with a mere warning; the answer to it is that nothing is known."""
    monkeypatch.setattr(postgres_session, "STATEMENT_SECONDS", 0.5)
    monkeypatch.setattr(postgres_session, "ANSWER_SECONDS", 2.0)
    store = place.open()
    with configured(postgres_server, "synchronous_standby_names", "nobody"), refused(StoreError, "unknown"):
        put(store, "1")
    monkeypatch.undo()
    put(store, "1")


def test_an_interrupted_statement_leaves_a_store_that_works(place: Place) -> None:
    holder, other = place.open(), place.open()
    with holder.transaction() as transaction:
        transaction.put("records", "1", b"")
        interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            put(other, "1")
        interrupt.join()
        put(other, "2")
    assert keys(other) == {"1", "2"}


# --- connections that are lost --------------------------------------------------------------------------------------


@pytest.fixture
def wired(place: Place, postgres_server: PostgresServer) -> Iterator[tuple[Store, Cut]]:
    """A store whose connection goes over a wire that can be cut."""
    place.open()
    with cut(postgres_server.port) as wire:
        over_it = Place(place.url.replace(f":{postgres_server.port}/", f":{wire.port}/"), place.party)
        with over_it.replica() as store:
            yield store, wire


def test_a_commit_whose_answer_is_lost_has_an_unknown_outcome_and_is_repeated(
    wired: tuple[Store, Cut], place: Place
) -> None:
    store, wire = wired
    wire.after = b"COMMIT"
    with pytest.raises(StoreError, match="unknown"):
        put(store, "1")
    assert keys(place.open()) == {"1"}
    put(store, "1")
    assert keys(store) == {"1"}


def test_a_commit_that_never_arrives_has_an_unknown_outcome_and_is_repeated(
    wired: tuple[Store, Cut], place: Place
) -> None:
    store, wire = wired
    wire.before = b"COMMIT"
    with pytest.raises(StoreError, match="unknown"):
        put(store, "1")
    assert keys(place.open()) == set()
    put(store, "1")
    assert keys(place.open()) == {"1"}


def test_a_connection_lost_inside_a_transaction_takes_the_transaction_with_it(
    wired: tuple[Store, Cut], place: Place
) -> None:
    store, wire = wired
    with refused(StoreError, match="lost"), store.transaction() as transaction:
        transaction.put("records", "1", b"")
        wire.before = b"SAVEPOINT"
        with pytest.raises(StoreError, match="lost"), transaction.part():
            transaction.put("records", "2", b"")
        # Not even a caller who goes on gets to write on a new connection what belonged to the old one.
        with pytest.raises(StoreError, match="lost"):
            transaction.put("records", "3", b"")
    assert keys(store) == set()


def test_a_connection_lost_while_idle_is_not_noticed(place: Place, postgres_server: PostgresServer) -> None:
    store = place.open()
    put(store, "1")
    postgres_server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'qsotn%'"
    )
    put(store, "2")
    postgres_server.stop()
    postgres_server.start()
    with store.transaction() as transaction:
        transaction.delivered([1])
        assert transaction.lease(1, NEVER, 10) == []
    assert keys(store) == {"1", "2"}


# --- servers that crash ---------------------------------------------------------------------------------------------


def test_a_server_that_crashes_loses_nothing_it_acknowledged(place: Place, postgres_server: PostgresServer) -> None:
    """Killed at any moment while two replicas write; started again, and both go on by themselves."""
    place.open()
    acknowledged: list[set[str]] = [set(), set()]
    done = threading.Event()
    writers = [threading.Thread(target=_write_until, args=(place, acknowledged[name], name, done)) for name in (0, 1)]
    for writer in writers:
        writer.start()
    chance = random.Random(1)
    for _ in range(2):
        before = sum(map(len, acknowledged))
        while sum(map(len, acknowledged)) < before + 20:
            time.sleep(0.01)
        time.sleep(chance.random() / 50)
        postgres_server.kill()
        postgres_server.start()
    done.set()
    for writer in writers:
        writer.join(30)
    kept = keys(place.open())
    assert acknowledged[0] | acknowledged[1] <= kept
    assert len(kept) <= sum(map(len, acknowledged)) + 4, "more was kept than what was acknowledged or unknown"


def _write_until(place: Place, acknowledged: set[str], name: int, done: threading.Event) -> None:
    number = 0
    with place.replica() as store:
        while not done.is_set():
            key, number = f"{name}/{number}", number + 1
            try:
                with store.transaction() as transaction:
                    transaction.put("records", key, b"")
                    transaction.post(ONE, HOP, key.encode(), b"", expires_at=NEVER)
            except StoreError:
                continue
            acknowledged.add(key)


# --- servers that must not be used ----------------------------------------------------------------------------------


def test_a_server_that_does_not_sync_is_refused(place: Place, postgres_server: PostgresServer) -> None:
    with configured(postgres_server, "fsync", "off"), pytest.raises(StoreError, match="fsync=off"):
        place.open()
    place.open()


@pytest.mark.parametrize(
    ("configured_as", "used"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")],
)
def test_a_commit_waits_for_the_disk_whatever_the_server_was_told(
    place: Place, postgres_server: PostgresServer, configured_as: str, used: str
) -> None:
    with configured(postgres_server, "synchronous_commit", configured_as):
        store = place.open()
        assert isinstance(store, PostgresStore)
        assert store._session.fetch("SHOW synchronous_commit") == [(used,)]


def test_of_several_hosts_the_one_that_can_be_written_to_is_used(
    place: Place, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first refuses connections, the second takes them and never answers."""
    monkeypatch.setattr(postgres_session, "CONNECT_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        hosts = [f"127.0.0.1:{end.getsockname()[1]}" for end in (closed, silent)]
        working = f"127.0.0.1:{postgres_server.port}"
        several = Place(place.url.replace(working, ",".join([*hosts, working])), place.party)
        with several.replica() as store:
            assert isinstance(store, PostgresStore)
            put(store, "1")
            assert working in store._session._hosts[0], "it would look for the others first again"
            postgres_server.kill()
            postgres_server.start()
            put(store, "2")
    assert keys(place.open()) == {"1", "2"}


def test_a_server_that_cannot_be_written_to_is_not_used(place: Place, postgres_server: PostgresServer) -> None:
    with (
        configured(postgres_server, "default_transaction_read_only", "on"),
        pytest.raises(StoreError, match="read-write"),
    ):
        place.open()


def test_a_server_that_must_no_longer_be_written_to_is_left(place: Place, postgres_server: PostgresServer) -> None:
    store = place.open()
    assert isinstance(store, PostgresStore)
    with configured(postgres_server, "default_transaction_read_only", "on"):
        with pytest.raises(StoreError, match="read-only"):
            put(store, "1")
        assert not store._session.connected
        with pytest.raises(StoreError, match="read-write"):
            put(store, "1")
    put(store, "1")


# --- names and secrets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("party", "schema"),
    [
        ("pomp/shandong", "pomp_shandong"),
        ("cpe/jinan-1", "cpe_jinan-1"),
        ("cpe/a/b", "cpe_a/b"),
        ("km/济南", "km_济南"),
    ],
)
def test_a_party_has_a_schema_of_its_own(party: str, schema: str) -> None:
    assert schema_of(PartyId(party)) == schema


def test_a_party_whose_name_is_too_long_for_a_schema_is_refused(postgres_dsn: str) -> None:
    with pytest.raises(UsageError, match="63"):
        open_store(postgres_dsn, PartyId(f"cpe/{'x' * 60}"))


def test_parties_in_one_database_do_not_see_each_other(postgres_dsn: str) -> None:
    names = ["pomp/a", 'pomp/a"; DROP SCHEMA "pomp_a" CASCADE; --', "pomp/A", "pomp/a,b", "km/济南"]
    places = [Place(postgres_dsn, PartyId(name)) for name in names]
    for name, place in zip(names, places, strict=True):
        with place.replica() as store:
            put(store, name)
    for name, place in zip(names, places, strict=True):
        with place.replica() as store:
            assert keys(store) == {name}


def test_a_schema_that_was_given_to_a_party_is_used(postgres_dsn: str, postgres_server: PostgresServer) -> None:
    postgres_server.execute('CREATE SCHEMA "pomp_given"', "stores")
    for _ in range(2):
        with Place(postgres_dsn, PartyId("pomp/given")).replica() as store:
            put(store, "1")
    assert postgres_server.fetch('SELECT key FROM "pomp_given".records', "stores") == [("1",)]


def test_every_text_is_compared_by_code_point_whatever_the_database_says(place: Place, postgres_dsn: str) -> None:
    store = place.open()
    assert isinstance(store, PostgresStore)
    columns = store._session.fetch(
        "SELECT relname, attname, collname FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid"
        " JOIN pg_collation ON attcollation = pg_collation.oid WHERE relnamespace = to_regnamespace(?1)"
        " AND relkind = 'r'",
        f'"{schema_of(place.party)}"',
    )
    assert len(columns) == 9
    assert {collation for *_, collation in columns} == {"C"}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://qsotn:s3cret@127.0.0.1:1/stores",
        "postgresql://127.0.0.1:1/stores?user=qsotn&password=s3cret",
        "postgresql://qsotn:s3cret@127.0.0.1:1,127.0.0.1:2/stores",
    ],
)
def test_an_error_names_the_server_and_not_the_password(url: str) -> None:
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1") as caught:
        open_store(url, PartyId("pomp/a"))
    assert "s3cret" not in str(caught.value)


def test_a_wrong_password_is_said_to_be_one(postgres_server: PostgresServer) -> None:
    url = f"postgresql://{USER}:s3cret@127.0.0.1:{postgres_server.port}/stores"
    with pytest.raises(StoreError, match="password authentication failed") as caught:
        open_store(url, PartyId("pomp/a"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("password", ["s3/cret", "s3?cret", "s3#cret", "s3@cret"])
def test_a_password_that_is_not_quoted_is_refused_without_showing_any_of_it(password: str) -> None:
    with pytest.raises(UsageError, match="%40") as caught:
        open_store(f"postgresql://qsotn:{password}@127.0.0.1:1/stores", PartyId("pomp/a"))
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://host:port/x", "postgresql://host/x?sslmode=perhaps"])
def test_a_url_that_makes_no_sense_is_the_users_fault(url: str) -> None:
    with pytest.raises(UsageError, match="postgresql://host"):
        open_store(url, PartyId("pomp/a"))


def test_without_asyncpg_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for name in ("postgres", "postgres_session"):
        monkeypatch.delitem(sys.modules, f"qsotn.adapters.storage.{name}")
    with pytest.raises(UsageError, match=r"install qsotn\[postgres\]"):
        open_store("postgresql://host/x", PartyId("pomp/a"))


def test_inside_a_running_loop_the_error_says_what_to_do(place: Place) -> None:
    store = place.open()

    async def wrong() -> None:
        put(store, "1")

    with pytest.raises(StoreError, match="thread of its own"):
        asyncio.run(wrong())
    assert keys(store) == set()
