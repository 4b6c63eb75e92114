"""Both ends of one line in one process, the fibre between them, and someone who listens: for benches and tests.

What always holds: the two terminals meet only through the bytes on the fibre. The eavesdropper holds no key and knows
everything else, so what it finds is what anyone could find.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from qsotn.dataplane.alignment import FrameAligner, MultiframeAligner
from qsotn.dataplane.confirmation import GenerationKeys
from qsotn.dataplane.g709 import Deframer, odu_type
from qsotn.dataplane.gfp_delineation import GfpDemapper
from qsotn.dataplane.kernel import scramble_otu
from qsotn.dataplane.keyslots import REPLAY_WINDOW, SLOTS
from qsotn.dataplane.line import Fibre
from qsotn.dataplane.seal import INVOCATION_LIMIT, NULL_HEADER, decode_header
from qsotn.dataplane.terminal import QUEUE_BYTES, LineTerminal
from qsotn.domain import Direction, End, LineId


class Loopback:
    """A line whose two terminals are called in turn; remembers every client frame for comparison."""

    def __init__(
        self,
        line: LineId,
        odu: str,
        *,
        queue_bytes: int = QUEUE_BYTES,
        window: int = REPLAY_WINDOW,
        invocation_limit: int = INVOCATION_LIMIT,
    ) -> None:
        """Both ends begin in epoch 1."""
        self._terminal = partial(
            LineTerminal, queue_bytes=queue_bytes, window=window, invocation_limit=invocation_limit
        )
        self._line = line
        self._odu = odu
        self.fibre = Fibre()
        self.ends: dict[End, LineTerminal] = {}
        self.offered: dict[End, list[bytes]] = {end: [] for end in End}
        """Client frames taken at an end, in order."""
        self.delivered: dict[End, list[bytes]] = {end: [] for end in End}
        """Client frames handed out at an end, in order."""
        for end in End:
            self.restart(end, epoch=1)

    def restart(self, end: End, epoch: int) -> None:
        """Replace one end's terminal by a new one that knows nothing of the old."""
        self.ends[end] = self._terminal(self._line, end, self._odu, epoch)

    def install(self, generation: int, keys: GenerationKeys, ends: Iterable[End] = End) -> None:
        """Install a generation at the given ends."""
        for end in ends:
            self.ends[end].install(generation, generation % SLOTS, keys)

    def offer(self, end: End, frames: Iterable[bytes]) -> int:
        """Offer client frames in order until one does not fit; return how many were taken."""
        taken = 0
        for frame in frames:
            if not self.ends[end].offer(frame):
                break
            self.offered[end].append(frame)
            taken += 1
        return taken

    def run(self, multiframes: int) -> None:
        """Let both ends send that many multiframes and receive what the fibre makes of them."""
        for _ in range(multiframes):
            for end in End:
                self.fibre.send(end.sends, self.ends[end].transmit())
            for end in End:
                self.ends[end].receive(self.fibre.receive(end.receives))
                self.delivered[end] += self.ends[end].deliver()


class Eavesdropper:
    """A tap for `Fibre.tap` that undoes every step of the line but the encryption."""

    def __init__(self, odu: str) -> None:
        self.client_frames: list[bytes] = []
        """Client frames that GFP delineation finds in the OPU payload as it is on the fibre."""
        self.payloads: dict[Direction, list[bytes]] = {direction: [] for direction in Direction}
        """OPU payloads of all multiframes."""
        self.nonces: list[tuple[Direction, int, bytes]] = []
        """Direction, association number and IV of every encrypted multiframe."""
        self.payload_types: set[int] = set()
        self._stages = {
            direction: (FrameAligner(odu_type(odu)), MultiframeAligner(), GfpDemapper()) for direction in Direction
        }

    def __call__(self, direction: Direction, data: bytes) -> None:
        """Take a chunk from the fibre."""
        frames, multiframes, demapper = self._stages[direction]
        for run in frames.feed(data):
            for multiframe in multiframes.feed(scramble_otu(run)):
                received = Deframer().read(multiframe.frames)
                payload = received.payload.tobytes()
                self.payloads[direction].append(payload)
                self.client_frames += demapper.feed(payload)
                if multiframe.frames[0, 0, 6] == 0:
                    self.payload_types.add(int(multiframe.frames[0, 3, 14]))
                self._note_nonce(direction, received.free)

    def _note_nonce(self, direction: Direction, free: bytes) -> None:
        if free != NULL_HEADER:
            header = decode_header(free)
            self.nonces.append((direction, header.association, header.nonce(direction)))
