"""Blocks in files: taken once by both ends, or put aside with the reason."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from tests.service.interoperation.border import run, seeded
from tests.service.interoperation.raw_files import raw_file
from tests.service.interoperation.test_foreign_source import blocks
from tests.service.test_twin import ENDS, Rack

from qsotn.app.province import LINK_A
from qsotn.domain import Secret
from qsotn.errors import LineError, MalformedMessage, StoreError
from qsotn.service.interoperation import link_feed
from qsotn.service.interoperation.device_files import LARGEST_FILE, read_block
from qsotn.service.interoperation.ingestion import REFUSED, TAKEN, Ingestion, Register
from qsotn.service.interoperation.link_feed import HalfBrought

KEYS = [(f"key-{number}", seeded(f"key-{number}")(32)) for number in range(8)]
MATERIAL = b"".join(key for _, key in KEYS)
NAME = "block-1.json"


def container(keys: Sequence[tuple[str, bytes]] = KEYS) -> bytes:
    found = [{"key_ID": key_id, "key": base64.b64encode(key).decode()} for key_id, key in keys]
    return json.dumps({"keys": found}).encode()


def lines(keys: Sequence[tuple[str, bytes]] = KEYS) -> bytes:
    one = [json.dumps({"key_ID": key_id, "key": base64.b64encode(key).decode()}) for key_id, key in keys]
    return "\n".join([*one, ""]).encode()


def table(keys: Sequence[tuple[str, bytes]] = KEYS) -> bytes:
    return "\r\n".join(["key_ID,key", *(f"{key_id},{key.hex()}" for key_id, key in keys), ""]).encode()


class Site:
    """Both folders, a register, and two ends that take what is brought."""

    def __init__(self, folder: Path) -> None:
        self.folders = (folder / "one", folder / "other")
        for each in self.folders:
            each.mkdir()
        self.path = folder / "register"
        self.brought: list[tuple[bytes, ...]] = []
        self.fails: Callable[[str], None] = lambda _: None
        self.begin()

    def begin(self) -> None:
        self.register = Register(self.path)
        self.ingestion = Ingestion(self.folders, self.register, self.bring)

    async def bring(self, copies: Sequence[Secret], depositing: Callable[[], None]) -> int:
        self.fails("before")
        depositing()
        self.fails("noted")
        self.brought.append(tuple(copy.reveal() for copy in copies))
        self.fails("deposited")
        return len(self.brought)

    def put(self, name: str = NAME, one: bytes | None = None, other: bytes | None = None) -> None:
        for folder, content in zip(self.folders, (one, other if other is not None else one), strict=True):
            (folder / name).write_bytes(container() if content is None else content)

    def round(self) -> int:
        return run(self.ingestion.round())

    def left(self) -> list[list[str]]:
        return [sorted(path.name for path in folder.iterdir() if path.name != REFUSED) for folder in self.folders]

    def reasons(self) -> list[str]:
        found = [path for folder in self.folders for path in sorted((folder / REFUSED).glob("*.reason"))]
        return [path.read_text() for path in found]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class Killed(BaseException):
    """The process ended here."""


# --- well -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.json", container()),
        ("b.jsonl", lines()),
        ("b.csv", table()),
        ("b.bin", raw_file(7, Secret(MATERIAL))),
    ],
)
def test_a_block_in_each_format_is_brought_to_both_ends_once_and_its_files_are_gone(
    site: Site, name: str, content: bytes
) -> None:
    site.put(name, content)
    assert (site.round(), site.round()) == (1, 0)
    assert site.brought == [(MATERIAL, MATERIAL)]
    assert site.left() == [[], []]
    assert (site.register.brought_bits, site.register.lost_bits) == (len(MATERIAL) * 8, 0)
    assert not site.reasons()


def test_a_file_is_waited_for_until_it_is_complete_and_at_both_ends(site: Site) -> None:
    (site.folders[0] / NAME).write_bytes(container())
    (site.folders[1] / f".{NAME}").write_bytes(container()[:100])
    assert site.round() == 0
    (site.folders[1] / f".{NAME}").write_bytes(container())
    (site.folders[1] / f".{NAME}").rename(site.folders[1] / NAME)
    assert site.round() == 1


def test_files_are_overwritten_before_they_are_removed(site: Site, tmp_path: Path) -> None:
    site.put()
    os.link(site.folders[0] / NAME, tmp_path / "another name of the same file")
    site.round()
    assert not any((tmp_path / "another name of the same file").read_bytes())


def test_ingested_blocks_are_blocks_of_the_link(rack: Rack, site: Site) -> None:
    async def bring(copies: Sequence[Secret], depositing: Callable[[], None]) -> int:
        return await link_feed.bring(LINK_A, rack.ends(), copies, seeded("installer"), depositing)

    site.ingestion = Ingestion(site.folders, site.register, bring)
    site.put()
    site.put("block-2.bin", raw_file(2, Secret(seeded("second")(4096))))
    assert site.round() == 2
    for _ in range(20):
        rack.world.pump()
    held = blocks(rack)
    assert held[0] == held[1] == {1: MATERIAL[64:], 2: seeded("second")(4096)[64:]}


def test_a_key_manager_that_is_away_costs_nothing_but_time(rack: Rack, site: Site) -> None:
    async def bring(copies: Sequence[Secret], depositing: Callable[[], None]) -> int:
        return await link_feed.bring(LINK_A, rack.ends(), copies, seeded("installer"), depositing)

    site.ingestion = Ingestion(site.folders, site.register, bring)
    site.put()
    for what in ("first-keys", "exchanges"):
        rack.lost = lambda party, asked, _, what=what: asked == what and party == ENDS[1]  # type: ignore[misc]
        with pytest.raises(LineError):
            site.round()
        assert site.left() == [[NAME], [NAME]]
        assert not site.register.lost_bits
    rack.lost = lambda *_: False
    assert site.round() == 1


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("moment", "brought"), [("before", 1), ("noted", 0), ("deposited", 1)])
def test_a_kill_at_any_moment_brings_no_block_twice(site: Site, moment: str, brought: int) -> None:
    def killed(what: str) -> None:
        if what == moment:
            raise Killed

    site.put()
    site.fails = killed
    with pytest.raises(Killed):
        site.round()
    site.fails = lambda _: None
    site.begin()
    site.ingestion.tidy()
    site.round()
    assert len(site.brought) == brought
    assert site.left() == [[], []]
    lost = len(MATERIAL) * 8 if moment != "before" else 0
    assert site.register.lost_bits == lost
    assert site.reasons() == [TAKEN + "\n"] * (2 if lost else 0)
    site.put("under-another-name.csv", table())
    assert site.round() == 0
    assert len(site.brought) == brought


@pytest.mark.parametrize("removed", [0, 1])
def test_a_kill_between_the_removal_of_both_files_leaves_no_bits_in_use_behind(site: Site, removed: int) -> None:
    site.put()
    site.round()
    (site.folders[1 - removed] / NAME).write_bytes(container())
    site.begin()
    site.ingestion.tidy()
    assert site.left() == [[], []]
    assert not list((site.folders[1 - removed] / REFUSED).glob("*.json")), "only the reason is kept"


def test_a_block_that_reached_one_end_alone_is_lost_and_said_to_be(site: Site) -> None:
    def halfway(what: str) -> None:
        if what == "deposited":
            raise HalfBrought("block 1 did not reach both ends")

    site.put()
    site.fails = halfway
    assert site.round() == 0
    assert site.register.lost_bits == len(MATERIAL) * 8
    assert all("its bits are not used" in reason for reason in site.reasons())
    assert site.left() == [[], []]


def test_a_register_whose_last_line_was_torn_off_goes_on_and_a_damaged_one_does_not(site: Site) -> None:
    site.put()
    site.round()
    whole = site.path.read_bytes()
    site.path.write_bytes(whole + b'{"fingerprint": "abc')
    site.begin()
    assert site.path.read_bytes() == whole
    assert site.register.brought_bits == len(MATERIAL) * 8
    site.path.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(StoreError):
        site.begin()


def test_a_register_tells_nothing_of_keys(site: Site) -> None:
    site.put()
    site.round()
    for _, key in KEYS:
        assert key not in site.path.read_bytes()
        assert key.hex().encode() not in site.path.read_bytes()


# --- hostile ----------------------------------------------------------------------------------------------------------

WEAK = [(key_id, bytes(32)) if key_id == "key-3" else (key_id, key) for key_id, key in KEYS]
TWICE = [*KEYS[:-1], KEYS[0]]
ONE_KEY = [*KEYS[:-1], ("key-x", KEYS[0][1])]
RAW = raw_file(7, Secret(MATERIAL))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.json", b"", "no JSON"),
        ("b.json", container()[:-1], "no JSON"),
        ("b.json", b'{"keys": []}', "0 keys"),
        ("b.json", b'{"keys": "none"}', "not of the expected form"),
        ("b.json", container(WEAK), "one byte over and over"),
        ("b.json", container(TWICE), "one ID"),
        ("b.json", container(ONE_KEY), "two IDs have one key"),
        ("b.json", container(KEYS[:2]), "64 bytes"),
        ("b.json", container()[:-1] + b', "keys": []}', "two members of one name"),
        ("b.jsonl", lines()[:-20], "line 8"),
        ("b.jsonl", lines() + b"\n\n", "line 9"),
        ("b.csv", table()[1:], "heading"),
        ("b.csv", table().replace(b"key-3,", b"key-3,0"), "line 5: the key is not in hexadecimal"),
        ("b.csv", table() + b"key-9\r\n", "line 10 has 1 fields"),
        ("b.csv", b'key_ID,key\r\n"', "no CSV"),
        ("b.csv", b"\xff\xfe", "no CSV"),
        ("b.bin", RAW[:40], "the header alone"),
        ("b.bin", RAW[:-1], "announces"),
        ("b.bin", RAW[:-1] + b"\0", "SHA-256"),
        ("b.bin", b"X" + RAW[1:], "not that of QKDBLOCK"),
        ("b.bin", raw_file(1, Secret(bytes(4096))), "one byte over and over"),
        ("b.bin", raw_file(1, Secret(seeded("large")(40 * 1024 + 65))), "41025 bytes"),
        ("b.bin", bytes(LARGEST_FILE + 1), "more than"),
        ("b.exe", container(), "ends in none of"),
        ("noname", container(), "ends in none of"),
    ],
)
def test_a_bad_file_is_put_aside_with_the_reason_and_nothing_of_it_is_taken(
    site: Site, name: str, content: bytes, said: str
) -> None:
    site.put(name, content, container() if name == "b.json" else content)
    assert site.round() == 0
    assert not site.brought
    assert site.left() == [[], []]
    assert len(site.reasons()) == 2
    assert all(said in reason for reason in site.reasons())
    assert (site.folders[0] / REFUSED / name).read_bytes() == content
    assert (site.folders[0] / REFUSED).stat().st_mode & 0o777 == 0o700
    assert not any(key.hex() in reason for _, key in KEYS for reason in site.reasons())
    site.put()
    assert site.round() == 1, "what is in order is taken beside it"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (container(KEYS[::-1]), "name different keys"),
        (container([*KEYS[:-1], ("key-7", seeded("else")(32))]), "different bits"),
    ],
)
def test_ends_that_were_given_different_blocks_take_none(site: Site, other: bytes, said: str) -> None:
    site.put(NAME, container(), other)
    assert site.round() == 0
    assert all(said in reason for reason in site.reasons())
    assert not site.brought


def test_a_name_that_leads_elsewhere_or_is_no_file_is_not_followed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(container())
    for folder in site.folders:
        (folder / "link.json").symlink_to(tmp_path / "secret")
        (folder / "folder.json").mkdir()
        os.mkfifo(folder / "pipe.json")
    assert site.round() == 0
    assert (tmp_path / "secret").read_bytes() == container()
    assert len(site.reasons()) == 6


@pytest.mark.parametrize("name", ["with space.json", "a" * 250 + ".json", "new\nline.json", "ünïcode.json", "-" * 101])
def test_a_strange_name_is_put_aside_under_another(site: Site, name: str) -> None:
    (site.folders[0] / name).write_bytes(container())
    assert site.round() == 0
    assert site.left() == [[], []]
    assert "a name has letters" in site.reasons()[0]


def test_two_bad_files_of_one_name_are_both_kept(site: Site) -> None:
    for content in (b"first", b"second"):
        site.put("b.json", content)
        site.round()
    kept = sorted(path.read_bytes() for path in (site.folders[0] / REFUSED).glob("b.json*") if path.suffix != ".reason")
    assert kept == [b"first", b"second"]


def test_a_block_shows_no_bits(site: Site) -> None:
    block = read_block(NAME, container())
    assert repr(MATERIAL)[2:20] not in repr(block)
    with pytest.raises(MalformedMessage):
        run(link_feed.bring(LINK_A, (), [Secret(bytes(95))], seeded("x")))
    msgspec.json.encode(block.fingerprint)
