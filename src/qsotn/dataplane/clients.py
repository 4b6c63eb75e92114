"""Client frames in bulk: one buffer, and where in it each frame is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qsotn.dataplane.kernel_interface import Buffer, Words


@dataclass(frozen=True)
class ClientFrames:
    """Frames that share a buffer, so that none of them becomes an object of its own on the way through."""

    data: Buffer
    starts: Words
    """Offset of each frame in `data`."""
    sizes: Words

    def __len__(self) -> int:
        return self.starts.size

    def __iter__(self) -> Iterator[bytes]:
        """Copy frame by frame."""
        view = np.frombuffer(self.data, np.uint8).data
        for start, size in zip(self.starts.tolist(), self.sizes.tolist(), strict=True):
            yield bytes(view[start : start + size])


def client_frames(frames: Sequence[bytes]) -> ClientFrames:
    """Join single frames."""
    sizes = np.array([len(frame) for frame in frames], np.int64)
    return ClientFrames(b"".join(frames), np.cumsum(sizes) - sizes, sizes)
