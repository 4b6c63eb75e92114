"""Key networks for the tests of supplies: identities once, everything else for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.procedures.key_network import Certified, Network


@pytest.fixture(scope="session")
def certified() -> Certified:
    return Certified()


@pytest.fixture
def open_network(tmp_path: Path, certified: Certified) -> Iterator[Callable[..., Network]]:
    """Open a network in a folder of its own, and close it."""
    opened: list[Network] = []

    def begin(*shape: Any, **how: Any) -> Network:
        folder = tmp_path / f"network-{len(opened)}"
        folder.mkdir()
        opened.append(Network(folder, certified, *shape, **how))
        return opened[-1]

    yield begin
    for network in opened:
        network.close()


@pytest.fixture
def chain(open_network: Callable[..., Network]) -> Network:
    """A – B – C – D."""
    return open_network()
