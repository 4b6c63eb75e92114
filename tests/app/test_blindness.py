"""Who must not see a key has not seen one: a scan of a whole run for every secret that existed in it.

Every `Secret` of 16 octets or more is noted as it comes into being (key blocks, key-file entries, session keys, HPKE's
and the key file's derived keys, traffic keys, identities), and looked for in all that left a party: datagrams, the
fibre, every store's file with its write-ahead log, log records and representations; raw, in hexadecimal and in base64.
"""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.world import Sent, World, Worlds, deposit, whole_story

from qsotn import wire
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.app import links
from qsotn.app.province import CPE_A, CPE_B, LINE, LINK_A, LINK_B, PARTIES, PMP, party_folder
from qsotn.app.report import keys_used, steps_taken, usage_record
from qsotn.app.trace import trace_key
from qsotn.domain import Direction, KeyId, Secret
from qsotn.interfaces import AX, IAQ, IQSSP

SHORTEST = 16
PROBE = 12
"""Octets of a secret (or of its encoding) by which it is found: its first, and its last."""
MARKER = b"client plaintext of one customer, in 64 recognisable octets.... "


class Secrets:
    """Every secret that came into being, and the search for them."""

    def __init__(self) -> None:
        self.noted: set[bytes] = set()

    def note(self, material: bytes) -> None:
        if len(material) >= SHORTEST and len(set(material)) > 4:
            self.noted.add(material)

    def _forms(self) -> Iterator[bytes]:
        for secret in self.noted:
            for part in (secret[:SHORTEST], secret[-SHORTEST:]):
                yield part[:PROBE]
                yield part.hex().encode()[:PROBE]
                yield part.hex().upper().encode()[:PROBE]
            for shift in range(3):  # where in a longer base64 text it would stand
                text = base64.b64encode(bytes(shift) + secret)
                yield text[4 if shift else 0 :][:PROBE]

    def found_in(self, data: bytes) -> list[bytes]:
        """The forms that occur in some bytes: by their first eight octets at every offset, then in full."""
        forms = sorted(set(self._forms()))
        if len(data) < PROBE:
            return []
        heads = np.unique(np.array([int.from_bytes(form[:8], "little") for form in forms], np.uint64))
        hits: set[int] = set()
        for shift in range(8):
            words = np.frombuffer(data, np.uint64, (len(data) - shift) // 8, shift)
            hits.update((np.flatnonzero(np.isin(words, heads)) * 8 + shift).tolist())
        known = set(forms)
        return [data[at : at + PROBE] for at in sorted(hits) if data[at : at + PROBE] in known]


@pytest.fixture(scope="module")
def secrets() -> Iterator[Secrets]:
    noted, make = Secrets(), Secret.__init__

    def noting(self: Secret, material: bytes | bytearray | memoryview) -> None:
        make(self, material)
        noted.note(bytes(material))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Secret, "__init__", noting)
        yield noted


class Observed:
    """One whole run with traffic, and everything that left anybody in it."""

    def __init__(self, world: World, secrets: Secrets) -> None:
        self.world = world
        self.secrets = secrets
        self.fibre: list[bytes] = []
        world.fibre.tap(lambda _, chunk: self.fibre.append(chunk))
        for number, link in enumerate((LINK_A, LINK_B), 2):
            deposit(world, link, number)
        links.install_links(world.province, world.entropy)
        self.log = _logged(lambda: whole_story(world))
        assert world.line is not None
        self.arrived = b"".join(world.line.b.terminal.deliver())

    def datagrams(self, wanted: Callable[[Sent], bool]) -> bytes:
        return b"\0".join(sent.data for sent in self.world.wire.sent if wanted(sent))

    def stores(self) -> Iterator[tuple[str, bytes]]:
        for party in PARTIES:
            for path in sorted(party_folder(self.world.folder, party).iterdir()):
                if path.name != "module.key":  # the key-encryption key of the embedded module itself
                    yield f"{party} {path.name}", path.read_bytes()


def _logged(act: Callable[[], None]) -> str:
    """What everybody logged meanwhile, at any level."""
    log, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(log), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        act()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return log.getvalue()


