"""One session with a PostgreSQL server: it connects when it is needed, and again when it was lost.

The core is synchronous and asyncpg is not. A session has an event loop of its own and runs it, in the calling thread,
for as long as one statement takes. It must not be called from inside a running loop.

What always holds on a connection: the party's own schema is the only one searched; the server may be written to
(`target_session_attrs=read-write`, so that of several hosts the primary is found); a commit waits for the disk; and no
statement and no pause inside a transaction is longer than the bounds below, so that a replica that hangs holds up the
others for seconds and not for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from qsotn.errors import StoreConflict, StoreError, UsageError

try:
    import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
except ImportError as missing:
    raise UsageError("a PostgreSQL store needs asyncpg: install qsotn[postgres]") from missing

CONNECT_SECONDS: Final = 5.0
"""For each host."""
STATEMENT_SECONDS: Final = 30.0
"""Longer than the pause below: who waits for a replica that hangs is served once that one's transaction is ended."""
PAUSE_SECONDS: Final = 10.0
"""How long a replica may do nothing inside a transaction."""
ANSWER_SECONDS: Final = 40.0
"""How long the client waits for any answer; longer than the server takes to give one."""

CONFLICTS: Final = frozenset({"40001", "40P01", "23505"})
"""serialization_failure, deadlock_detected, unique_violation (PostgreSQL, Appendix A). The last because two replicas
that insert the same key at once may meet at its index before they are found to be unserialisable."""

READ_ONLY: Final = "25006"
"""read_only_sql_transaction: the server is no longer the one to write to. Another host may be."""

# remote_apply is stronger than on; all others are weaker, and lose acknowledged commits with the server or its standby.
CHECK_DURABILITY: Final = (
    "SELECT current_setting('fsync'), set_config('synchronous_commit',"
    " CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)"
)

T = TypeVar("T")


