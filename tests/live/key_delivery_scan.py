"""Look for many keys at once in files: raw, in hexadecimal digits, in base64 at any of its three alignments.

Each form is found by its first eight bytes: a table of three of them leaves few places, at which all is compared.
"""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

STEP: Final = 1 << 22
PREFIX: Final = 8
MASK: Final = (1 << 24) - 1


class KeyScan:
    """Finds keys in bytes. It is made once for all keys of a run."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._forms: dict[int, list[bytes]] = defaultdict(list)
        for form in {form for key in keys for form in forms_of(key)}:
            self._forms[int.from_bytes(form[:PREFIX], "little")].append(form)
        self._likely = np.zeros(MASK + 1, dtype=bool)
        self._likely[[number & MASK for number in self._forms]] = True

    def files(self, folder: Path, *, but: Iterable[Path] = ()) -> list[str]:
        """Say which files of a folder have a key in them, some folders of it apart."""
        left_out = tuple(but)
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
        looked = [path for path in paths if not any(path.is_relative_to(one) for one in left_out)]
        assert looked, f"there is no file in {folder}"
        return [f"{path} at {at}" for path in looked for at in self.places(path.read_bytes())]

    def places(self, content: bytes) -> Iterator[int]:
        """Yield where keys begin, in any form."""
        for start in range(0, len(content), STEP):
            # What begins in this part may end behind it.
            part = content[start : start + STEP + PREFIX - 1]
            for offset in range(min(PREFIX, max(0, len(part) - PREFIX + 1))):
                words = np.frombuffer(part[offset : len(part) - (len(part) - offset) % PREFIX], dtype="<u8")
                for at in np.flatnonzero(self._likely[words & MASK]):
                    place = start + offset + PREFIX * int(at)
                    if self._is_key(content, place, int(words[at])):
                        yield place

    def _is_key(self, content: bytes, place: int, word: int) -> bool:
        return any(content.startswith(form, place) for form in self._forms.get(word, ()))


def forms_of(key: bytes) -> Iterator[bytes]:
    """Yield a key in every form, without those ends of its base64 that depend on its neighbours."""
    yield from (key, key.hex().encode(), key.hex().upper().encode())
    for before in range(3):
        whole = key[-before % 3 : len(key) - (len(key) - (-before % 3)) % 3]
        yield b64encode(whole)
