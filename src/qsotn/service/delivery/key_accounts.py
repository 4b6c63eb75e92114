"""Accounts in the key store are deleted after their time (`KeyStore.forget`), a small part in each transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter

from qsotn.errors import StoreError
from qsotn.service.delivery.group import Group
from qsotn.service.worker import Overloaded

STEP_S: Final = 0.25
REST_S: Final = 60.0
"""Between two parts, and after the last."""
_log = structlog.get_logger("keys")


def key_account_metrics(registry: CollectorRegistry) -> Counter:
    """Return what counts the deleted, by kind: batches, audiences, and ready units of pools that have ended."""
    what = "Accounts of keys, and units of pools that have ended, that were deleted"
    return Counter("qsotn_key_accounts_deleted", what, ["kind"], registry=registry)


class KeyAccounts:
    """Deletes what is past its time in one key store, as long as it runs."""

    def __init__(self, group: Group, clock: Callable[[], int], deleted: Counter) -> None:
        """`clock` returns microseconds since the epoch; `deleted` counts by kind."""
        self._group = group
        self._clock = clock
        self._deleted = deleted

    async def run(self) -> None:
        """Go on, until cancelled."""
        while True:
            try:
                pause = await self.step()
            except (StoreError, Overloaded) as error:
                _log.warning("accounts of keys are not deleted now", reason=str(error))
                pause = REST_S
            await asyncio.sleep(pause)

    async def step(self) -> float:
        """Delete one part; return the pause before the next. Raises `StoreError`, `Overloaded`."""
        now = self._clock()
        forgotten = await self._group.call(lambda store: store.forget(now))
        self._deleted.labels("batches").inc(forgotten.batches)
        self._deleted.labels("audiences").inc(forgotten.audiences)
        self._deleted.labels("units").inc(forgotten.units)
        return STEP_S if forgotten.unfinished else REST_S
