"""The receiving half of a terminal: bytes of the fibre to client frames, or to nothing.

What always holds: only what the AEAD opened, once and in order, reaches the demapper; a multiframe that is missing is a
gap to the demapper, so that no client frame is put together from two sides of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from qsotn.dataplane.alignment import FrameAligner, Multiframe, MultiframeAligner
from qsotn.dataplane.confirmation import AnnouncementReader
from qsotn.dataplane.g709 import FRAMES, PAYLOAD_SIZE, Backward, Deframer, Received, odu_type
from qsotn.dataplane.gfp_delineation import GfpDemapper
from qsotn.dataplane.kernel import Bytes, scramble_otu
from qsotn.dataplane.keyslots import Generation, KeySlots, LineEnd
from qsotn.dataplane.seal import NULL_HEADER, SEALED_SIZE, Header, decode_header
from qsotn.errors import BadProof

BACKWARD_LIMIT = 256
"""Frames whose BIP-8 violations wait to be told to the far end; older ones are forgotten."""


@dataclass
class Tally:
    """What the receiver counts."""

    frames: int = 0
    multiframes: int = 0
    null_multiframes: int = 0
    section_violations: int = 0
    path_violations: int = 0
    far_end_violations: int = 0
    authentication_failures: int = 0
    replays: int = 0
    missing_multiframes: int = 0
    proof_failures: int = 0


@dataclass
class Condition:
    """What the alarms are made of: the latest word on each."""

    authentic: bool = True
    keys_agree: bool = True
    far_end_defect: bool = False


@dataclass
class Output:
    """What one call of `Receiver.receive` brought."""

    frames: list[bytes] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    """The generation of every multiframe that was opened."""


class Receiver:
    """Reads the signal of one direction."""

    def __init__(self, here: LineEnd, slots: KeySlots) -> None:
        self._slots = slots
        self.frame_alignment = FrameAligner(odu_type(here.odu))
        self.multiframe_alignment = MultiframeAligner()
        self.demapper = GfpDemapper()
        self.tally = Tally()
        self.condition = Condition()
        self.backward: deque[Backward] = deque(maxlen=BACKWARD_LIMIT)
        self._deframer = Deframer()
        self._announcements = AnnouncementReader()
        self._last: tuple[int, int] | None = None
        self._sealed = bytearray(SEALED_SIZE)
        self._ciphertext: Bytes = np.frombuffer(self._sealed, np.uint8, PAYLOAD_SIZE)
        self._payload = bytearray(PAYLOAD_SIZE)

    def receive(self, data: bytes) -> Output:
        """Take bytes as they arrive, cut anywhere."""
        output = Output()
        was_in_frame = self.frame_alignment.in_frame
        for run in self.frame_alignment.feed(data):
            if not was_in_frame:
                self.multiframe_alignment.interrupt()
            was_in_frame = False
            self.tally.frames += len(run)
            for multiframe in self.multiframe_alignment.feed(scramble_otu(run)):
                self._read(multiframe, output)
        return output

    def _read(self, multiframe: Multiframe, output: Output) -> None:
        if not multiframe.consecutive:
            self._deframer.interrupt()
        received = self._deframer.read(multiframe.frames)
        self.tally.multiframes += 1
        self._monitor(received)
        self._confirm(received.gcc)
        if received.free == NULL_HEADER:
            self.tally.null_multiframes += 1
            self.condition.authentic = True
            return
        try:
            generation, header = self._open(received)
        except BadProof:
            self.tally.authentication_failures += 1
            self.condition.authentic = False
            return
        self.condition.authentic = True
        self._accept(generation, header, output)

    def _monitor(self, received: Received) -> None:
        """Count BIP-8 violations and queue them for the far end."""
        section, path = received.section_violations.tolist(), received.path_violations.tolist()
        self.tally.section_violations += sum(section)
        self.tally.path_violations += sum(path)
        self.tally.far_end_violations += int(received.far_end_violations.sum())
        self.condition.far_end_defect = received.far_end_defect
        self.backward += [Backward(section[frame], path[frame]) for frame in range(FRAMES)]

    def _confirm(self, channel: bytes) -> None:
        for announcement in self._announcements.feed(channel):
            try:
                self._slots.accept(announcement)
                self.condition.keys_agree = True
            except BadProof:
                self.tally.proof_failures += 1
                self.condition.keys_agree = False

    def _open(self, received: Received) -> tuple[Generation, Header]:
        """Decrypt into `_payload`; raises `BadProof` if the multiframe is not what the far end sent to this end."""
        header = decode_header(received.free)
        generation = self._slots.receiving(header.association)
        self._ciphertext.reshape(received.payload.shape)[:] = received.payload
        self._sealed[PAYLOAD_SIZE:] = header.tag
        generation.opener.open(header, self._sealed, self._payload)
        return generation, header

    def _accept(self, generation: Generation, header: Header, output: Output) -> None:
        """Use an authentic multiframe unless its number was passed already."""
        number = (header.epoch, header.counter)
        if self._last is not None and number <= self._last:
            self.tally.replays += 1
            return
        expected = self._expected(*number)
        if header.counter != expected:
            self.tally.missing_multiframes += header.counter - expected
        if header.counter != expected or self._last is None or self._last[0] != header.epoch:
            self.demapper.gap()
        self._last = number
        self._slots.opened(generation)
        output.generations.append(generation)
        output.frames += self.demapper.feed(bytes(self._payload))

    def _expected(self, epoch: int, counter: int) -> int:
        """Return the counter that continues what was accepted: any at first, zero in a new epoch of the sender."""
        if self._last is None:
            return counter
        return self._last[1] + 1 if self._last[0] == epoch else 0