@pytest.fixture(scope="module")
def observed(worlds: Worlds, secrets: Secrets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Tests look at it, and change nothing."""
    world = worlds.begin(worlds.provisioned, tmp_path_factory.mktemp("observed") / "world")
    send = world.fibre.send

    def carry(direction: Direction, data: bytes) -> None:
        send(direction, data)
        if world.line is not None and direction is Direction.A_TO_B:
            world.line.a.terminal.offer(MARKER * 8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.fibre, "send", carry)
        yield Observed(world, secrets)
    world.close()


def test_no_secret_is_in_anything_that_left_a_party(observed: Observed) -> None:
    found = observed.secrets.found_in
    assert len(observed.secrets.noted) > 500
    assert found(observed.datagrams(lambda _: True)) == []
    assert found(observed.datagrams(lambda sent: sent.hop == PMP)) == []
    assert found(b"\0".join(observed.fibre)) == []
    assert found(observed.log.encode()) == []


def test_no_secret_is_in_any_store_file_or_its_log(observed: Observed) -> None:
    names = []
    for name, content in observed.stores():
        assert observed.secrets.found_in(content) == [], name
        names.append(name)
    assert "pmp/shandong store.db" in names
    assert any(name.endswith("-wal") for name in names)


def test_what_existed_in_the_run_is_among_what_is_looked_for(observed: Observed) -> None:
    """Key-file entries at their ends, as they were before they were burned, and the vaults' own keys."""
    for party in (CPE_A, CPE_B):
        with observed.world.desk(party) as device:
            (file,) = device.key_files.values()
            places = [(n, blob) for n, blob in enumerate(file.entries) if blob]
            assert len(places) == 62
            for n, blob in places:
                entry = device.desk.vault.unwrap(blob, f"key-file/{file.key_file_id}/{n}".encode())
                assert entry.reveal() in observed.secrets.noted
        module = (party_folder(observed.world.folder, party) / "module.key").read_bytes()
        assert module in observed.secrets.noted


def test_the_interfaces_of_the_pmp_carried_something_to_look_at(observed: Observed) -> None:
    for interface in (AX, IQSSP, IAQ):
        sent = observed.datagrams(lambda one, name=interface.name: wire.unpack(one.data).interface == name)  # type: ignore[misc]
        assert len(sent) > 10_000
    assert len(b"".join(observed.fibre)) > 1_000_000


@pytest.mark.parametrize("form", ["raw", "hexadecimal", "base64", "base64 within a text", "its end"])
def test_one_leak_is_found(secrets: Secrets, form: str) -> None:
    """The scan itself: one planted session key among a megabyte of noise."""
    key = Secret(bytes(range(100, 132))).reveal()
    planted = {
        "raw": key,
        "hexadecimal": key.hex().encode(),
        "base64": base64.b64encode(key),
        "base64 within a text": base64.b64encode(b"x" + key + b"yz"),
        "its end": key[-SHORTEST:],
    }[form]
    noise = np.random.default_rng(1).bytes(1 << 20)
    assert secrets.found_in(noise) == []
    assert secrets.found_in(noise[:77_777] + planted + noise[77_777:])


def test_a_leak_of_one_stored_key_is_found_in_the_store_file(observed: Observed, tmp_path: Path) -> None:
    with observed.world.desk(CPE_A) as device:
        (file,) = device.key_files.values()
        entry = device.desk.vault.unwrap(file.entries[-1], f"key-file/{file.key_file_id}/63".encode())
    store = SqliteStore(tmp_path / "store.db")
    with store.transaction() as transaction:
        transaction.put("leak", "1", entry.reveal())
    store.close()
    assert observed.secrets.found_in((tmp_path / "store.db").read_bytes())


def test_no_client_octet_is_on_the_fibre(observed: Observed) -> None:
    fibre = b"".join(observed.fibre)
    assert observed.arrived.count(MARKER) > 50
    for at in range(0, len(MARKER), 8):
        assert MARKER[at : at + 16] not in fibre


def test_reports_and_traces_show_ids_and_never_keys(observed: Observed) -> None:
    province, found = observed.world.province, observed.secrets.found_in
    record = usage_record(province)
    used = keys_used(province, record)
    shown: list[object] = [record, *used]
    shown += [trace_key(province, KeyId(one.key_id)) for one in used]
    shown += [steps_taken(province, row.procedure) for row in observed.world.rows(PARTIES[0])]
    for one in shown:
        assert found(msgspec.json.encode(one)) == []
        assert found(repr(one).encode()) == []
    assert LINE in repr(record)


def test_representations_of_parties_rows_and_messages_show_no_key(observed: Observed) -> None:
    world, found = observed.world, observed.secrets.found_in
    shown = [repr(node) + repr(node.identity) + repr(vars(node)) for node in world.nodes.values()]
    shown += [repr(row) for party in PARTIES for row in world.rows(party)]
    for sent in world.wire.sent:
        if wire.unpack(sent.data).receiver == sent.hop:
            received = world.opened(sent.data)
            shown += [repr(received.envelope), repr(received.message)]
    text = "\n".join(shown)
    assert found(text.encode()) == []
    assert found(_unescaped(text)) == []


def _unescaped(text: str) -> bytes:
    r"""The octets that `\xNN` in a representation stand for."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())


def test_the_folder_of_a_party_is_for_its_owner_alone(observed: Observed) -> None:
    for party in PARTIES:
        place: Path = party_folder(observed.world.folder, party)
        assert place.stat().st_mode & 0o077 == 0
        assert (place / "module.key").stat().st_mode & 0o077 == 0
