"""`qsotn serve` with a store that does not wait for the disk: `python -m tests.live.relaxed serve ROLE --config FILE`.

It proves that a test of durability sees what is lost. There is no such option: a party syncs every commit.
"""

from __future__ import annotations

from functools import partial

from qsotn import cli
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.service import host

if __name__ == "__main__":
    host.SqliteStore = partial(SqliteStore, synchronous="NORMAL")  # type: ignore[attr-defined,assignment]  # imported there
    cli.main()
