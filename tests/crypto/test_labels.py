"""Domain separation: every label is the project's own, none is another's beginning."""

from __future__ import annotations

import itertools

from qsotn.crypto import labels

TABLE = {name: value for name, value in vars(labels).items() if isinstance(value, bytes) and not name.startswith("_")}


def test_every_label_names_the_project_and_its_version() -> None:
    assert len(TABLE) > 10
    assert all(value.startswith(b"qsotn/v1/") for value in TABLE.values())


def test_no_label_is_the_beginning_of_another() -> None:
    for (one, first), (other, second) in itertools.permutations(TABLE.items(), 2):
        assert not second.startswith(first), f"{one} begins {other}"
