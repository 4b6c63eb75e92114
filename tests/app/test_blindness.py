"""What the PMP, the courier, every wire and the fibre ever saw, and what every store keeps: none of it holds a key.

Every secret that comes into being anywhere in the run is noted as it is made; then everything that was sent, carried
or stored is searched for each of them, raw, in hexadecimal and in base64."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.world import World

from qsotn.app.province import CPE_A, CPE_B, PARTIES
from qsotn.domain import Secret

SHORTEST_KEY = 16
MARKER = b"client plaintext that must not leave the CPE in clear " * 20


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Fills with the material of every `Secret` of a key's length that is made from now on."""
    made: set[bytes] = set()
    original = Secret.__init__

    def noted(self: Secret, material: bytes | bytearray | memoryview) -> None:
        original(self, material)
        if SHORTEST_KEY <= len(material) <= 4096:
            made.add(bytes(material))

    monkeypatch.setattr(Secret, "__init__", noted)
    return made


def forms(secret: bytes) -> Iterator[bytes]:
    """A secret as it might be written somewhere. Base64 is searched without the characters that depend on its place."""
    yield secret
    yield secret.hex().encode()
    for shift in range(3):
        yield base64.b64encode(bytes(shift) + secret)[4:-4]


def found(secrets: set[bytes], haystack: bytes) -> list[bytes]:
    """Return the secrets that occur in the haystack in any form."""
    return [secret for secret in secrets if any(form in haystack for form in forms(secret))]


def files_of(folder: Path) -> bytes:
    """Everything in the parties' folders, but for the file that holds the key-encryption key of the embedded module."""
    return b"\n".join(
        path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "module.key"
    )


def run(world: World) -> bytearray:
    """A whole life with traffic; returns every byte that the fibre carried."""
    fibre = bytearray()
    world.fibre.tap(lambda _direction, data: fibre.extend(data))
    for cpe in (CPE_A, CPE_B):
        world.initialize(cpe)
    world.settle()
    world.order_line()
    world.settle()
    world.connect()
    assert world.line is not None
    for _ in range(5):
        assert world.line.a.terminal.offer(bytes(14) + MARKER)  # waits until the line is encrypted
    world.encrypt()
    world.rekey()
    assert world.line.b.terminal.deliver() == [bytes(14) + MARKER] * 5
    world.delete()
    return fibre


def test_no_key_is_seen_by_the_courier_the_wires_the_fibre_or_the_disk(
    secrets: set[bytes], open_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = open_world("provisioned")
    fibre = run(world)
    wires = b"\n".join(sent.data for sent in world.wire.sent)
    seen = {
        "the wires": wires,
        "the fibre": bytes(fibre),
        "the disk": files_of(world.folder),
        "the log": caplog.text.encode(),
        "the nodes": repr([(party, vars(world.nodes[party])) for party in PARTIES]).encode(),
    }
    assert len(secrets) > 200
    for where, haystack in seen.items():
        assert found(secrets, haystack) == [], f"{where} held a secret"
    assert MARKER[:40] not in fibre
    assert MARKER[:40] not in wires


@pytest.mark.parametrize("form", [0, 1, 2, 3, 4])
def test_the_search_finds_what_is_there(form: int) -> None:
    secret = bytes(range(32))
    shown = list(forms(secret))[form]
    assert found({secret}, b"noise" + shown + b"noise") == [secret]


def test_a_planted_leak_is_found(secrets: set[bytes], ready: World) -> None:
    with ready.desk(CPE_A) as cpe:
        entry = cpe.burn_entry(cpe.own_binding().key_file_id, 0)
        cpe.desk.transaction.put("leak", "one", base64.b64encode(entry.reveal()))
    assert entry.reveal() in found(secrets, files_of(ready.folder))
