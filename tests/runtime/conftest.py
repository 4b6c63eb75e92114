from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.runtime.province import Schedule, World, copy_template, make_template

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stores of a freshly made province."""
    folder = tmp_path_factory.mktemp("template") / "parties"
    make_template(folder)
    return folder


@pytest.fixture
def make_world(template: Path, tmp_path: Path) -> Iterator[MakeWorld]:
    """Makes worlds of one's own, by schedule."""
    worlds: list[World] = []

    def make(schedule: Schedule | None = None) -> World:
        world = World(copy_template(template, tmp_path / f"parties-{len(worlds)}"), schedule)
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A fresh province with key blocks on both links, and a wire that behaves."""
    made: World = make_world()
    made.give_blocks()
    return made
