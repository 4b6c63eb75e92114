"""Look for keys in files. The units of such a test begin with a mark, so that one search finds any of them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.adapters.keystore.places import KeyPlace

from qsotn.domain import Secret

MARK: Final = bytes.fromhex("9e3779b97f4a")
"""Six bytes: no other byte sequence here is likely to have them, and their base64 form is whole."""
FORMS: Final = (MARK, b64encode(MARK), MARK.hex().encode(), MARK.hex().upper().encode())


def marked_unit(rest: bytes) -> Secret:
    """A unit that is found."""
    return Secret(MARK + rest)


def clear_keys(place: KeyPlace) -> list[str]:
    """Say where keys, or their base64 or hexadecimal forms, lie: in the folder of a store, and all of its server's."""
    # Programs and libraries of the server apart, which it does not write.
    folders = [place.folder] if place.server is None else [place.folder, place.server.folder / "data"]
    logs = [] if place.server is None else _in_file(place.server.folder / "log")
    return [*(found for folder in folders for found in clear_in(folder)), *logs]


def clear_in(folder: Path) -> list[str]:
    """The same for the files of one folder."""
    return [found for path in folder.rglob("*") if path.is_file() for found in _in_file(path)]


def _in_file(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    yield from (f"{path} has {form!r} at {content.find(form)}" for form in FORMS if form in content)
