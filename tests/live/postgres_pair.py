"""A PostgreSQL primary and its standby: what a failover leaves, without anything that decides on one.

    with PostgresPair() as pair:
        dsn = pair.database("pilot")        # names both, and means the one that can be written to
        pair.kill()                         # the primary dies with every process of it
        pair.start()                        # its standby is promoted, and a new standby made in its place

What Patroni does on three machines (docs/operations.md) is done here step by step: the dead primary is fenced (it never
runs again with what it has; `pg_basebackup` makes it anew), and only then the standby is promoted. A pair that is
`synchronous` commits nothing that its standby does not have, and so nothing at all while there is none.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.postgresql import START_SECONDS, USER, PostgresServer

STANDBY: Final = "standby"
"""What a standby calls itself. A base backup that is under way, which also reads the log, must not be taken for one."""


class _Server(PostgresServer):
    """One of the two: the primary, or made as the standby of another."""

    def __init__(self, primary: _Server | None, **settings: str) -> None:
        self._primary = primary
        super().__init__(**settings)

    def _initialise(self) -> None:
        if self._primary is None:
            super()._initialise()
        else:
            (self.folder / "log").touch()
            self.follow(self._primary)

    def follow(self, primary: _Server) -> None:
        """Forget everything, and begin as the standby of a primary that runs; it is not started."""
        self._password = primary._password
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(mode=0o700)
        self._give(self.data)
        options = ("--checkpoint=fast", "--wal-method=stream", "--no-sync")
        copying = self._run("pg_basebackup", *options, f"--dbname={primary.dsn()}", f"--pgdata={self.data}")
        assert copying.wait(START_SECONDS) == 0, f"pg_basebackup failed:\n{self.log()}"
        source = f"host=127.0.0.1 port={primary.port} user={USER} password={primary._password}"
        settings = self.data / "postgresql.auto.conf"  # where ALTER SYSTEM changes it, see `cut`
        settings.write_text(f"primary_conninfo = '{source} application_name={STANDBY}'\n")
        (self.data / "standby.signal").touch()
        self._give(settings, self.data / "standby.signal")

    def promote(self) -> None:
        """Become the primary."""
        promoting = self._run("pg_ctl", "promote", "-w", "-D", str(self.data))
        assert promoting.wait(START_SECONDS) == 0, f"pg_ctl promote failed:\n{self.log()}"

    def cut(self) -> None:
        """As a standby: hear nothing more of the primary."""
        self.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.execute("SELECT pg_reload_conf()")
        _wait(lambda: self.fetch("SELECT pid FROM pg_stat_wal_receiver") == [], "the standby still hears the primary")

    def die(self) -> None:
        """End it and every process of it as a power cut does. When this returns, none of them can answer anybody."""
        assert self._process is not None, "it does not run"
        children = list(_children(self._process.pid))
        self.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _wait(lambda: not any(map(_lives, children)), "a process of a dead primary goes on")

    @property
    def data(self) -> Path:
        """Where all it knows lies."""
        return self.folder / "data"

    def _give(self, *places: Path) -> None:
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            for place in places:
                os.chown(place, owner.pw_uid, owner.pw_gid)


class PostgresPair:
    """Two servers, of which one can be written to. It stands where a `PostgresServer` does."""

    def __init__(self, *, synchronous: bool = True) -> None:
        self._settings = {"synchronous_standby_names": STANDBY if synchronous else "", "wal_keep_size": "256MB"}
        self._primary = _Server(None, **self._settings)
        self._standby: _Server
        self.failovers: list[float] = []
        """How long each took, in seconds, until the new primary could be written to."""

    # --- life -------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Kill the primary."""
        self._primary.die()

    def start(self) -> None:
        """Promote the standby of a dead primary, and make a standby in the place of that."""
        began = time.monotonic()
        self._primary, self._standby = self._standby, self._primary
        self._primary.promote()
        self._standby.follow(self._primary)
        self._begin_standby()
        self.failovers.append(time.monotonic() - began)

    def cut(self) -> None:
        """Have the standby hear nothing more: what is committed from now on without it, it does not have."""
        self._standby.cut()

    def _begin_standby(self) -> None:
        self._standby.start()
        self.wait_replicated()

    def wait_replicated(self) -> None:
        """Wait until the standby hears everything as it comes."""
        _wait(
            lambda: self._primary.fetch("SELECT state FROM pg_stat_replication") == [("streaming",)],
            "the standby does not follow",
        )

    def __enter__(self) -> Self:
        self._primary.start()
        self._standby = _Server(self._primary, **self._settings)
        self._begin_standby()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in (self._standby, self._primary):
            server.remove()

    # --- use --------------------------------------------------------------------------------------------------------

    @property
    def folders(self) -> list[Path]:
        """Where the data of both lies."""
        return [self._primary.data, self._standby.data]

    def dsn(self, database: str = "postgres") -> str:
        """The URL of one database, with both hosts."""
        login, _, _ = self._primary.dsn(database).rpartition("@")
        ports = sorted((self._primary.port, self._standby.port))
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"{login}@{hosts}/{database}?target_session_attrs=read-write"

    def database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.dsn(name)

    def execute(self, sql: str, database: str = "postgres") -> None:
        """Run statements as the primary's administrator."""
        self._primary.execute(sql, database)

    def fetch(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one query as the primary's administrator."""
        return self._primary.fetch(sql, database)


def _children(parent: int) -> Iterator[int]:
    """Processes that another one has started (proc(5): the parent is the second field behind the name)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(stat.parent.name)


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _wait(until: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + START_SECONDS
    while not until():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)
