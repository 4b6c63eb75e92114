"""Topology files: what is written reads back, what is wrong is said, and the file that ships is what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsotn.app.plan import read_plan
from qsotn.app.topologies import (
    NAMES,
    province_file,
    read_topology,
    reference_text,
    topology_of,
    topology_text,
)
from qsotn.domain import PartyId
from qsotn.errors import UsageError
from qsotn.keynetwork.synthesis import national, province
from qsotn.verbs_topology import topology


def written(folder: Path, text: str) -> Path:
    path = folder / "topology.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "made"), [("national", national().whole), ("backbone", national().backbone), ("province", province())]
)
def test_a_reference_topology_reads_back_as_it_was_made_and_says_that_it_is_synthesised(
    tmp_path: Path, name: str, made: object
) -> None:
    text = reference_text(name)
    assert text.startswith("# SYNTHESISED. ")
    assert read_topology(written(tmp_path, text)) == made


def test_a_link_that_is_down_stays_down(tmp_path: Path) -> None:
    parted = province().without({"jinan-zibo"})
    assert read_topology(written(tmp_path, topology_text(parted, "parted"))) == parted


def test_a_seed_changes_the_national_ones_and_is_told() -> None:
    assert "from seed 7;" in reference_text("backbone", 7)
    assert reference_text("backbone", 7) != reference_text("backbone", 8)


def test_the_province_that_ships_is_what_the_command_writes_and_is_the_topology_s() -> None:
    assert province_file().read_text("utf-8") == reference_text("province-plan")
    plan = read_plan(province_file())
    assert {link.ends for link in topology_of(plan).links} == {link.ends for link in province().links}
    assert topology_of(plan).managers == province().managers
    assert len(plan.devices) == 2 * len(plan.fibres) == 8


def test_the_command_writes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    topology("backbone", 7)
    assert capsys.readouterr().out == reference_text("backbone", 7)


def test_the_command_names_what_there_is() -> None:
    with pytest.raises(UsageError, match="there is no reference topology 'galaxy'; there are ") as caught:
        topology("galaxy")
    assert all(name in str(caught.value) for name in NAMES)


LINK = '[[link]]\nname = "a-b"\nends = ["a", "b"]\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('key_managers = ["a"]\n' + LINK, "topology.toml: link 'a-b' ends at 'km/b'; there are km/a"),
        ('key_managers = ["a", "b"]\n', "topology.toml: no links lead from km/a to km/b"),
        ('key_managers = ["a", "b"]\n' + LINK + "speed = 4\n", "unknown key 'speed'"),
        (LINK, "key_managers"),
    ],
)
def test_a_file_that_is_no_topology_is_refused_with_its_name(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read_topology(written(tmp_path, text))


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    read = read_topology(written(tmp_path, 'key_managers = ["a", "b"]\n' + LINK))
    assert read.managers == (PartyId("km/a"), PartyId("km/b"))
    assert (read.links[0].rate_bits_s, read.links[0].up) == (0, True)
