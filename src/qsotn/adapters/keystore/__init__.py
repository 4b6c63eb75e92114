"""Where ready keys lie: `sqlite` (a file of its own) or `postgres` (tables of its own in the party's schema).

Read `ledger` first (what holds), then `work`, then the operations: `depositing`, `reserving`, `assigning`,
`collecting`, `sweeping`; and `forgetting`. What a dialect does by itself is in `statements.Tables`.
"""

from __future__ import annotations

from pathlib import Path

from qsotn.adapters.keystore.ledger import KeyLedger
from qsotn.adapters.keystore.opening import StaleStore
from qsotn.adapters.keystore.statements import Tables
from qsotn.adapters.keystore.work import Times
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, PartyId
from qsotn.errors import UsageError

__all__ = ["KeyLedger", "StaleStore", "Times", "open_key_store"]
SOLE_REPLICA = "1"


def open_key_store(
    url: str,
    party: PartyId,
    folder: Path,
    vault: Vault,
    entropy: Entropy,
    *,
    replica: str = SOLE_REPLICA,
    times: Times | None = None,
    discard: bool = False,
) -> KeyLedger:
    """Open the key store of one party, and make or migrate it where that is due.

    `url` is as for `storage.open_store`: `sqlite:///keys.db` or `postgresql://…`. `folder` keeps the epoch keys and the
    witnesses; the replicas of a party share it, and each has a name (`replica`) of its own that it keeps. `discard`
    destroys every key that is in the store, for when the folder is lost.

    Raises `UsageError` for any other URL, or if accounts are to go before keys do, and `StoreError` for a store that
    cannot be opened. A store that is open raises `StaleStore` when only opening it anew can help: it is an older copy
    of itself, or its folder is not the others'.
    """
    kept = times or Times()
    if kept.retention < 2 * (kept.waiting + kept.window):
        raise UsageError("accounts are to be kept for at least twice as long as a key may wait and be asked for again")
    tables = _tables(url, party, replica)
    try:
        return KeyLedger(tables, folder, vault, entropy, replica=replica, times=kept, discard=discard)
    except BaseException:
        tables.close()
        raise


def _tables(url: str, party: PartyId, replica: str) -> Tables:
    # Imported here: who opens one store does not wait for the other.
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and rest != "/":
        from qsotn.adapters.keystore.sqlite import SqliteTables

        return SqliteTables(Path(rest[1:]), replica)
    if scheme == "postgresql" and rest:
        from qsotn.adapters.keystore.postgres import PostgresTables

        return PostgresTables(url, party, replica)
    # The rest is not repeated: it may hold a password.
    named = f"{scheme}{separator}…" if separator else "a name without a scheme"
    raise UsageError(f"{named} is no key store: expected sqlite:///PATH or postgresql://USER@HOST/DATABASE")
