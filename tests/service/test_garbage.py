"""A process that is ready leaves alone what stands, and still finds what is lost in cycles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from qsotn.service.garbage import YOUNG, collect_rarely


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Node:
    """Something that can hold itself."""

    def __init__(self) -> None:
        self.itself = self


def test_what_stands_is_left_alone() -> None:
    standing = [Node() for _ in range(10)]
    collect_rarely()
    assert gc.get_freeze_count() >= len(standing)
    assert gc.get_count()[0] < YOUNG


def test_cycles_are_found_all_the_same() -> None:
    collect_rarely()
    lost = weakref.ref(Node())
    kept = [[number] for number in range(YOUNG + 1)]
    assert lost() is None
    assert len(kept) == YOUNG + 1
