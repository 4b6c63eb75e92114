"""Keys from somebody else's key managers: used at both ends of a link or at neither, and every one accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.service.interoperation.border import run, seeded
from tests.service.test_twin import ENDS, Rack

from qsotn.adapters.keysource import foreign
from qsotn.adapters.keysource.etsi014 import Etsi014Client
from qsotn.adapters.keysource.foreign import Account, Collecting, Drawing, Drawn, ForeignSource, Totals
from qsotn.app.province import LINK_A
from qsotn.domain import KeyId, Secret
from qsotn.errors import BadProof, LineError, MalformedMessage, Refusal, StoreError
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.parties.km import BlockState
from qsotn.parties.link_totals import totals
from qsotn.service.interoperation import link_feed

MASTER, SLAVE = "sae-here", "sae-there"
KEYS = 128
"""In a block: 126 are left of them for the link."""


def same(keys: Sequence[ReadyKey]) -> Sequence[ReadyKey]:
    return keys


@dataclass
class Kmes:
    """Two foreign key managers; `at` is called at the beginning and the end of each request."""

    waiting: dict[KeyId, ReadyKey] = field(default_factory=dict)
    drawn: int = 0
    at: Callable[[str], None] = lambda _: None
    twist: Callable[[Sequence[ReadyKey]], Sequence[ReadyKey]] = same
    entropy: Callable[[int], bytes] = field(default_factory=lambda: seeded("kme"))

    async def enc_keys(self, slave: str, number: int, size: int) -> Sequence[ReadyKey]:
        assert slave == SLAVE
        self.at("enc begins")
        keys = [self._new(size) for _ in range(number)]
        self.waiting |= {key.key_id: key for key in keys}
        self.at("enc ends")
        return keys

    def _new(self, size: int) -> ReadyKey:
        self.drawn += 1
        return ReadyKey(KeyId(f"key-{self.drawn}"), Secret(self.entropy(size // 8)))

    async def dec_keys(self, master: str, key_ids: Sequence[KeyId], size: int) -> Sequence[ReadyKey]:
        assert (master, size) == (MASTER, 256)
        self.at("dec begins")
        if not all(key_id in self.waiting for key_id in key_ids):
            raise Refusal("KEYS_NOT_FOUND", "one or more keys specified are not found on KME")
        keys = self.twist([self.waiting[key_id] for key_id in key_ids])
        self.at("dec ends")
        return keys


@pytest.fixture
def account(tmp_path: Path) -> Account:
    return Account(tmp_path / "account.json")


def source(kmes: Kmes, account: Account) -> ForeignSource:
    return ForeignSource((MASTER, kmes), (SLAVE, kmes), account)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "PAUSE_S", 0.001)
    monkeypatch.setattr(foreign, "SETTLE_S", 0.02)


def test_the_client_of_etsi_014_fits_both_ends() -> None:
    client = Etsi014Client("https://kme.example", lambda: None)  # type: ignore[arg-type, return-value]  # never opened
    drawing: Drawing = client
    collecting: Collecting = client
    assert {drawing.enc_keys, collecting.dec_keys} == {client.enc_keys, client.dec_keys}


def test_what_is_drawn_becomes_blocks_that_both_key_managers_hold(rack: Rack, account: Account) -> None:
    kmes, entropy = Kmes(), seeded("installer")

    async def wanted() -> int:
        return KEYS if await link_feed.available_bits(rack.ends()) < 3 * 126 * 128 else 0

    async def take(drawn: Drawn) -> int:
        return await link_feed.bring(LINK_A, rack.ends(), [drawn.at_master, drawn.at_slave], entropy)

    async def story() -> None:
        feeding = asyncio.create_task(source(kmes, account).run(wanted, take))
        for _ in range(2000):
            if min(bits for bits, _ in rack.status()) >= 3 * 126 * 128:
                break
            rack.world.pump()
            await asyncio.sleep(0.002)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)

    run(story())
    held = blocks(rack)
    assert held[0] == held[1]
    assert [len(key) for key in held[0].values()] == [126 * 32] * len(held[0])
    assert len(held[0]) >= 3
    assert account.totals == Totals(kmes.drawn, kmes.drawn)
    for party in ENDS:
        with rack.world.desk(party) as km:
            assert totals(km, LINK_A).error_rate is None, "there was no light to measure it by"


def blocks(rack: Rack) -> list[dict[int, bytes]]:
    held = []
    for party in ENDS:
        with rack.world.desk(party) as km:
            found = [block for block in km.blocks.values(f"{LINK_A}/") if block.state is BlockState.AVAILABLE]
            held.append({block.number: km._whole(block).reveal() for block in found})
    return held


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("served", [False, True], ids=["not served", "served without an answer"])
def test_a_block_that_reaches_one_end_alone_is_used_by_none(
    rack: Rack, account: Account, end: Any, served: bool
) -> None:
    def first(party: Any, what: str, times: int) -> bool:
        return (party, what, times) == (end, "blocks", 1)

    if served:
        rack.lost_answers = first
    else:
        rack.lost = first

    async def take(drawn: Drawn) -> int:
        copies = [drawn.at_master, drawn.at_slave]
        return await link_feed.bring(LINK_A, rack.ends(), copies, seeded("installer"))

    async def story() -> None:
        drawing = source(Kmes(), account)
        with pytest.raises(link_feed.HalfBrought):
            await drawing.once(KEYS, take)
        await drawing.once(KEYS, take)

    run(story())
    for _ in range(20):
        rack.world.pump()
    held = blocks(rack)
    assert held[0] == held[1]
    assert 2 in held[0]
    assert account.totals == Totals(2 * KEYS, KEYS, KEYS)


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["enc begins", "enc ends", "dec begins", "dec ends", "take begins", "take ends"])
def test_a_process_killed_at_any_moment_loses_what_was_under_way_and_uses_it_nowhere(
    account: Account, tmp_path: Path, moment: str
) -> None:
    on_disk: list[bytes] = []
    taken: list[Drawn] = []

    def at(what: str) -> None:
        if what == moment and not on_disk:
            on_disk.append((tmp_path / "account.json").read_bytes())
            raise LineError("this is where it was killed")

    kmes = Kmes()

    async def take(drawn: Drawn) -> None:
        kmes.at("take begins")
        taken.append(drawn)
        kmes.at("take ends")

    async def story() -> None:
        killed = source(kmes, account)
        await killed.once(3, take)
        kmes.at = at
        attempts, foreign_attempts = foreign.ATTEMPTS, 1
        foreign.ATTEMPTS = foreign_attempts  # type: ignore[misc]  # a kill is not tried again
        try:
            with pytest.raises(LineError):
                await killed.once(2, take)
        finally:
            foreign.ATTEMPTS = attempts  # type: ignore[misc]
        (tmp_path / "account.json").write_bytes(on_disk[0])
        again = Account(tmp_path / "account.json")
        assert again.totals == Totals(drawn=5, handed_over=3, lost=2)
        await source(kmes, again).once(4, take)
        assert again.totals == Totals(drawn=9, handed_over=7, lost=2)

    run(story())
    used = [key_id for drawn in taken for key_id in drawn.key_ids]
    assert len(used) == len(set(used))


def test_an_answer_that_was_lost_is_asked_for_again_before_the_keys_are_given_up(account: Account) -> None:
    lost: list[str] = []

    def at(what: str) -> None:
        if what == "dec ends" and len(lost) < 2:
            lost.append(what)
            raise LineError("the answer was lost")

    taken: list[Drawn] = []

    async def take(drawn: Drawn) -> None:
        taken.append(drawn)

    run(source(Kmes(at=at), account).once(3, take))
    assert len(taken) == 1
    assert account.totals == Totals(3, 3)


# --- hostile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("twist", "error"),
    [
        (lambda keys: [ReadyKey(keys[0].key_id, Secret(bytes(32))), *keys[1:]], BadProof),
        (lambda keys: keys[::-1], BadProof),
        (lambda keys: keys[:-1], BadProof),
    ],
)
def test_keys_that_differ_at_the_two_ends_are_used_at_none(account: Account, twist: Any, error: type) -> None:
    async def take(_: Drawn) -> None:
        pytest.fail("these keys are no common ones")

    with pytest.raises(error):
        run(source(Kmes(twist=twist), account).once(3, take))
    assert account.totals == Totals(3, 0, 3)


def test_a_key_that_is_given_a_second_time_is_not_used_again(account: Account) -> None:
    kmes = Kmes()

    async def take(_: Drawn) -> None:
        pass

    async def story() -> None:
        drawing = source(kmes, account)
        await drawing.once(3, take)
        kmes.drawn = 2
        with pytest.raises(BadProof, match="key-3 a second time"):
            await drawing.once(3, take)

    run(story())
    assert account.totals == Totals(6, 3, 3)


def test_trouble_at_a_key_manager_ends_nothing_and_an_account_that_cannot_be_kept_ends_all(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    taken: list[Drawn] = []

    def at(what: str) -> None:
        if what == "enc begins" and len(refused) < 3:
            refused.append(what)
            raise (LineError("away"), Refusal("BAD_REQUEST", "no"), MalformedMessage("strange"))[len(refused) - 1]

    async def take(drawn: Drawn) -> None:
        taken.append(drawn)
        monkeypatch.setattr(account, "_path", tmp_path / "nowhere" / "account.json")

    async def wanted() -> int:
        return 2

    with pytest.raises(StoreError, match="cannot be written"):
        run(source(Kmes(at=at), account).run(wanted, take))
    assert len(taken) == 1
    assert len(refused) == 3


def test_an_account_that_is_none_is_not_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "account.json").write_text("{")
    with pytest.raises(StoreError, match="no account"):
        Account(tmp_path / "account.json")


def test_the_account_has_no_key(account: Account, tmp_path: Path) -> None:
    kmes = Kmes()

    async def take(drawn: Drawn) -> None:
        content = (tmp_path / "account.json").read_bytes()
        assert b"key-1" in content
        for key in kmes.waiting.values():
            assert key.key.reveal() not in content
            assert key.key.reveal().hex().encode() not in content

    run(source(kmes, account).once(2, take))