class Session:
    """Statements of one party, in order, over one connection at a time. Every error is a `StoreError`.

    Only `connect` and `begin` connect: a connection that is lost inside a transaction takes the transaction with it.
    """

    def __init__(self, dsn: str, schema: str) -> None:
        _require_quoted_login(dsn)
        self.name = _without_secrets(dsn, schema)
        self._hosts = _each_host(dsn)
        self._schema = schema
        self._connection: Any = None
        self._loop = asyncio.new_event_loop()

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known: one that was lost while idle still counts."""
        return self._connection is not None and not self._connection.is_closed()

    def connect(self) -> None:
        """Connect. Raises `StoreError` if no host can be reached, `UsageError` for a URL that is none."""
        require_no_running_loop()
        self._run(self._connect())

    def begin(self, script: str) -> None:
        """Begin a transaction, on a new connection where there is none."""
        if self.connected:
            try:
                self.execute(script)
            except StoreError:
                if self.connected:
                    raise
            else:
                return
        # There was none, or it was lost while idle, which shows only now: nothing had been asked of it.
        self.connect()
        self.execute(script)

    def fetch(self, sql: str, *arguments: object) -> Sequence[Any]:
        """Run one prepared statement (parameters `?1`, `?2`) and return its rows."""
        return self._run(self._fetch(_numbered(sql), arguments))

    def execute(self, script: str) -> None:
        """Run statements without parameters, in one round trip."""
        self._run(self._execute(script))

    def close(self) -> None:
        """End the connection and the loop."""
        if self._loop.is_closed():
            return
        self._drop()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    # --- the connection ---------------------------------------------------------------------------------------------

    async def _fetch(self, sql: str, arguments: Sequence[object]) -> Sequence[Any]:
        rows: Sequence[Any] = await self._open_connection().fetch(sql, *arguments)
        return rows

    async def _execute(self, script: str) -> None:
        await self._open_connection().execute(script)

    def _open_connection(self) -> Any:
        if not self.connected:
            raise StoreError(f"{self.name} was lost in the middle of a transaction")
        return self._connection

    async def _connect(self) -> None:
        """Take the first host, from the one that last served, that is there and may be written to."""
        failures = []
        for _ in range(len(self._hosts)):
            try:
                self._connection = await self._connect_to(self._hosts[0])
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched) as failure:
                # Each host is given its own time: one that takes connections and never answers must not use up all.
                failures.append(failure)
                self._hosts.append(self._hosts.pop(0))
            except asyncpg.PostgresError as failure:
                raise StoreError(f"{self.name} refused a connection: {_said(failure)}") from failure
            else:
                await self._check(self._connection)
                return
        raise StoreError(f"{self.name} cannot be reached: {'; '.join(map(_describe, failures))}") from failures[-1]

    async def _connect_to(self, dsn: str) -> Any:
        try:
            return await asyncpg.connect(
                dsn,
                timeout=CONNECT_SECONDS,
                command_timeout=ANSWER_SECONDS,
                max_cached_statement_lifetime=0,
                target_session_attrs="read-write",
                server_settings=self._settings(),
            )
        except ValueError as error:
            raise UsageError(f"{self.name} cannot be understood: {error}") from error

    def _settings(self) -> dict[str, str]:
        return {
            "application_name": f"qsotn {self._schema}",
            "search_path": quoted(self._schema),
            # A scan of a whole table would lock the whole table against serialisable writers. And every statement here
            # finds few rows by an index that has them in order: nothing is to be collected and sorted first.
            "enable_seqscan": "off",
            "enable_bitmapscan": "off",
            "jit": "off",
            "statement_timeout": _milliseconds(STATEMENT_SECONDS),
            "idle_in_transaction_session_timeout": _milliseconds(PAUSE_SECONDS),
        }

    async def _check(self, connection: Any) -> None:
        fsync, _ = await connection.fetchrow(CHECK_DURABILITY)
        if fsync != "on":
            raise StoreError(f"{self.name} runs with fsync={fsync}: a power cut would take back what was acknowledged")

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        except asyncpg.PostgresError as error:
            raise self._from_server(error) from error
        except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            self._drop()
            raise StoreError(f"{self.name} was lost: {_describe(error)}") from error
        except BaseException:
            # Interrupted: what the server is doing is not known, and the protocol has no way to ask.
            task.cancel()
            self._drop()
            raise

    def _from_server(self, error: Any) -> StoreError:
        if error.sqlstate in CONFLICTS:
            return StoreConflict(f"{self.name}: {_said(error)}")
        if self.connected and error.sqlstate != READ_ONLY:
            return StoreError(f"{self.name} refused a statement: {_said(error)}")
        self._drop()
        return StoreError(f"{self.name} was lost: {_said(error)}")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            connection.terminate()
        # Let what is left of it end, so that its socket is closed now and no task outlives the loop.
        self._loop.run_until_complete(_end(asyncio.all_tasks(self._loop)))


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)


def require_no_running_loop() -> None:
    """Raise `StoreError` inside a running event loop: no other can be run there, and none may be held up for long."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise StoreError("a PostgreSQL store cannot be used inside a running event loop: give it a thread of its own")


def quoted(identifier: str) -> str:
    """Return an SQL identifier that means exactly this name."""
    return '"' + identifier.replace('"', '""') + '"'


@cache
def _numbered(sql: str) -> str:
    return sql.replace("?", "$")


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _require_quoted_login(dsn: str) -> None:
    """Refuse a URL in which part of a password would be taken for a host, and shown in errors as one."""
    parts = urlsplit(dsn)
    logins = parts.netloc.count("@")
    if parts.fragment or logins > 1 or (logins == 0 and "@" in dsn):
        raise UsageError("in the URL of a PostgreSQL store, @ / ? # of a user or password are written %40 %2F %3F %23")


def _without_secrets(dsn: str, schema: str) -> str:
    """Name a store by its hosts, database and schema: what stands before @ and behind ? may hold a password."""
    parts = urlsplit(dsn)
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path} (schema {schema})"


def _each_host(dsn: str) -> list[str]:
    """Return the same URL once for each of its hosts."""
    parts = urlsplit(dsn)
    login, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{login}{at}{host}")) for host in hosts.split(",")]


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _said(error: Any) -> str:
    """What a server said, without the details: those may quote values."""
    return f"{error.args[0]} ({error.sqlstate})"
