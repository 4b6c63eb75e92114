"""The schema of a store, as numbered plain SQL: one folder for each dialect, one file for each version.

A file `0002_procedures.sql` takes a store from version 1 to version 2, in one transaction that also writes the new
version. The two dialects are numbered apart. A file that was released is never changed: a store that has its number is
not visited by it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from qsotn.errors import StoreError


@dataclass(frozen=True)
class Migration:
    """One step of a schema: `sql` makes version `number` from the one before it."""

    number: int
    sql: str


@cache
def migrations(dialect: str, package: str = __name__) -> tuple[Migration, ...]:
    """Return the migrations of a dialect (`sqlite`, `postgresql`) in order; `package` is where their folders are."""
    files = (file for file in resources.files(package).joinpath(dialect).iterdir() if file.name.endswith(".sql"))
    found = sorted((int(file.name.partition("_")[0]), file.read_text(encoding="utf-8")) for file in files)
    return tuple(Migration(number, sql) for number, sql in found)


def migrate(
    dialect: str,
    store: str,
    version: Callable[[], int],
    apply: Callable[[Migration], None],
    package: str = __name__,
) -> None:
    """Bring a store up to this release, one migration at a time.

    `apply` carries out one migration unless another replica, starting at the same time, already did. Raises
    `StoreError` for a store that a newer release has migrated: what this one would not read, it might not write.
    """
    known = migrations(dialect, package)
    found, latest = version(), known[-1].number
    if found > latest:
        raise StoreError(f"{store} has schema version {found}; this release reads versions up to {latest}")
    for migration in known[found:]:
        apply(migration)
