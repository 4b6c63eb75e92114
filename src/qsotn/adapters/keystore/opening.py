"""A store is opened beside its witnesses: the database has to be the one they know, and no older than they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.statements import Tables, Tally
from qsotn.adapters.keystore.witness import Evidence, Witness, evidence_in
from qsotn.domain import Entropy
from qsotn.errors import StoreError

IDENTITY_BYTES: Final = 16
LEAP_BYTES: Final = 4
"""Without witnesses nobody knows the highest series; the next one is that far away at random."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What was found."""

    witness: Witness
    evidence: Evidence
    restored: bool


def open_beside(tables: Tables, folder: Path, entropy: Entropy, replica: str, *, discard: bool) -> Opened:
    """Compare a database with its witnesses, and destroy the keys of one that is an older copy (or if told so).

    Raises `StoreError` where witnesses are missing or are of another database.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tables.transaction(exclusive=True):
            said = evidence_in(folder)
            identity = _identity(tables, folder, said, entropy)
            is_older = _is_older(tables, said)
            if not discard:
                _require_witnesses(tables, folder, said)
            witness = Witness(folder, replica, Evidence(identity, 0, 0))
            counted = _settle(tables, said, entropy, burn=is_older or discard, leap=discard)
            series = max([_highest_series(tables), *(one.series for one in said.values())])
    except OSError as error:
        raise StoreError(f"{folder} cannot be used for epoch keys and witnesses: {error}") from error
    evidence = Evidence(identity, counted, series)
    witness.write(evidence)
    return Opened(witness, evidence, is_older or discard)


def check_evidence(tables: Tables, folder: Path) -> None:
    """Raise `StoreError` if the database is now an older copy than any witness says."""
    # Witnesses first: they follow the database, so what is read of it afterwards is no older.
    if _is_older(tables, evidence_in(folder)):
        raise StoreError(f"{tables.name} is an older copy of itself: it was exchanged while it was open; open it again")


def _identity(tables: Tables, folder: Path, said: Mapping[str, Evidence], entropy: Entropy) -> bytes:
    found = tables.fetch(sql.STORE)
    identities = {one.identity for one in said.values()} | {bytes(identity) for identity, _ in found}
    if len(identities) > 1:
        raise StoreError(f"the witnesses in {folder} are of another database than {tables.name}: check both places")
    identity = identities.pop() if identities else entropy(IDENTITY_BYTES)
    if not found:
        tables.fetch(sql.NEW_STORE, identity, 0)
    return identity


def _transactions(tables: Tables) -> dict[str, int]:
    return {replica: int(value) for replica, value in tables.fetch(sql.TRANSACTIONS)}


def _is_older(tables: Tables, said: Mapping[str, Evidence]) -> bool:
    counted = _transactions(tables)
    return any(one.transactions > counted.get(replica, 0) for replica, one in said.items())


def _require_witnesses(tables: Tables, folder: Path, said: Mapping[str, Evidence]) -> None:
    if missing := _transactions(tables).keys() - said.keys():
        named = ", ".join(f"{replica}.witness" for replica in sorted(missing))
        raise StoreError(
            f"{tables.name} has keys, and {named} is not in {folder}: without it, nobody can tell whether this is an"
            " older copy whose keys were given out already. Put it back; if it is lost, set the database aside with"
            f" {folder}: its keys are lost, and new pools begin"
        )


def _settle(tables: Tables, said: Mapping[str, Evidence], entropy: Entropy, *, burn: bool, leap: bool) -> int:
    """Destroy what must not be given out, and have counters and witnesses agree."""
    burned = _burn(tables, said, int.from_bytes(entropy(LEAP_BYTES)) if leap else 0) if burn else []
    for missing in _transactions(tables).keys() - said.keys():
        tables.fetch(sql.LEAVE, missing)
    for name, one in said.items():
        tables.fetch(sql.JOIN, name, one.transactions)
    return tables.tally(burned)


def _burn(tables: Tables, said: Mapping[str, Evidence], leap: int) -> list[tuple[int, int, int]]:
    burned = [(int(Tally.BURNED), pool, int(units)) for pool, units in tables.fetch(sql.IN_STOCK)]
    highest = max([_highest_series(tables), *(one.series for one in said.values())])
    tables.fetch(sql.SERIES_FLOOR, highest + leap)
    for clear in (sql.CLEAR, sql.CLEAR_NAMES, sql.CLEAR_AGENDA, sql.CLEAR_STOCK, sql.CLEAR_EPOCHS, sql.END_POOLS):
        tables.fetch(clear)
    return burned


def _highest_series(tables: Tables) -> int:
    ((highest,),) = tables.fetch(sql.HIGHEST_SERIES)
    ((_, floor),) = tables.fetch(sql.STORE)
    return max(int(highest or 0), int(floor))
