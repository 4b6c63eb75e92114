"""Captures of GFP frames, dissected by tshark."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qsotn.dataplane.capture import IDLE_FRAME, capture, ethernet_frame
from qsotn.dataplane.client_management import management_area
from qsotn.dataplane.clients import client_frames
from qsotn.dataplane.ethernet import with_check_sequence
from qsotn.dataplane.gfp_stream import StreamDemapper, StreamMapper, written
from qsotn.dataplane.gfp_types import (
    ETHERNET_WITHOUT_FCS,
    ExtensionHeader,
    Management,
    TypeField,
    clear_frame,
    payload_area,
)

INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", "tshark")
IPV4 = bytes.fromhex("4500002100010000401166ca 0a000001 0a000002 1389138a 000d0000") + b"hello"
FRAME = bytes.fromhex("020000000002 020000000001 0800") + IPV4 + bytes(46 - len(IPV4))


@pytest.fixture(scope="session")
def tshark() -> str:
    """The program, from Debian's package of that name where it is missing and may be installed."""
    found = shutil.which("tshark")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        settings = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (("apt-get", "update"), INSTALL):
            subprocess.run(command, check=False, capture_output=True, env=settings, timeout=300)
        found = shutil.which("tshark")
    if found is None:
        pytest.skip("tshark is not installed, and cannot be installed here")
    return found


def dissected(tshark: str, folder: Path, frames: list[bytes]) -> list[dict[str, Any]]:
    path = folder / "line.pcapng"
    path.write_bytes(capture([(10**18 + number, frame) for number, frame in enumerate(frames)]))
    command = [tshark, "-n", "-r", str(path), "-T", "json", "-o", "eth.check_fcs:TRUE"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return [packet["_source"]["layers"] for packet in json.loads(shown.stdout)]


def test_everything_a_line_sends_dissects_without_a_complaint(tshark: str, tmp_path: Path) -> None:
    linear = TypeField(extension=ExtensionHeader.LINEAR)
    frames = [
        IDLE_FRAME,
        ethernet_frame(FRAME),
        ethernet_frame(FRAME, ETHERNET_WITHOUT_FCS),
        clear_frame(management_area(Management.LOSS_OF_SIGNAL)),
        clear_frame(management_area(Management.DEFECT_CLEAR)),
        clear_frame(payload_area(linear, with_check_sequence(FRAME), channel=7)),
    ]
    packets = dissected(tshark, tmp_path, frames)
    assert [packet["frame"]["frame.protocols"].split(":data")[0] for packet in packets] == [
        "gfp",
        "gfp:eth:ethertype:ip:udp",
        "gfp:eth:ethertype:ip:udp",
        "gfp",
        "gfp",
        "gfp:eth:ethertype:ip:udp",
    ]
    for packet in packets:
        assert "_ws.expert" not in json.dumps(packet), packet
        assert not [name for name, value in flat(packet) if name.endswith("_bad") and value == "1"]
    assert packets[1]["gfp"]["gfp.fcs_tree"]["gfp.fcs_good"] == "1"
    assert packets[1]["eth"]["eth.fcs.status"] == "1"
    assert packets[3]["gfp"]["gfp.type_tree"]["gfp.upi"] == "0x0001"
    assert packets[5]["gfp"]["gfp.cid"] == "0x07"
    assert packets[5]["gfp"]["gfp.ehec.status"] == "1"


def flat(tree: dict[str, Any]) -> list[tuple[str, Any]]:
    inner = [pair for value in tree.values() if isinstance(value, dict) for pair in flat(value)]
    return [*tree.items(), *inner]


def test_a_damaged_frame_does_not(tshark: str, tmp_path: Path) -> None:
    frame = bytearray(ethernet_frame(FRAME))
    frame[30] ^= 1
    (packet,) = dissected(tshark, tmp_path, [bytes(frame)])
    assert packet["gfp"]["gfp.fcs_tree"]["gfp.fcs_bad"] == "1"
    assert "_ws.expert" in json.dumps(packet)


def test_what_was_mapped_scrambled_and_demapped_is_what_is_captured(tshark: str, tmp_path: Path) -> None:
    mapper, demapper = StreamMapper(), StreamDemapper()
    clients = client_frames([with_check_sequence(FRAME)] * 3)
    stream, taken = mapper.fill(clients, 1000)
    assert taken == 3
    (batch,) = written(demapper, bytes(stream)).clients
    packets = dissected(tshark, tmp_path, [clear_frame(payload_area(TypeField(), client)) for client in batch])
    assert len(packets) == 3
    assert all("_ws.expert" not in json.dumps(packet) for packet in packets)
