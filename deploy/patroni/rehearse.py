"""Rehearse a failover: write through a store, and afterwards look for every commit that was acknowledged.

    python deploy/patroni/rehearse.py 'postgresql://user@a,b,c/database' --seconds 90

Let it run, and take the primary away meanwhile, as hard as you like: kill it, pull its plug, cut its network. The
script writes as a service does, through qsotn's own store, in a schema of its own (`pomp_rehearsal`); drop that schema
afterwards. It ends with exit code 1 if a commit is missing that the store had acknowledged.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from qsotn.adapters.storage import open_store
from qsotn.domain import PartyId
from qsotn.errors import StoreConflict, StoreError
from qsotn.ports import Store

PARTY = PartyId("pomp/rehearsal")
COLLECTION = "rehearsal"
PAUSE_S = 0.25


@dataclass
class Written:
    """What one writer did: each record was committed again and again until that was acknowledged."""

    acknowledged: list[str] = field(default_factory=list)
    conflicts: int = 0
    failures: list[str] = field(default_factory=list)
    longest_wait: float = 0.0


def write(url: str, name: str, seconds: float) -> Written:
    """Write for so many seconds, one record at least. A store belongs to one thread; several writers are replicas."""
    written, store = Written(), open_store(url, PARTY)
    end = time.monotonic() + seconds
    try:
        while not written.acknowledged or time.monotonic() < end:
            key, began = f"{name}-{len(written.acknowledged):08}", time.monotonic()
            while not _commit(store, key, written):
                pass
            written.acknowledged.append(key)
            written.longest_wait = max(written.longest_wait, time.monotonic() - began)
    finally:
        store.close()
    return written


def _commit(store: Store, key: str, written: Written) -> bool:
    try:
        with store.transaction() as transaction:
            transaction.put(COLLECTION, key, b"acknowledged")
    except StoreConflict:
        written.conflicts += 1
        return False
    except StoreError as error:
        written.failures.append(f"{time.strftime('%H:%M:%S')} {error}")
        time.sleep(PAUSE_S)
        return False
    return True


def found(url: str) -> set[str]:
    """Return what is in the store, whoever is the primary now."""
    store = open_store(url, PARTY)
    try:
        with store.transaction() as transaction:
            return {key for key, _ in transaction.scan(COLLECTION)}
    finally:
        store.close()


def main() -> int:
    """Rehearse once."""
    parser = argparse.ArgumentParser(description="Write through a store while its primary fails; look for every commit")
    parser.add_argument("url", help="postgresql://user@host1,host2,host3/database")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--writers", type=int, default=2)
    options = parser.parse_args()
    run = time.strftime("%Y%m%d-%H%M%S")
    with ThreadPoolExecutor(options.writers) as pool:
        begun = [pool.submit(write, options.url, f"{run}-{n}", options.seconds) for n in range(options.writers)]
        writers = [one.result() for one in begun]
    for failure in sorted({failure for one in writers for failure in one.failures}):
        sys.stdout.write(f"{failure}\n")
    acknowledged = {key for one in writers for key in one.acknowledged}
    missing = acknowledged - found(options.url)
    sys.stdout.write(
        f"{len(acknowledged)} commits acknowledged, {len(missing)} of them missing;"
        f" {sum(one.conflicts for one in writers)} conflicts, {sum(len(one.failures) for one in writers)} failures,"
        f" the longest wait {max(one.longest_wait for one in writers):.1f} s\n"
    )
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
