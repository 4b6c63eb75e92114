"""Two devices' lines over real UDP ports on loopback, with real nodes behind them: keys, frames, restarts, the end.

Time is the test's own: a turn is one look of both desk threads at their ports, some milliseconds after the last.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import msgspec
import pytest
from tests.world import LIFETIME_US, QUALITY, World

from qsotn.app.province import CPE_A, CPE_B, LINE, PMP, POMP
from qsotn.dataplane.g709 import MULTIFRAME_SIZE
from qsotn.dataplane.terminal import QUEUE_BYTES
from qsotn.domain import PartyId, QualityOfService
from qsotn.errors import UsageError
from qsotn.parties.pomp import LineState, UsageRecord
from qsotn.procedures import deletion
from qsotn.service.config import LineSection
from qsotn.service.lines import IDLE_S, NO_LINE_S, PATIENCE_S, Line

TURN_S = 0.005
TICK_TURNS = 100
FRAME = bytes(range(64))


def free_ports(count: int) -> list[int]:
    """UDP ports that nobody has."""
    held = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Host:
    """A customer's machine at one client port."""

    def __init__(self, port: int) -> None:
        self._port = ("127.0.0.1", port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._socket.sendto(frame, self._port)

    def received(self) -> list[bytes]:
        frames: list[bytes] = []
        try:
            while True:
                frames.append(self._socket.recv(65_535))
        except BlockingIOError:
            return frames

    def close(self) -> None:
        self._socket.close()


class Street:
    """Two devices, the cable between them, and a host at each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 0.0
        self._turns = 0
        near, far, client_a, client_b = (f"127.0.0.1:{port}" for port in free_ports(4))
        self._sections = {CPE_A: LineSection(near, far, client_a), CPE_B: LineSection(far, near, client_b)}
        self.lines: dict[PartyId, Line] = {}
        self.hosts = {cpe: Host(int(self._sections[cpe].client_port.partition(":")[2])) for cpe in (CPE_A, CPE_B)}
        for cpe in (CPE_A, CPE_B):
            self.plug_in(cpe)

    def plug_in(self, cpe: PartyId) -> None:
        """Give a device its ports, and have what it carried written down before it takes a message."""
        line, node = Line(self._sections[cpe], lambda: self.now), self.world.nodes[cpe]
        self.lines[cpe] = line

        def receive(data: bytes) -> None:
            line.before(node)
            node.receive(data)

        self.world.wire.join(cpe, receive)

    def restart(self, cpe: PartyId) -> None:
        """The device's process ends without a word, and begins again."""
        self.lines[cpe].close()
        self.world.restart(cpe)
        self.plug_in(cpe)

    def turn(self) -> None:
        self.now += TURN_S
        self._turns += 1
        for cpe, line in self.lines.items():
            line.idle(self.world.nodes[cpe])
            if self._turns % TICK_TURNS == 0:
                self.world.nodes[cpe].tick()
        self.world.pump()

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.turn()

    def until(self, holds: Callable[[], bool], turns: int = 3000) -> None:
        for _ in range(turns):
            if holds():
                return
            self.turn()
        raise AssertionError(f"not reached after {turns} turns: {self.world.states()}")

    def active(self) -> tuple[int, int]:
        """Which generation each end says it encrypts with."""
        with self.world.desk(CPE_A) as near, self.world.desk(CPE_B) as far:
            return near.lines.require(LINE).active, far.lines.require(LINE).active

    def encrypt(self, quality: QualityOfService = QUALITY) -> None:
        self.world.order_line(quality=quality)
        self.until(lambda: self.world.line_state() is LineState.ENCRYPTED)
        self.greet()

    def greet(self) -> None:
        """A port learns where its host is from the first frame it gets; GFP's scrambler costs one after a gap."""
        for host in self.hosts.values():
            host.send(FRAME)
        self.turns(20)
        for host in self.hosts.values():
            host.received()

    def carries(self, frames: list[bytes], turns: int = 40) -> bool:
        """Whether the frames arrive in their order, in both directions, at the other host."""
        a, b = self.hosts[CPE_A], self.hosts[CPE_B]
        a.send(*frames)
        b.send(*frames[::-1])
        self.turns(turns)
        return (b.received(), a.received()) == (frames, frames[::-1])

    def close(self) -> None:
        for line in self.lines.values():
            line.close()
        for host in self.hosts.values():
            host.close()


@pytest.fixture
def street(ready: World) -> Iterator[Street]:
    built = Street(ready)
    yield built
    built.close()


@pytest.fixture
def lit(street: Street) -> Street:
    """The line is ENCRYPTED, and both ports know their hosts."""
    street.encrypt()
    return street


def frames(count: int, size: int = 200) -> list[bytes]:
    return [bytes([number % 256, number // 256]) * (size // 2) for number in range(count)]


# --- in service -------------------------------------------------------------------------------------------------------


def test_two_devices_encrypt_their_line_and_carry_frames_in_both_directions(lit: Street) -> None:
    assert lit.active() == (1, 1)
    assert lit.carries(frames(150))
    assert lit.carries([bytes(14), bytes(9600), b"\xff" * 1500])
    assert not any(node.rejections for node in lit.world.nodes.values())


def test_an_end_that_has_turned_to_new_keys_goes_on_proving_them_to_one_that_has_not(street: Street) -> None:
    """The far end was heard for long, and its proof is whole at once; this end's has yet to be sent."""
    near, far = street.lines[CPE_A], street.lines[CPE_B]
    street.world.order_line(quality=QUALITY)
    for _ in range(round(4 * IDLE_S / TURN_S)):
        street.now += TURN_S
        far.idle(street.world.nodes[CPE_B])
        street.world.pump()
    assert far.equipment is not None
    assert far.equipment.confirming
    began = street.now
    street.until(lambda: all(line.equipment is not None and line.equipment.encrypting for line in (near, far)))
    assert street.now - began < IDLE_S / 2


def test_keys_that_come_late_are_given_the_time_to_be_proven(street: Street) -> None:
    near, far = street.lines[CPE_A], street.lines[CPE_B]
    street.world.order_line(quality=QUALITY)
    street.until(lambda: near.equipment is not None and far.equipment is not None)
    street.now += 0.99 * PATIENCE_S  # the control plane took so long
    far.idle(street.world.nodes[CPE_B])
    while near.equipment is not None and not near.equipment.installed:
        street.world.pump()
        near.idle(street.world.nodes[CPE_A])
    street.now += 0.02 * PATIENCE_S
    near.idle(street.world.nodes[CPE_A])
    assert not [row for row in street.world.running() if row.ladder == "rekey"]
    street.until(lambda: street.world.line_state() is LineState.ENCRYPTED)
    assert street.active() == (1, 1)


def test_keys_change_when_the_interval_is_over_and_not_before(street: Street) -> None:
    street.encrypt(msgspec.structs.replace(QUALITY, rekey_interval_s=1))
    changes = []
    for generation in (2, 3, 4):
        street.until(partial(_both_use, street, generation), turns=800)
        changes.append(street.now)
    pauses = [later - earlier for earlier, later in pairwise(changes)]
    assert all(0.9 <= pause < PATIENCE_S for pause in pauses)
    assert len(drawn(street)) == 4  # none was drawn that was not used


def drawn(street: Street) -> list[int]:
    with street.world.desk(CPE_A) as cpe:
        return [kept.generation for kept in cpe.generations.values()]


def _both_use(street: Street, generation: int) -> bool:
    return street.active() == (generation, generation)


def test_a_line_that_was_dark_for_a_while_gets_other_keys_and_loses_no_frame_over_them(lit: Street) -> None:
    sent: list[bytes] = []
    lit.now += 60
    for number in range(200):
        sent.append(b"%d" % number * 20)
        lit.hosts[CPE_A].send(sent[-1])
        lit.turns(2)
    assert lit.active() == (2, 2)
    lit.until(lambda: not lit.world.running())
    assert lit.hosts[CPE_B].received() == sent
    with lit.world.desk(CPE_A) as cpe:
        kept = {one.generation: one for one in cpe.generations.values()}
    assert kept[1].wrapped == kept[2].wrapped == ()


def test_keys_change_by_order_and_the_order_is_answered(lit: Street) -> None:
    lit.world.order_rekey()
    lit.until(lambda: lit.world.completed("rekey-order", POMP) == 1)
    assert lit.active() == (2, 2)
    assert lit.carries(frames(20))


def test_five_key_changes_leave_only_what_is_in_use(lit: Street) -> None:
    for generation in range(2, 7):
        lit.now += 60
        lit.until(partial(_both_hold, lit, {generation}))
    assert lit.active() == (6, 6)
    assert lit.carries(frames(20))


def _both_hold(street: Street, generations: set[int]) -> bool:
    """Old keys go after so many multiframes under the new ones."""
    held = [line.equipment.installed for line in street.lines.values() if line.equipment]
    return [set(installed) for installed in held] == [generations] * 2


@pytest.mark.parametrize("cpe", [CPE_A, CPE_B])
def test_a_device_that_restarts_gets_new_keys_and_never_the_old_ones(lit: Street, cpe: PartyId) -> None:
    lit.restart(cpe)
    began = lit.now
    lit.until(lambda: lit.active() == (2, 2))
    assert lit.now - began < 2 * PATIENCE_S
    lit.greet()
    assert lit.carries(frames(20))
    with lit.world.desk(cpe) as device:
        old = device.generations.require(f"{LINE}/00000001")
    assert (old.wrapped, old.complete) == ((), False)


def test_both_devices_restart_in_the_middle_of_a_key_change(lit: Street) -> None:
    lit.now += 60
    lit.turns(3)
    for cpe in (CPE_A, CPE_B):
        lit.restart(cpe)
    lit.until(lambda: min(lit.active()) > 1)
    lit.greet()
    assert lit.carries(frames(5))


def test_a_far_end_that_is_away_is_waited_for(lit: Street) -> None:
    lit.lines[CPE_B].close()
    node = lit.world.nodes[CPE_A]
    for _ in range(50):
        lit.now += TURN_S
        assert 0 <= lit.lines[CPE_A].idle(node) <= IDLE_S
    lit.world.restart(CPE_B)
    lit.plug_in(CPE_B)
    lit.until(lambda: min(lit.active()) > 1)


# --- its end ----------------------------------------------------------------------------------------------------------


def usage_of(world: World) -> UsageRecord:
    with world.desk(POMP) as pomp:
        record: UsageRecord = pomp.usage.require(LINE)
    return record


def test_a_line_that_is_deleted_stops_and_everything_it_carried_is_in_the_record(lit: Street) -> None:
    lit.now += 60
    lit.until(lambda: lit.active() == (2, 2))
    assert lit.carries(frames(100))
    terminals = {cpe: line.equipment.terminal for cpe, line in lit.lines.items() if line.equipment}
    lit.hosts[CPE_A].send(*frames(10))
    lit.world.begin(POMP, partial(deletion.begin, line=LINE, pmp=PMP, lifetime_us=LIFETIME_US))
    lit.until(lambda: lit.world.line_state() is LineState.DELETED)
    record = usage_of(lit.world)
    for cpe, told in ((CPE_A, record.end_a), (CPE_B, record.end_b)):
        counted = terminals[cpe].counters()
        assert (told.client_bytes_in, told.client_bytes_out) == (counted.client_bytes_in, counted.client_bytes_out)
        assert told.multiframes_sent == counted.multiframes_sent
        assert all(use.complete for use in told.keys)
        under = {**counted.sent_under, **counted.received_under}
        assert {use.key_id: use.frames for use in told.keys} == {key: use.frames for key, use in under.items()}
        assert all(use.frames > 0 for use in told.keys)
    assert record.end_a.client_bytes_in == len(FRAME) + 110 * 200


def test_a_line_that_stopped_carries_nothing_and_sends_nothing(lit: Street) -> None:
    terminals = [line.equipment.terminal for line in lit.lines.values() if line.equipment]
    lit.world.begin(POMP, partial(deletion.begin, line=LINE, pmp=PMP, lifetime_us=LIFETIME_US))
    lit.until(lambda: lit.world.line_state() is LineState.DELETED)
    assert [line.equipment for line in lit.lines.values()] == [None, None]
    sent = [terminal.counters().multiframes_sent for terminal in terminals]
    assert not lit.carries(frames(3))
    assert lit.hosts[CPE_B].received() == []
    assert [terminal.counters().multiframes_sent for terminal in terminals] == sent
    assert {terminal.slot(slot).value for terminal in terminals for slot in (0, 1)} == {"empty"}


def test_counts_of_a_device_that_restarted_are_told_as_a_lower_bound(lit: Street) -> None:
    lit.restart(CPE_B)
    lit.until(lambda: lit.active() == (2, 2))
    lit.world.begin(POMP, partial(deletion.begin, line=LINE, pmp=PMP, lifetime_us=LIFETIME_US))
    lit.until(lambda: lit.world.line_state() is LineState.DELETED)
    record = usage_of(lit.world)
    assert [use.complete for use in record.end_a.keys] == [True] * 4
    assert [use.complete for use in record.end_b.keys] == [False, False, True, True]


# --- what is not for the line -----------------------------------------------------------------------------------------


def test_without_a_line_everything_that_arrives_is_dropped_and_nothing_of_it_comes_later(street: Street) -> None:
    for host in street.hosts.values():
        host.send(*frames(5), bytes(60_000))
    for cpe, line in street.lines.items():
        assert line.idle(street.world.nodes[cpe]) == NO_LINE_S
        assert line.equipment is None
    street.encrypt()
    assert [host.received() for host in street.hosts.values()] == [[], []]
    equipment = street.lines[CPE_A].equipment
    assert equipment is not None
    assert equipment.terminal.counters().client_frames_in == 1


GARBAGE = [b"", b"\0", b"x" * 13, bytes(1000), b"\xff" * (MULTIFRAME_SIZE - 1), bytes(65_507)]


def test_garbage_on_the_fibre_costs_nothing(lit: Street) -> None:
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sections = lit._sections.values()
    a, b = lit.hosts[CPE_A], lit.hosts[CPE_B]
    sent: list[bytes] = []
    for number in range(20):
        for section in sections:
            host, _, port = section.local.partition(":")
            stranger.sendto(GARBAGE[number % len(GARBAGE)], (host, int(port)))
        sent.append(b"%d" % number * 20)
        a.send(sent[-1])
        b.send(sent[-1])
        lit.turns(2)
    lit.turns(20)
    stranger.close()
    assert (b.received(), a.received()) == (sent, sent)
    for line in lit.lines.values():
        assert line.equipment is not None
        assert line.equipment.terminal.alarms() == frozenset()
        assert line.equipment.terminal.counters().missing_multiframes == 0


def test_light_of_a_whole_multiframe_that_is_nobodys_delivers_nothing_and_the_line_recovers(lit: Street) -> None:
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    host, _, port = lit._sections[CPE_B].local.partition(":")
    for light in (bytes(MULTIFRAME_SIZE), lit.world.entropy(MULTIFRAME_SIZE)):
        stranger.sendto(light, (host, int(port)))
        lit.turns(round(1.1 * IDLE_S / TURN_S))  # until the far end has sent something by itself
    stranger.close()
    assert [one.received() for one in lit.hosts.values()] == [[], []]
    lit.greet()
    assert lit.carries(frames(20))


def test_what_is_no_frame_on_the_client_port_is_dropped_and_moves_no_host(lit: Street) -> None:
    stranger = Host(int(lit._sections[CPE_B].client_port.partition(":")[2]))
    stranger.send(b"", b"x" * 13, bytes(9601), bytes(65_507))
    lit.turns(5)
    lit.hosts[CPE_A].send(*frames(5))
    lit.turns(20)
    assert (stranger.received(), lit.hosts[CPE_B].received()) == ([], frames(5))
    equipment = lit.lines[CPE_B].equipment
    assert equipment is not None
    assert equipment.terminal.counters().client_frames_in == 1  # its own host's greeting
    stranger.close()


def test_a_host_that_moves_gets_its_frames_where_it_sent_the_last_one_from(lit: Street) -> None:
    moved = Host(int(lit._sections[CPE_B].client_port.partition(":")[2]))
    moved.send(FRAME)
    lit.turns(10)
    lit.hosts[CPE_A].received()
    lit.hosts[CPE_A].send(*frames(3))
    lit.turns(20)
    assert (moved.received(), lit.hosts[CPE_B].received()) == (frames(3), [])
    moved.close()


def test_a_host_that_sends_into_a_line_without_keys_waits_and_does_not_keep_the_desk_busy(street: Street) -> None:
    """The queue is full, the far end is away: a look at the port costs as little as any other."""
    street.encrypt()
    street.lines[CPE_B].close()
    street.restart(CPE_A)
    line, node = street.lines[CPE_A], street.world.nodes[CPE_A]
    for _ in range(2 * QUEUE_BYTES // 9000 // 20):
        street.hosts[CPE_A].send(*[bytes(9000)] * 20)
        street.now += TURN_S
        line.idle(node)
    assert line.equipment is not None
    assert not line.equipment.encrypting
    pauses = []
    for _ in range(20):
        street.now += TURN_S
        pauses.append(line.idle(node))
    assert min(pauses) > 0


@pytest.mark.parametrize("taken", ["local", "client_port"])
def test_a_port_that_somebody_has_is_told_by_its_address(taken: str) -> None:
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    holder.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{holder.getsockname()[1]}"
    free = [f"127.0.0.1:{port}" for port in free_ports(2)]
    ports = {"local": free[0], "remote": free[0], "client_port": free[1], taken: address}
    with pytest.raises(UsageError, match=address):
        Line(LineSection(**ports))
    holder.close()
