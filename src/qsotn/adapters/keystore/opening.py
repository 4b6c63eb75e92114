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
MOST_UNSAID: Final = 1000
"""How far a counter may be ahead of its witness: by one commit when its replica is killed between the two, and by one
for every commit in a row of which no answer came. Further, it is not this folder that the witness is kept in."""
LEAP: Final = 1 << 40
"""By how much the counters of other replicas leap when keys are destroyed beneath them, so that they notice."""
LEAP_BYTES: Final = 4
"""Without witnesses nobody knows the highest series; the next one is that far away at random."""


class StaleStore(StoreError):
    """What this process has in memory is of a store that is no more: nothing can be done but to open it anew."""


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
                _require_kept(folder, _transactions(tables), said)
            witness = Witness(folder, replica, Evidence(identity, 0, 0))
            if is_older or discard:
                burned = _burn(tables, said, int.from_bytes(entropy(LEAP_BYTES)) if discard else 0)
                counted = _settle(tables, _leapt(said, replica), burned)
            else:
                counted = _settle(tables, said, [])
            series = max([_highest_series(tables), *(one.series for one in said.values())])
    except OSError as error:
        raise StoreError(f"{folder} cannot be used for epoch keys and witnesses: {error}") from error
    evidence = Evidence(identity, counted, series)
    witness.write(evidence)
    return Opened(witness, evidence, is_older or discard)


def check_evidence(tables: Tables, folder: Path, replica: str, said: int) -> None:
    """Raise `StaleStore` for a database that is an older copy than any witness says, or whose witnesses are elsewhere.

    `said` is how many transactions this replica has committed, as far as it knows.
    """
    # Witnesses first: they follow the database, so what is read of it afterwards is no older.
    if _is_older(tables, evidence_in(folder)):
        raise _exchanged(tables)
    # And the other way round: what is read of them after the database lacks no more than a commit or two.
    counted = _transactions(tables)
    _require_kept(folder, counted, evidence_in(folder))
    check_counter(tables, said, max(said + 1, counted.get(replica, 0)))


def check_counter(tables: Tables, said: int, counted: int) -> None:
    """Raise `StaleStore` if a replica's own counter is not what it left, plus what came of unanswered commits."""
    if counted <= said:
        raise _exchanged(tables)
    if counted - said >= LEAP // 2:
        raise StaleStore(f"another replica destroyed the keys of {tables.name}, an older copy of itself; open it again")


def _exchanged(tables: Tables) -> StaleStore:
    return StaleStore(f"{tables.name} is an older copy of itself: it was exchanged while it was open; open it again")


def _leapt(said: Mapping[str, Evidence], replica: str) -> dict[str, Evidence]:
    """Return witnesses as the counters of all replicas but one are to be: further than those will ever get."""
    return {name: one if name == replica else one.after(one.transactions + LEAP, 0) for name, one in said.items()}


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
            " older copy whose keys were given out already (a new replica uses the folder of the others, and not a"
            " copy). Put it back; if it is lost, set the database aside with"
            f" {folder}: its keys are lost, and new pools begin"
        )


def _require_kept(folder: Path, counted: Mapping[str, int], said: Mapping[str, Evidence]) -> None:
    """Check that witnesses are written where they are read: a copy of the folder of another replica is none."""
    for name, one in said.items():
        if MOST_UNSAID < counted.get(name, 0) - one.transactions < LEAP // 2:
            raise StaleStore(
                f"{folder / name}.witness is not the one that replica {name!r} keeps: this folder is a copy. Replicas"
                " share one folder of epoch keys and witnesses; have this one use that of the others"
            )


def _settle(tables: Tables, said: Mapping[str, Evidence], burned: list[tuple[int, int, int]]) -> int:
    """Have counters and witnesses agree."""
    for missing in _transactions(tables).keys() - said.keys():
        tables.fetch(sql.LEAVE, missing)
    for name, one in said.items():
        tables.fetch(sql.JOIN, name, one.transactions)
    return tables.tally(burned)


def _burn(tables: Tables, said: Mapping[str, Evidence], leap: int) -> list[tuple[int, int, int]]:
    burned = [(int(Tally.BURNED), pool, int(units)) for pool, units in tables.fetch(sql.IN_STOCK)]
    highest = max([_highest_series(tables), *(one.series for one in said.values())])
    tables.fetch(sql.SERIES_FLOOR, highest + leap)
    for clear in (
        sql.CLEAR,
        sql.CLEAR_NAMES,
        sql.CLEAR_AGENDA,
        sql.CLEAR_STOCK,
        sql.CLEAR_EPOCHS,
        sql.CLEAR_MARKS,
        sql.END_POOLS,
    ):
        tables.fetch(clear)
    return burned


def _highest_series(tables: Tables) -> int:
    ((highest,),) = tables.fetch(sql.HIGHEST_SERIES)
    ((_, floor),) = tables.fetch(sql.STORE)
    return max(int(highest or 0), int(floor))
