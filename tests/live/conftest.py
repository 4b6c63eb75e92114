"""How long the loops of this folder run, and what they run on.

    QSOTN_LIVE_SECONDS=300 QSOTN_LIVE_SEED=7 pytest tests/live

makes every loop of kills and faults run that long, by that seed; without it each takes half a minute or less.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.live.stores import Stores, postgresql_stores


@pytest.fixture
def live_seconds() -> float:
    """How long a loop runs."""
    return float(os.environ.get("QSOTN_LIVE_SECONDS", "20"))


@pytest.fixture
def live_seed() -> int:
    """Who is killed, when, and what operators do meanwhile follows from this, as far as processes let it."""
    return int(os.environ.get("QSOTN_LIVE_SEED", "5"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is gone after the test, however that ended: what matters of it stands in the failure."""
    with tempfile.TemporaryDirectory(prefix="qsotn-live-") as made:
        yield Path(made)


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    """Where the platform's parties keep what they know."""
    with nullcontext(Stores()) if request.param == "sqlite" else postgresql_stores() as chosen:
        yield chosen
