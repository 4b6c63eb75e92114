from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.adapters.tls.parties import OURS, Province


@pytest.fixture
def province(tmp_path: Path) -> Province:
    return Province(tmp_path)


@pytest.fixture(params=[True, False], ids=["transport", "asyncio"])
def carrier(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every story over both."""
    before = OURS.set(request.param)
    yield
    OURS.reset(before)
