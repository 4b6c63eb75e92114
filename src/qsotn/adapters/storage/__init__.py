"""Stores of a party: `sqlite` (one file each) and `postgres` (a schema each, shared by the replicas of a service)."""

from __future__ import annotations

from pathlib import Path

from qsotn.domain import PartyId
from qsotn.errors import UsageError
from qsotn.ports import Store


def open_store(url: str, party: PartyId) -> Store:
    """Open the store of one party, and make or migrate it where that is due.

    `sqlite:///store.db` is relative to the working directory, `sqlite:////var/lib/qsotn/store.db` absolute: the path
    follows the third slash. `postgresql://user@host1,host2/database` may name several hosts, of which the one that can
    be written to is used, and TLS parameters as PostgreSQL's own clients take them (`sslmode=verify-full`).

    Raises `UsageError` for any other URL, `StoreError` for a store that cannot be opened.
    """
    # Imported here: a command that opens no store, or the other one, does not wait for it.
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and rest != "/":
        from qsotn.adapters.storage.sqlite import SqliteStore

        return SqliteStore(Path(rest[1:]))
    if scheme == "postgresql" and rest:
        from qsotn.adapters.storage.postgres import PostgresStore

        return PostgresStore(url, party)
    # The rest is not repeated: it may hold a password.
    named = f"{scheme}{separator}…" if separator else "a name without a scheme"
    raise UsageError(f"{named} is no store: expected sqlite:///PATH or postgresql://USER@HOST/DATABASE")
