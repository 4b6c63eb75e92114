"""The schema of a key store, as numbered plain SQL, by the rules of `adapters.storage.migrations`.

The tables are numbered apart from those of the party's other store: in PostgreSQL both lie in the party's schema.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources

from qsotn.adapters.storage.migrations import Migration
from qsotn.errors import StoreError


@cache
def migrations(dialect: str) -> tuple[Migration, ...]:
    """Return the migrations of a dialect (`sqlite`, `postgresql`) in order."""
    files = (file for file in resources.files(__name__).joinpath(dialect).iterdir() if file.name.endswith(".sql"))
    found = sorted((int(file.name.partition("_")[0]), file.read_text(encoding="utf-8")) for file in files)
    return tuple(Migration(number, sql) for number, sql in found)


def migrate(dialect: str, store: str, version: Callable[[], int], apply: Callable[[Migration], None]) -> None:
    """Bring a key store up to this release. Raises `StoreError` for one that a newer release has migrated."""
    known = migrations(dialect)
    found, latest = version(), known[-1].number
    if found > latest:
        raise StoreError(f"{store} has key schema version {found}; this release reads versions up to {latest}")
    for migration in known[found:]:
        apply(migration)
