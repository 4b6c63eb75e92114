"""The URL of a store: what it means, and what is said of one that means nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qsotn.adapters.storage import open_store
from qsotn.domain import PartyId
from qsotn.errors import UsageError

PARTY = PartyId("pomp/shandong")


@pytest.mark.parametrize("name", ["store.db", "with space.db", "what?.db", "50%20#1.db", "济南.db"])
def test_the_path_follows_the_third_slash_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for url, path in (
        (f"sqlite:///{name}", tmp_path / name),
        (f"sqlite:///folder/{name}", tmp_path / "folder" / name),
        (f"sqlite:///{tmp_path}/absolute-{name}", tmp_path / f"absolute-{name}"),
    ):
        open_store(url, PARTY).close()
        assert path.is_file()


@pytest.mark.parametrize(
    "url",
    [
        "", "store.db", "/var/lib/store.db", "sqlite:store.db", "sqlite://store.db", "sqlite:///", "sqlite://",
        "postgresql://", "postgres://qsotn:s3cret@host/x", "mysql://qsotn:s3cret@host/x", "SQLITE:///store.db",
    ],
)  # fmt: skip
def test_any_other_url_is_refused_and_the_error_says_what_would_be_right(url: str) -> None:
    with pytest.raises(UsageError, match="expected sqlite:///PATH or postgresql://USER@HOST/DATABASE") as caught:
        open_store(url, PARTY)
    assert "s3cret" not in str(caught.value)


def test_neither_driver_is_loaded_before_its_store_is_opened() -> None:
    script = "import qsotn.adapters.storage, sys; sys.exit(' '.join({'sqlite3', 'asyncpg'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).stderr == b"\n"
