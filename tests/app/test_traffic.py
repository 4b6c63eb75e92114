"""A file on its way over a line: what is lost is sent again; a rekey nobody planned does not hold it up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.world import LIFETIME_US, World

from qsotn.app import traffic
from qsotn.app.client import ReceivingHost, SendingHost
from qsotn.app.province import CPE_A, CPE_B, LINE
from qsotn.app.traffic import Transfer
from qsotn.dataplane.line import flip
from qsotn.domain import Direction
from qsotn.errors import LineError
from qsotn.procedures import leased_line

INTERVAL_US = 60 * 1_000_000


class Way:
    """A transfer of one file over a world's line."""

    def __init__(self, world: World, folder: Path, content: bytes) -> None:
        assert world.line is not None
        source, self.target = folder / "source", folder / "target"
        source.write_bytes(content)
        self.sender, self.receiver = SendingHost(source, len(content), 0), ReceivingHost(self.target, 0)
        self.saved: list[int] = []
        self.transfer = Transfer(
            world.line,
            self.sender,
            self.receiver,
            INTERVAL_US,
            self._clock(world),
            self.saved.append,
            lambda _received, _rekeys: None,
        )

    @staticmethod
    def _clock(world: World) -> Callable[[], int]:
        def tell() -> int:
            world.clock.advance(10)
            return world.clock()

        return tell

    def run(self) -> bytes:
        """Carry the file; return what arrived."""
        try:
            self.transfer.run()
        finally:
            self.sender.close()
            self.receiver.close()
        return self.target.read_bytes()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "STALLED_TURNS", 1500)


@pytest.fixture
def content(encrypted: World) -> bytes:
    return encrypted.entropy(200_000)


def test_a_file_arrives_and_the_keys_changed_twice_on_the_way(encrypted: World, tmp_path: Path, content: bytes) -> None:
    way = Way(encrypted, tmp_path, content)
    assert way.run() == content
    assert encrypted.completed("rekey", CPE_A) == 2
    assert way.saved[-1] == len(content)


def test_what_the_fibre_damages_or_swallows_is_sent_again(encrypted: World, tmp_path: Path, content: bytes) -> None:
    chunks = 0

    def damage(chunk: bytes) -> tuple[bytes, ...]:
        nonlocal chunks
        chunks += 1
        if chunks % 7 == 3:
            return (bytes(len(chunk)),)
        return (flip(chunk, 100_000),) if chunks % 7 == 5 else (chunk,)

    encrypted.fibre.impair(Direction.A_TO_B, damage)
    assert Way(encrypted, tmp_path, content).run() == content


def test_a_cut_fibre_ends_the_transfer_and_says_why(encrypted: World, tmp_path: Path, content: bytes) -> None:
    encrypted.fibre.cut(Direction.A_TO_B)
    with pytest.raises(LineError, match=r"line-1 carried nothing for 1500 turns: alarms .*0 of 200000 bytes arrived"):
        Way(encrypted, tmp_path, content).run()


DELIVERED, ASKED = "after it was delivered", "before it was delivered"


@pytest.mark.parametrize(
    ("lost", "earlier"),
    [
        (ASKED, 0),
        (ASKED, 1),
        (DELIVERED, 0),
        (DELIVERED, 1),
        (DELIVERED, 2),
    ],
)
def test_a_rekey_whose_keys_a_restart_lost_does_not_hold_the_transfer_up(
    encrypted: World, tmp_path: Path, content: bytes, lost: str, earlier: int
) -> None:
    """Both devices restart with a rekey under way; end A finds the line dark and asks for keys by itself."""
    for _ in range(earlier):
        encrypted.rekey()
    for _ in range(30):  # the generation before the last is erased, so that its slot is free for the next
        encrypted.turn()
    encrypted.begin(CPE_A, partial(leased_line.begin_rekey, line=LINE, lifetime_us=LIFETIME_US))
    assert encrypted.line is not None
    if lost == DELIVERED:
        encrypted.settle()
        encrypted.line.a.take_keys()
        encrypted.line.b.take_keys()
    for cpe in (CPE_A, CPE_B):
        encrypted.restart(cpe)
    assert Way(encrypted, tmp_path, content).run() == content
    assert encrypted.completed("rekey", CPE_A) >= 2
