"""A CPE's two halves joined: keys from its store into the line terminal, what the line proves back into its procedures.

The order is what keeps keys single-use: a generation is committed as INSTALLED, and its wrapped keys are gone from
the store, before the terminal holds it. Equipment that starts finds INSTALLED generations of an earlier life and
records them as erased; the line then has no key until the next rekey, and stops rather than go on without.
"""

from __future__ import annotations

from qsotn.dataplane.events import Encrypted, KeyErased
from qsotn.dataplane.keyslots import SLOTS, SlotState
from qsotn.dataplane.terminal import LineTerminal
from qsotn.domain import Direction, End, LineId
from qsotn.parties.cpe import Cpe, CpeLine, GenerationState, LineState, SessionKeys, Traffic
from qsotn.procedures import leased_line
from qsotn.procedures.turn import Work
from qsotn.runtime import Node


class Equipment:
    """One CPE at work on one line."""

    def __init__(self, node: Node, line: LineId) -> None:
        self.node = node
        self.line = line
        held, epoch, self._before = self._start()
        self.end = held.end
        self.rekey_interval_s = held.quality.rekey_interval_s
        self.terminal = LineTerminal(line, held.end, held.quality.odu, epoch)
        self._armed_at: dict[int, int] = {}
        self._slots: dict[int, int] = {}
        self._newest = self._in_use_both_ways = 0
        self.installed: dict[int, SessionKeys] = {}
        """What the terminal holds, by generation."""

    def _start(self) -> tuple[CpeLine, int, Traffic]:
        with self.node.desk() as cpe:
            held: CpeLine = cpe.lines.require(self.line)
            epoch = cpe.next_count("epoch")
            for kept in cpe.generations.values(f"{self.line}/"):
                if kept.state is GenerationState.INSTALLED:
                    cpe.erase_generation(self.line, kept.generation)
                    cpe.mark_uncounted(self.line, kept.generation)
            cpe.forget_active(self.line)
            before = cpe.traffic.get(self.line) or Traffic()
        return held, epoch, before

    @property
    def encrypting(self) -> bool:
        """Whether a generation is in use."""
        return any(self.terminal.slot(slot) is SlotState.ACTIVE for slot in range(SLOTS))

    @property
    def confirming(self) -> bool:
        """Whether the newest generation here is not yet in use both ways.

        An end that has turned to it goes on confirming: the far end may still wait for this end's proof.
        """
        waiting = self._newest > self._in_use_both_ways
        return waiting and self.terminal.slot(self._newest % SLOTS) in (SlotState.ARMED, SlotState.ACTIVE)

    @property
    def authentic_multiframes(self) -> int:
        """How many multiframes were received under a key."""
        return self.terminal.authentic_multiframes

    @property
    def may_ask(self) -> bool:
        """Whether this is end A in service, and nothing that would bring a key is on its way."""
        if self.end is not End.A:
            return False
        with self.node.desk() as cpe:
            in_service = cpe.lines.require(self.line).state in (LineState.GRANTED, LineState.ENCRYPTED)
            waiting = [kept for kept in cpe.armed_generations(self.line) if self._may_come(kept)]
            under_way = leased_line.keys_under_way(Work(cpe.desk), self.line)
        return in_service and not waiting and under_way is None

    def take_keys(self) -> bool:
        """Install what was delivered and fits a free slot; erase what came too late to be installed at all.

        Say whether anything was installed.
        """
        with self.node.desk() as cpe:
            ready = [kept for kept in self._newest_of_each_slot(cpe) if self._make_room(cpe, kept)]
            keys = {kept.generation: cpe.install(kept) for kept in ready}
        for kept in ready:
            self.terminal.install(kept.generation, kept.generation % SLOTS, keys[kept.generation])
            self._slots[kept.generation % SLOTS] = kept.generation
            self._armed_at[kept.generation] = kept.armed_at
            self.installed[kept.generation] = kept
            self._newest = kept.generation
            for _, secret in keys[kept.generation].values():
                secret.erase()
        return bool(ready)

    def _newest_of_each_slot(self, cpe: Cpe) -> list[SessionKeys]:
        """Return what was delivered, oldest first; two that want one slot would both be taken out of the store."""
        newest: dict[int, SessionKeys] = {}
        for kept in cpe.armed_generations(self.line):
            late = kept if kept.generation <= self._newest else newest.pop(kept.generation % SLOTS, None)
            if late is not None:
                cpe.erase_generation(self.line, late.generation)
            if late is not kept:
                newest[kept.generation % SLOTS] = kept
        return list(newest.values())

    def _may_come(self, kept: SessionKeys) -> bool:
        """Whether a delivered generation will be in use without another one: not if its slot holds the one in use."""
        return not self._in_use(kept.generation % SLOTS)

    def _make_room(self, cpe: Cpe, kept: SessionKeys) -> bool:
        """Have what lies in a newer generation's slot give way, unless it is in use.

        End A asks for no number in the slot of its own generation in use, so the far end sends under none that lies
        here. If one stayed that this end alone has turned to, or is still retiring, it would stay for ever: only the
        far end's multiframes could move it on, and the line would have no key that both ends hold.
        """
        slot = kept.generation % SLOTS
        if self.terminal.slot(slot) is not SlotState.EMPTY and not self._in_use(slot):
            self.terminal.discard(self._slots[slot])
            cpe.erase_generation(self.line, self._slots[slot])
        return self.terminal.slot(slot) is SlotState.EMPTY

    def _in_use(self, slot: int) -> bool:
        """Whether a slot holds the active generation, and the far end was heard under it."""
        if self.terminal.slot(slot) is not SlotState.ACTIVE:
            return False
        key_ids = dict(
            zip((Direction.A_TO_B, Direction.B_TO_A), self.installed[self._slots[slot]].key_ids, strict=True)
        )
        return key_ids[self.end.receives] in self.terminal.counters().received_under

    def take_events(self) -> None:
        """Tell the procedures what the line proved; install what waited for a slot that became free."""
        freed = False
        for event in self.terminal.events():
            match event:
                case Encrypted(generation):
                    self._in_use_both_ways = generation
                    self.node.line_encrypted(self.line, generation, self._armed_at[generation])
                case KeyErased(generation):
                    self.record()
                    with self.node.desk() as cpe:
                        cpe.erase_generation(self.line, generation)
                    self.installed.pop(generation, None)
                    freed = True
        if freed:
            self.take_keys()

    def erase(self) -> None:
        """Erase every key in the terminal: the line is stopped."""
        for generation in self.installed:
            self.terminal.discard(generation)

    def record(self) -> None:
        """Write down what was carried so far: the counts that are billed."""
        counters, before = self.terminal.counters(), self._before
        use = {self.end.sends: counters.sent_under, self.end.receives: counters.received_under}
        with self.node.desk() as cpe:
            for kept in self.installed.values():
                frames = [
                    use[direction][key_id].frames if key_id in use[direction] else 0
                    for direction, key_id in zip((Direction.A_TO_B, Direction.B_TO_A), kept.key_ids, strict=True)
                ]
                cpe.count_frames(self.line, kept.generation, *frames)
            carried = Traffic(
                before.client_bytes_in + counters.client_bytes_in,
                before.client_bytes_out + counters.client_bytes_out,
                before.multiframes_sent + counters.multiframes_sent,
            )
            cpe.traffic.put(self.line, carried)
