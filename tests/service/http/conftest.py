"""Worlds for the HTTP tests: the province as the worlds begin it, and one with an encrypted line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.service.http.driver import Client, application_of
from tests.world import World, Worlds

from qsotn.app.province import POMP


@pytest.fixture(scope="session")
def encrypted_stage(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a province whose line is ENCRYPTED; to be copied."""
    folder = tmp_path_factory.mktemp("stages") / "encrypted"
    world = worlds.begin(worlds.ready, folder)
    world.order_line()
    world.settle()
    world.connect()
    world.encrypt()
    world.close()
    return folder


@pytest.fixture(scope="session")
def province(worlds: Worlds, encrypted_stage: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A province with an encrypted line, which tests read and leave as it is."""
    world = worlds.begin(encrypted_stage, tmp_path_factory.mktemp("province") / "world")
    yield world
    world.close()


@pytest.fixture
def own_province(worlds: Worlds, encrypted_stage: Path, tmp_path: Path) -> Iterator[World]:
    """A province with an encrypted line, for one test alone."""
    world = worlds.begin(encrypted_stage, tmp_path / "own")
    yield world
    world.close()


@pytest.fixture
def operator(ready: World) -> Client:
    """The operator at the POMP of a province with two READY devices."""
    return Client(application_of(ready, POMP))


@pytest.fixture
def newcomer(open_world: Callable[..., World]) -> Client:
    """The operator at the POMP of a province in which nothing has begun."""
    return Client(application_of(open_world("provisioned"), POMP))
