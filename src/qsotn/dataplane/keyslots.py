"""Two slots of keys at each end, and the rule that no end uses a generation before the other is ready for it.

A generation is a pair of session keys, one for each direction, installed together under an increasing number; its slot
is that number modulo two. Its life at one end:

    EMPTY → ARMED     installed here; received multiframes under it open; nothing is sent under it
    ARMED → ACTIVE    the far end proved possession of both keys, and a multiframe boundary came: sent under it
    ACTIVE → RETIRING a newer generation became active here; late multiframes of the far end still open
    RETIRING → EMPTY  the far end sent a window of multiframes under the newer one: keys erased

What always holds: at most one generation is ACTIVE; no sender turns to a generation that the far end has not proven; a
slot is never overwritten; a generation number never comes twice. Without an ACTIVE generation, or with one whose
invocations are spent, there is nothing to send with, and `sending` says so by raising.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from qsotn.dataplane.confirmation import Announcement, GenerationKeys, Prover
from qsotn.dataplane.events import Event, KeyErased, PeerArmed, PeerConfirmed, Switched
from qsotn.dataplane.seal import INVOCATION_LIMIT, Opener, Path, Sealer, traffic_key
from qsotn.domain import Direction, End, KeyId, LineId
from qsotn.errors import BadProof, KeyReuse, KeyShortage, OutOfOrder, UsageError

REPLAY_WINDOW: Final = 8
"""Multiframes received under a newer generation before the older is erased."""

SLOTS: Final = 2


class SlotState(Enum):
    """The life of a generation at one end; EMPTY is a slot without one."""

    EMPTY = "empty"
    ARMED = "armed"
    ACTIVE = "active"
    RETIRING = "retiring"


@dataclass(frozen=True)
class LineEnd:
    """Which end of which line this is, in which of its lives."""

    line: LineId
    end: End
    odu: str
    epoch: int

    def path(self, direction: Direction) -> Path:
        """Return the constants of one direction."""
        return Path(self.line, self.odu, direction)


class Generation:
    """One generation at one end: the traffic keys of both directions and what is known of the far end."""

    def __init__(self, here: LineEnd, number: int, keys: GenerationKeys, limit: int) -> None:
        self.number = number
        self.key_ids = {direction: keys[direction][0] for direction in Direction}
        self.state = SlotState.ARMED
        self.prover = Prover(here.line, number, keys)
        sends, receives = here.end.sends, here.end.receives
        outgoing, incoming = here.path(sends), here.path(receives)
        self.sealer = Sealer(outgoing, traffic_key(outgoing, *keys[sends]), number % 16, here.epoch, limit)
        self.opener = Opener(incoming, traffic_key(incoming, *keys[receives]), here.epoch)
        self.peer_latest: tuple[int, int] | None = None
        """Epoch and sequence of the far end's last accepted proof."""
        self.peer_confirms = False
        self.sent = 0
        self.received = 0

    @property
    def peer_epoch(self) -> int:
        """The far end's epoch; raises `KeyShortage` before it proved possession."""
        if self.peer_latest is None:
            raise KeyShortage(f"the far end has not proven that it holds generation {self.number}")
        return self.peer_latest[0]


