"""The sending half of a terminal: client frames wait, are mapped, encrypted, framed; without keys only zeros leave.

What always holds: the payload of a multiframe is either the output of the AEAD or all zeros; there is no third way to
`Framer.build`. Client frames leave the queue only after a generation of keys was found to send them under.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from qsotn.dataplane.confirmation import Announcement
from qsotn.dataplane.g709 import FRAMES, GCC_SIZE, PAYLOAD_SIZE, PT_GFP, PT_NULL, Backward, Content, Framer
from qsotn.dataplane.gfp import ClientQueue, GfpMapper
from qsotn.dataplane.kernel import Bytes
from qsotn.dataplane.keyslots import Generation, KeySlots, LineEnd
from qsotn.dataplane.seal import NULL_HEADER, SEALED_SIZE
from qsotn.errors import KeyShortage

_NO_BACKWARD: Final = Backward()
_NULL_PAYLOAD: Final = np.zeros(PAYLOAD_SIZE, np.uint8)


class Transmitter:
    """Makes the multiframes of one direction."""

    def __init__(self, here: LineEnd, slots: KeySlots, queue_bytes: int) -> None:
        self._here = here
        self._slots = slots
        self.queue = ClientQueue(queue_bytes)
        self._mapper = GfpMapper()
        self._framer = Framer(_trace(here))
        self._counter = 0
        self._sequence = 0
        self._channel = b""
        self._sealed = bytearray(SEALED_SIZE)
        self._ciphertext: Bytes = np.frombuffer(self._sealed, np.uint8, PAYLOAD_SIZE)

    def multiframe(self, backward: deque[Backward], *, defect: bool) -> tuple[bytes, Generation | None]:
        """Return the next four scrambled OTU frames and the generation they are under, None for the null client.

        Takes what is to be told to the far end from the head of `backward`, one entry a frame.
        """
        generation = self._generation()
        content = self._null() if generation is None else self._encrypted(generation)
        told = [backward.popleft() if backward else _NO_BACKWARD for _ in range(FRAMES)]
        if defect:
            told = [Backward(entry.section_errors, entry.path_errors, defect=True) for entry in told]
        return self._framer.build(content, told), generation

    def _generation(self) -> Generation | None:
        try:
            return self._slots.sending()
        except KeyShortage:
            # Fail closed: the shortage is shown by the alarm and by the null client that is sent instead.
            return None

    def _null(self) -> Content:
        return Content(_NULL_PAYLOAD, NULL_HEADER, self._gcc(), PT_NULL)

    def _encrypted(self, generation: Generation) -> Content:
        payload = self._mapper.fill(self.queue, PAYLOAD_SIZE)
        header = generation.sealer.seal(payload, self._counter, generation.peer_epoch, self._sealed)
        self._counter += 1
        generation.sent += 1
        return Content(self._ciphertext, header.encode(), self._gcc(), PT_GFP)

    def _gcc(self) -> bytes:
        """Return the next bytes of the announcements, one behind the other, or zeros when there is none to make."""
        while len(self._channel) < GCC_SIZE and (announcement := self._announcement()):
            self._channel += announcement
        piece, self._channel = self._channel[:GCC_SIZE], self._channel[GCC_SIZE:]
        return piece.ljust(GCC_SIZE, b"\0")

    def _announcement(self) -> bytes:
        generations = self._slots.announced()
        if not generations:
            return b""
        generation = generations[self._sequence % len(generations)]
        self._sequence += 1
        announcement = Announcement(
            direction=self._here.end.sends,
            generation=generation.number % 256,
            epoch=self._here.epoch,
            sequence=self._sequence,
            confirms=generation.peer_latest is not None,
            digest=generation.prover.digest,
        )
        return generation.prover.prove(announcement).encode()


def _trace(here: LineEnd) -> bytes:
    """Return the trail trace identifier: source, destination and the line's name (G.709 clause 15.2)."""
    source = f"{here.end}".encode().ljust(15, b"\0")
    destination = f"{here.end.other}".encode().ljust(15, b"\0")
    return b"\0" + source + b"\0" + destination + here.line.encode()[:32].ljust(32, b"\0")
