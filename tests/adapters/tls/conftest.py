from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.tls.parties import Province


@pytest.fixture
def province(tmp_path: Path) -> Province:
    return Province(tmp_path)
