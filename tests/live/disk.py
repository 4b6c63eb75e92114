"""A disk of its own for a test, whose power can be cut: ext4 in an image file, mounted through a loop device.

What was written and not synced lies in the cache of the file system, and not in the image. A copy of the image is what
the disk would hold after a power cut at that moment. The file system commits by itself only every five minutes
(`commit=300`), so that nothing is saved by its kindness. Needs root and loop devices.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

SIZE: Final = 512 * 1024 * 1024
OPTIONS: Final = "loop,commit=300,noatime"
SEARCHED: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a system's own tools are; a user's PATH may leave some out."""


def can_mount() -> bool:
    """Whether this user can mount an image at all."""
    return os.geteuid() == 0 and Path("/dev/loop-control").exists()


class Disk:
    """A disk, mounted while the context lasts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "disk"
        self._image, self._copy = folder / "image", folder / "copy"
        self.path.mkdir()

    def __enter__(self) -> Self:
        with self._image.open("wb") as image:
            os.truncate(image.fileno(), SIZE)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._image))
        self._mount(self._image)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run("umount", str(self.path))

    def _mount(self, image: Path) -> None:
        _run("mount", "-o", OPTIONS, str(image), str(self.path))

    def sync(self) -> None:
        """Write everything to the disk."""
        _run("sync", "--file-system", str(self.path))

    def cut(self) -> None:
        """Keep what the disk holds at this moment. Nobody may be writing."""
        _run("cp", "--sparse=always", str(self._image), str(self._copy))

    def restart(self) -> None:
        """Go on with what was kept, as after the power has come back. Nobody may have a file open."""
        _run("umount", str(self.path))
        self._mount(self._copy)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": SEARCHED})
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
