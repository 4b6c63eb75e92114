"""A device's line as a process carries it: one multiframe a UDP datagram, one client frame a UDP datagram.

The UDP "fibre" is an emulator: it has neither the rate nor the light of an OTU. What crosses it are the real frames.
Everything here runs in the desk thread, between two transactions, since keys pass from the store into the terminal.

The line keeps itself: end A asks for new keys when the rekey interval is over, and when nothing authentic has arrived
for a while, because after a restart one end or both have no key. What was carried is written down before any message
is taken, so that a device that is told to stop reports all of it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from enum import Enum
from math import inf
from typing import Final

import structlog

from qsotn.dataplane.g709 import MULTIFRAME_SIZE
from qsotn.domain import LineId
from qsotn.errors import Refusal, UsageError
from qsotn.parties.cpe import LineState
from qsotn.procedures import leased_line
from qsotn.runtime import Node
from qsotn.service.config import LineSection, split_address
from qsotn.service.equipment import Equipment

LARGEST_UDP: Final = 65_507
RECEIVE_BUFFER: Final = 8 * 1024 * 1024
_SO_RCVBUFFORCE: Final = 33
"""Linux, socket(7): for who may administer the network; others get what the system allows."""
BURST: Final = 8
"""Multiframes in one turn, so that messages wait no longer than these take."""
FRAMES_A_TURN: Final = 256
IDLE_S, KEYLESS_S, NO_LINE_S = 0.5, 1.0, 5.0
"""Between two multiframes that carry nothing, with a key and without one; between two looks for a line when nothing
changed."""
MOST_ANSWERS: Final = 256
"""Multiframes that answer the far end's at once while keys are being confirmed, for each new key: a proof takes some
five, and two ends that hold different keys must not keep each other busy for ever."""
PATIENCE_S, LONGEST_PATIENCE_S = 3.0, 60.0
"""How long neither anything authentic nor a new key may arrive until keys are asked for: several times what two proofs
in the GCC take to cross. Each time that it did not help it becomes twice as long, since it cost two keys and an entry
of a key file."""
REKEY_LIFETIME_US: Final = 120 * 1_000_000
_log = structlog.get_logger("line")


class Line:
    """A device's line port and client port. Called by the desk thread whenever it is idle."""

    def __init__(self, section: LineSection, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fibre = _bound(section.local)
        self._far = split_address(section.remote)
        try:
            self._client = _bound(section.client_port)
        except BaseException:
            self._fibre.close()
            raise
        self._host: tuple[str, int] | None = None
        """Where the client is: where the last frame that was one came from."""
        self._sender: tuple[str, int] | None = None
        self._monotonic = monotonic
        self._equipment: Equipment | None = None
        self._seen = -1
        self._pending = b""
        self._last_sent, self._last_rekey, self._last_authentic = -inf, 0.0, 0.0
        self._patience = PATIENCE_S
        self._authentic = self._frames = self._answers = 0
        self._recorded = (0, 0)

    @property
    def equipment(self) -> Equipment | None:
        """The terminal at work, if this device serves a line."""
        return self._equipment

    def close(self) -> None:
        """Close both ports."""
        self._fibre.close()
        self._client.close()

    def before(self, node: Node) -> None:
        """Write down what was carried: a message may stop the line and ask for it."""
        if self._equipment is not None and self._equipment.node is node:
            self._record(self._equipment)

    def idle(self, node: Node) -> float:
        """Carry what there is; return after how many seconds to be called again."""
        if node.changes != self._seen:
            self._look(node)
        equipment = self._equipment
        if equipment is None:
            self._drop_arrivals()
            return NO_LINE_S
        received = self._receive(equipment)
        # Proofs of possession cross as fast as both ends answer each other, and no faster than either can.
        answer = received and equipment.confirming and self._may_answer()
        # What arrives next, the doorbell tells; what waits to be sent, nobody does.
        busy = self._exchange_with_client(equipment) | self._transmit(equipment, answer=answer)
        equipment.take_events()
        self._keep_keyed(equipment)
        return 0.0 if busy else _gap(equipment)

    @property
    def ports(self) -> tuple[socket.socket, socket.socket]:
        """What frames arrive at: the fibre and the client."""
        return self._fibre, self._client

    # --- which line -------------------------------------------------------------------------------------------------

    def _look(self, node: Node) -> None:
        with node.desk() as cpe:
            served = next((line.line for line in cpe.lines.values() if line.state is not LineState.STOPPED), None)
            delivered = served is not None and bool(cpe.armed_generations(served))
        if self._equipment is not None and self._equipment.line != served:
            self._stop(self._equipment)
        if self._equipment is None and served is not None:
            self._begin(node, served)
        if self._equipment is not None and delivered and self._equipment.take_keys():
            self._answers = MOST_ANSWERS
            self._last_sent = -inf
            self._last_authentic = self._monotonic()
        self._seen = node.changes

    def _begin(self, node: Node, line: LineId) -> None:
        self._equipment = Equipment(node, line)
        self._last_rekey = self._last_authentic = self._monotonic()
        self._patience = PATIENCE_S
        self._authentic, self._frames, self._recorded = 0, 0, (0, 0)
        _log.info("line begins", line=line, end=self._equipment.end)

    def _stop(self, equipment: Equipment) -> None:
        equipment.erase()
        self._equipment, self._pending = None, b""
        _log.info("line stopped", line=equipment.line)

    # --- frames -----------------------------------------------------------------------------------------------------

    def _receive(self, equipment: Equipment) -> bool:
        received = False
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            for _ in range(BURST * 2):
                arrived = self._fibre.recv(LARGEST_UDP)
                # One multiframe a datagram: anything else is nobody's light, and would cost the frame alignment.
                if len(arrived) == MULTIFRAME_SIZE:
                    equipment.terminal.receive(arrived)
                received = True
        return received

    def _drop_arrivals(self) -> None:
        """A port that serves no line takes nothing: neither from the fibre nor from the client."""
        for port in (self._fibre, self._client):
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                for _ in range(FRAMES_A_TURN):
                    port.recv(LARGEST_UDP)

    def _exchange_with_client(self, equipment: Equipment) -> bool:
        taken = self._take_from_client(equipment)
        delivered = equipment.terminal.deliver()
        if self._host is not None:
            for frame in delivered:
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    self._client.sendto(frame, self._host)
        return taken or bool(delivered)

    def _take_from_client(self, equipment: Equipment) -> bool:
        taken = False
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            for _ in range(FRAMES_A_TURN):
                if not self._pending:
                    self._pending, self._sender = self._client.recvfrom(LARGEST_UDP)
                match _offer(equipment, self._pending):
                    case Offered.QUEUE_FULL:
                        return taken
                    case Offered.TAKEN:
                        self._host = self._sender
                self._pending, taken = b"", True
        return taken

    def _transmit(self, equipment: Equipment, *, answer: bool) -> bool:
        now, sent = self._monotonic(), 0
        due = answer or now - self._last_sent >= _gap(equipment)
        # Without a key client frames wait, and a burst would carry nothing but zeros.
        while sent < BURST and (due or (equipment.terminal.waiting and equipment.encrypting)):
            due = False
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                self._fibre.sendto(equipment.terminal.transmit(), self._far)
            self._last_sent, sent = now, sent + 1
        return bool(equipment.terminal.waiting) and equipment.encrypting

    def _may_answer(self) -> bool:
        self._answers -= 1
        return self._answers >= 0

    # --- keys -------------------------------------------------------------------------------------------------------

    def _keep_keyed(self, equipment: Equipment) -> None:
        now, authentic = self._monotonic(), equipment.authentic_multiframes
        if authentic > self._authentic and equipment.encrypting:
            self._authentic, self._last_authentic, self._patience = authentic, now, PATIENCE_S
        if now - self._last_authentic >= self._patience:
            if self._is_lit(equipment) and self._ask(equipment):
                self._patience = min(2 * self._patience, LONGEST_PATIENCE_S)
                self._last_rekey = now
            self._last_authentic = now
        elif now - self._last_rekey >= _interval(equipment):
            self._ask(equipment)
            self._last_rekey = self._last_authentic = now

    def _is_lit(self, equipment: Equipment) -> bool:
        """Whether anything arrived since this was last looked at: without light no key helps."""
        received, before = equipment.terminal.counters().frames_received, self._frames
        self._frames = received
        return received > before

    def _ask(self, equipment: Equipment) -> bool:
        """Ask for keys; say whether they are on their way now."""
        if not equipment.may_ask:
            return False
        try:
            equipment.node.begin(
                lambda cpe, work: leased_line.begin_rekey(cpe, work, equipment.line, REKEY_LIFETIME_US)
            )
        except Refusal as no:
            _log.info("no new keys asked for", line=equipment.line, reason=str(no))
            return False
        return True

    def _record(self, equipment: Equipment) -> None:
        counters = equipment.terminal.counters()
        carried = (counters.multiframes_sent, counters.multiframes_received)
        if carried != self._recorded:
            equipment.record()
            self._recorded = carried


def _interval(equipment: Equipment) -> float:
    """Seconds from one rekey to the next: newer keys would take the place of those that are just being confirmed."""
    interval = equipment.rekey_interval_s
    return max(interval, PATIENCE_S) if equipment.confirming else interval


def _gap(equipment: Equipment) -> float:
    """Seconds between two multiframes that carry no client frames."""
    return IDLE_S if equipment.installed else KEYLESS_S


class Offered(Enum):
    """What became of a client frame."""

    TAKEN = "taken"
    QUEUE_FULL = "queue full"
    DROPPED = "dropped"


def _offer(equipment: Equipment, frame: bytes) -> Offered:
    """Hand a client frame in; one that is no Ethernet frame is dropped, as a port does."""
    try:
        return Offered.TAKEN if equipment.terminal.offer(frame) else Offered.QUEUE_FULL
    except UsageError as error:
        _log.debug("client frame dropped", reason=str(error))
        return Offered.DROPPED


def _bound(address: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.setblocking(False)
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise UsageError(f"the UDP port {address} of this device cannot be opened: {error.strerror}") from error
    return opened
