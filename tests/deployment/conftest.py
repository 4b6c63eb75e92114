"""A province as the files of deploy/ expect it."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from tests.deployment.files import COMPOSE, anywhere

from qsotn.app.installation import create_installation
from qsotn.app.record import ProvinceRecord


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProvinceRecord]:
    """The folder that `qsotn init` makes of compose's province file, but for its ports, and what runs where in it."""
    folder = tmp_path_factory.mktemp("compose")
    file, state = folder / "province.toml", folder / "province"
    file.write_text(anywhere((COMPOSE / "province.toml").read_text()))
    return state, create_installation(file, state, os.urandom, dt.datetime.now(dt.UTC))
