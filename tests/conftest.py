"""Worlds for the tests of procedures, runtime and app: provisioned once, copied for each test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from tests.world import Faults, World, Worlds, make_worlds


def pytest_configure() -> None:
    """Have Ctrl-C reach this process and its children, also where a shell that runs it in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command that ran within a test set up for its own log."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return make_worlds(tmp_path_factory.mktemp("worlds"))


@pytest.fixture
def open_world(worlds: Worlds, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Open a world at a stage: `provisioned` or `ready`."""
    opened: list[World] = []

    def begin(stage: str = "ready", *, seed: int = 0, faults: Faults | None = None) -> World:
        world = worlds.begin(getattr(worlds, stage), tmp_path / f"world-{len(opened)}", seed=seed, faults=faults)
        opened.append(world)
        return world

    yield begin
    for world in opened:
        world.close()


@pytest.fixture
def ready(open_world: Callable[..., World]) -> World:
    """Both devices are READY."""
    return open_world("ready")


@pytest.fixture
def encrypted(ready: World) -> World:
    """The line is ENCRYPTED."""
    ready.order_line()
    ready.settle()
    ready.connect()
    ready.encrypt()
    return ready