class KeySlots:
    """The two slots of one end of a line."""

    def __init__(self, here: LineEnd, window: int = REPLAY_WINDOW, limit: int = INVOCATION_LIMIT) -> None:
        self._here = here
        self._window = window
        self._limit = limit
        self._slots: list[Generation | None] = [None] * SLOTS
        self._last_installed = -1
        self._used: set[KeyId] = set()
        self._events: list[Event] = []

    def install(self, number: int, slot: int, keys: GenerationKeys) -> None:
        """Arm a generation.

        Raises `UsageError` for a slot or keys that do not fit, `KeyReuse` for a number or key ID that was installed
        before, `OutOfOrder` while the slot is still in use.
        """
        if slot != number % SLOTS or set(keys) != set(Direction):
            raise UsageError(f"generation {number} belongs in slot {number % SLOTS} with a key for each direction")
        key_ids = {key_id for key_id, _ in keys.values()}
        if number <= self._last_installed or key_ids & self._used or len(key_ids) < len(keys):
            raise KeyReuse(f"generation {number} or one of its key IDs was installed before at {self._here.line}")
        if self._slots[slot] is not None:
            raise OutOfOrder(f"slot {slot} still holds a generation in use; {number} must wait until it is erased")
        self._slots[slot] = Generation(self._here, number, keys, self._limit)
        self._last_installed = number
        self._used |= key_ids

    def discard(self, number: int) -> None:
        """Erase a generation, whatever its state; a number that is not installed is nothing to do."""
        if self._find(number) is not None:
            self._erase(number)

    def state(self, slot: int) -> SlotState:
        """Return the state of slot 0 or 1."""
        generation = self._slots[slot]
        return SlotState.EMPTY if generation is None else generation.state

    def announced(self) -> list[Generation]:
        """Return the generations to announce to the far end in turn: the armed and the active, newest first.

        The active one is still announced beside an armed one, for a far end that restarted and holds only that.
        """
        return [g for g in self._installed() if g.state in (SlotState.ARMED, SlotState.ACTIVE)]

    def accept(self, announcement: Announcement) -> None:
        """Take the far end's proof for a generation installed here; others are no concern of this end.

        Raises `BadProof` if it is this end's own announcement come back, names other keys, or fails to prove them.
        """
        if announcement.direction is not self._here.end.receives:
            raise BadProof("an announcement of this end's own direction came back to it")
        generation = next((g for g in self._installed() if g.number % 256 == announcement.generation), None)
        if generation is None:
            return
        generation.prover.verify(announcement)
        latest = (announcement.epoch, announcement.sequence)
        if generation.peer_latest is not None and latest <= generation.peer_latest:
            return
        if generation.peer_latest is None:
            self._events.append(PeerArmed(generation.number))
        if announcement.confirms and not generation.peer_confirms:
            self._events.append(PeerConfirmed(generation.number))
        generation.peer_latest = latest
        generation.peer_confirms = generation.peer_confirms or announcement.confirms

    def sending(self) -> Generation:
        """Return the generation for the next multiframe, turning to an armed and proven one first.

        Call at a multiframe boundary only. Raises `KeyShortage` if there is none or it has no invocations left.
        """
        self._switch()
        active = self._in(SlotState.ACTIVE)
        if active is None:
            raise KeyShortage(f"line {self._here.line} has no generation of keys that both ends hold")
        if active.sealer.remaining <= 0:
            raise KeyShortage(f"generation {active.number} of line {self._here.line} has served its invocations")
        return active

    def receiving(self, association: int) -> Generation:
        """Return the generation that an association number means; raises `BadProof` if it is not installed."""
        generation = self._slots[association % SLOTS]
        if generation is None or generation.number % 16 != association:
            raise BadProof(f"multiframe under generation {association} (mod 16), which is not installed here")
        return generation

    def opened(self, generation: Generation) -> None:
        """Count an authentic multiframe; the retiring generation goes once the window under its successor is full."""
        generation.received += 1
        retiring = self._in(SlotState.RETIRING)
        active = self._in(SlotState.ACTIVE)
        if retiring is not None and active is not None and active.received >= self._window:
            self._erase(retiring.number)

    def events(self) -> list[Event]:
        """Return, once, what happened since the last call."""
        happened, self._events = self._events, []
        return happened

    def _switch(self) -> None:
        """Make the newest armed and proven generation the active one, and retire what is older."""
        ready = next((g for g in self._installed() if g.state is SlotState.ARMED and g.peer_latest is not None), None)
        if ready is None:
            return
        for generation in self._installed():
            if generation.number < ready.number:
                generation.state = SlotState.RETIRING
        ready.state = SlotState.ACTIVE
        self._events.append(Switched(ready.number, ready.key_ids[self._here.end.sends]))

    def _erase(self, number: int) -> None:
        generation = self._find(number)
        if generation is None:
            return
        generation.prover.erase()
        self._slots[number % SLOTS] = None
        self._events.append(KeyErased(number, tuple(generation.key_ids.values())))

    def _installed(self) -> list[Generation]:
        """Return the generations in the slots, newest first."""
        installed = (generation for generation in self._slots if generation is not None)
        return sorted(installed, key=lambda generation: generation.number, reverse=True)

    def _find(self, number: int) -> Generation | None:
        return next((g for g in self._installed() if g.number == number), None)

    def _in(self, state: SlotState) -> Generation | None:
        return next((g for g in self._installed() if g.state is state), None)
