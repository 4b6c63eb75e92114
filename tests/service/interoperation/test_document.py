"""docs/interoperation.md: its configurations are read by the loaders, its table has every key."""

from __future__ import annotations

import re
from pathlib import Path

from tests.deployment.test_operations import keys

from qsotn.service.config import load_configuration
from qsotn.service.source_config import SourceConfiguration, load_sources

TEXT = (Path(__file__).parents[3] / "docs" / "interoperation.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- ([^>]+) -->\n```toml\n(.*?)```", TEXT, re.DOTALL))


def written(folder: Path, text: str) -> Path:
    path = folder / "service.toml"
    path.write_text(text)
    return path


def test_a_key_manager_at_the_border_is_configured_as_the_document_says(tmp_path: Path) -> None:
    found = load_configuration(written(tmp_path, EXAMPLES["configuration of a key manager at the border"]))
    assert found.border is not None
    assert found.border.saes == ("bank-west",)
    assert found.streams is not None


def test_a_foreign_sae_is_one_more_at_another_key_manager(tmp_path: Path) -> None:
    text = EXAMPLES["configuration of a key manager at the border"].partition("[border]")[0]
    text = text.replace('"km/jinan"', '"km/x"').replace('"km/qingdao"', '"km/jinan"').replace('"km/x"', '"km/qingdao"')
    more = EXAMPLES["more for another key manager of the same network"]
    found = load_configuration(written(tmp_path, f"{text}\n{more}"))
    assert found.party == "km/qingdao"
    assert ("bank-west", "km/jinan") in [(sae.id, sae.km) for sae in found.saes]


def test_a_process_of_sources_is_configured_as_the_document_says(tmp_path: Path) -> None:
    found = load_sources(written(tmp_path, EXAMPLES["configuration of a process of sources"]))
    assert [one.link for one in found.foreign] == ["jinan-weifang"]
    assert [one.link for one in found.files] == ["weifang-qingdao"]


def test_the_table_has_every_key_of_a_process_of_sources_and_no_other() -> None:
    (table,) = re.findall(r"<!-- keys of a process of sources -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    named = re.findall(r"`([\w.]+)`", "\n".join(row.split(" | ")[0] for row in table.splitlines()[2:]))
    assert sorted(named) == sorted(keys(SourceConfiguration))
