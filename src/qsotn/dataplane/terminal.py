"""One end of an encrypted leased line: what the control plane installs keys into and the client port feeds.

Read in this order: `gfp` and `gfp_delineation` (client frames to a stream and back), `g709` and `alignment` (OTU
frames), `seal` (encryption), `confirmation` and `keyslots` (which keys, when), `transmitter` and `receiver` (both
halves), and this file, which joins them. `kernel` holds the loops over bytes; `line` is the emulated fibre between two
terminals.

What always holds: without keys that both ends hold, `transmit` sends the null client; what `deliver` returns was
authenticated, is complete and in order. Nothing here waits: each `transmit` is one multiframe, 4 OTU frames.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

from qsotn.dataplane.confirmation import GenerationKeys
from qsotn.dataplane.events import Alarm, AlarmCleared, AlarmRaised, Counters, Encrypted, Event, KeyUse
from qsotn.dataplane.g709 import FRAMES, odu_type
from qsotn.dataplane.keyslots import REPLAY_WINDOW, Generation, KeySlots, LineEnd, SlotState
from qsotn.dataplane.receiver import Receiver
from qsotn.dataplane.seal import INVOCATION_LIMIT
from qsotn.dataplane.transmitter import Transmitter
from qsotn.domain import End, KeyId, LineId

QUEUE_BYTES: Final = 1 << 20
"""Client bytes that may wait for transmission, by default."""


class LineTerminal:
    """The data plane of one OTN-CPE for one line."""

    def __init__(
        self,
        line: LineId,
        end: End,
        odu: str,
        epoch: int,
        *,
        queue_bytes: int = QUEUE_BYTES,
        window: int = REPLAY_WINDOW,
        invocation_limit: int = INVOCATION_LIMIT,
    ) -> None:
        """`epoch` (24 bits) was stored as spent before this call and never served this end of the line before.

        Raises `UsageError` for an unknown ODU type or an epoch out of range.
        """
        odu_type(odu)
        here = LineEnd(line, end, odu, epoch)
        self._here = here
        self._slots = KeySlots(here, window, invocation_limit)
        self._transmitter = Transmitter(here, self._slots, queue_bytes)
        self._receiver = Receiver(here, self._slots)
        self._delivered: deque[bytes] = deque()
        self._events: list[Event] = []
        self._alarms: set[Alarm] = set()
        self._encrypted: set[int] = set()
        self._counts: Counter[str] = Counter()
        self._sent_under: Counter[KeyId] = Counter()
        self._received_under: Counter[KeyId] = Counter()
        self._raise_or_clear(Alarm.NO_KEY, present=True)

    def install(self, generation: int, slot: int, keys: GenerationKeys) -> None:
        """Arm a generation of session keys, one `(KeyId, Secret of 32 bytes)` for each direction.

        It is used only once the far end has proven that it holds it too. Raises `UsageError` for a slot other than
        `generation % 2` or keys that do not fit, `KeyReuse` for a number or key ID seen before, `OutOfOrder` while the
        slot is still in use. The caller keeps, and erases, its own `Secret`s.
        """
        self._slots.install(generation, slot, keys)

    def discard(self, generation: int) -> None:
        """Erase a generation at once; if it was the active one, only the null client is sent until another is."""
        self._slots.discard(generation)

    def slot(self, slot: int) -> SlotState:
        """Return the state of slot 0 or 1."""
        return self._slots.state(slot)

    def offer(self, frame: bytes) -> bool:
        """Hand in one client frame; False, and nothing taken, while the queue is full.

        Raises `UsageError` for a frame of less than 14 or more than 9600 bytes.
        """
        taken = self._transmitter.queue.offer(frame)
        if taken:
            self._counts["client_frames_in"] += 1
            self._counts["client_bytes_in"] += len(frame)
        return taken

    @property
    def waiting(self) -> int:
        """How many client frames wait to be transmitted."""
        return len(self._transmitter.queue)

    def transmit(self) -> bytes:
        """Return the next multiframe: four scrambled OTU frames, 65 280 bytes."""
        defect = bool(self._alarms & {Alarm.LOSS_OF_FRAME, Alarm.AUTHENTICATION_FAILURE})
        signal, generation = self._transmitter.multiframe(self._receiver.backward, defect=defect)
        self._counts["multiframes_sent"] += 1
        if generation is None:
            self._counts["null_multiframes_sent"] += 1
        else:
            self._sent_under[generation.key_ids[self._here.end.sends]] += 1
            self._note_encrypted(generation)
        self._raise_or_clear(Alarm.NO_KEY, present=generation is None)
        return signal

    def receive(self, data: bytes) -> None:
        """Take what arrived from the fibre, cut anywhere. Line errors are counted and alarmed, never raised."""
        output = self._receiver.receive(data)
        for generation in output.generations:
            self._received_under[generation.key_ids[self._here.end.receives]] += 1
            self._note_encrypted(generation)
        self._counts["client_frames_out"] += len(output.frames)
        self._counts["client_bytes_out"] += sum(map(len, output.frames))
        self._delivered += output.frames
        condition = self._receiver.condition
        self._raise_or_clear(Alarm.LOSS_OF_FRAME, present=self._receiver.frame_alignment.loss_of_frame)
        self._raise_or_clear(Alarm.AUTHENTICATION_FAILURE, present=not condition.authentic)
        self._raise_or_clear(Alarm.KEY_MISMATCH, present=not condition.keys_agree)
        self._raise_or_clear(Alarm.BACKWARD_DEFECT, present=condition.far_end_defect)

    def deliver(self) -> list[bytes]:
        """Return, once, the client frames received since the last call, in the order the far end was offered them."""
        frames = list(self._delivered)
        self._delivered.clear()
        return frames

    def events(self) -> list[Event]:
        """Return, once, what happened since the last call."""
        happened, self._events = self._events + self._slots.events(), []
        return happened

    def alarms(self) -> frozenset[Alarm]:
        """Return the conditions that hold now."""
        return frozenset(self._alarms)

    @property
    def authentic_multiframes(self) -> int:
        """How many multiframes were received under a key: `counters` without its price, for who asks all the time."""
        return self._received_under.total()

    def counters(self) -> Counters:
        """Return a snapshot of all counts since this terminal was made."""
        tally, receiver = self._receiver.tally, self._receiver
        return Counters(
            frames_sent=self._counts["multiframes_sent"] * FRAMES,
            frames_received=tally.frames,
            multiframes_sent=self._counts["multiframes_sent"],
            multiframes_received=tally.multiframes,
            null_multiframes_sent=self._counts["null_multiframes_sent"],
            null_multiframes_received=tally.null_multiframes,
            section_violations=tally.section_violations,
            path_violations=tally.path_violations,
            far_end_violations=tally.far_end_violations,
            authentication_failures=tally.authentication_failures,
            replays=tally.replays,
            missing_multiframes=tally.missing_multiframes,
            proof_failures=tally.proof_failures,
            out_of_frame=receiver.frame_alignment.out_of_frame_count,
            out_of_multiframe=receiver.multiframe_alignment.out_of_multiframe_count,
            client_frames_in=self._counts["client_frames_in"],
            client_bytes_in=self._counts["client_bytes_in"],
            client_frames_out=self._counts["client_frames_out"],
            client_bytes_out=self._counts["client_bytes_out"],
            gfp=receiver.demapper.counters,
            sent_under=_key_uses(self._sent_under),
            received_under=_key_uses(self._received_under),
        )

    def _note_encrypted(self, generation: Generation) -> None:
        if generation.sent and generation.received and generation.number not in self._encrypted:
            self._encrypted.add(generation.number)
            self._report(Encrypted(generation.number))

    def _raise_or_clear(self, alarm: Alarm, *, present: bool) -> None:
        if present and alarm not in self._alarms:
            self._alarms.add(alarm)
            self._report(AlarmRaised(alarm))
        elif not present and alarm in self._alarms:
            self._alarms.discard(alarm)
            self._report(AlarmCleared(alarm))

    def _report(self, event: Event) -> None:
        """Append an event behind those of the key slots that caused it."""
        self._events += [*self._slots.events(), event]


def _key_uses(multiframes: Mapping[KeyId, int]) -> dict[KeyId, KeyUse]:
    return {key_id: KeyUse(count, count * FRAMES) for key_id, count in multiframes.items()}
