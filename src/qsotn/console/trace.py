"""`qsotn trace KEY_ID`: one key's hops as a table, or as one JSON object."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from qsotn.app.province import open_province
from qsotn.app.state import StateFolder
from qsotn.app.trace import Trace, trace_key
from qsotn.domain import KeyId
from qsotn.errors import UsageError


def show_trace(state: Path, key_id: str, *, as_json: bool) -> None:
    """Print one key's hops from a run's stores. Raises `UsageError` for a folder without a run, or an unknown key."""
    if not state.is_dir():
        raise UsageError(f"{state} holds no run; begin one with: qsotn demo --state {state}")
    folder = StateFolder(state)
    with folder.locked():
        if folder.load() is None:
            raise UsageError(f"{state} holds no run; begin one with: qsotn demo --state {state}")
        with open_province(folder.parties, os.urandom, lambda: time.time_ns() // 1000) as province:
            found = trace_key(province, KeyId(key_id))
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
    else:
        for line in _lines(found):
            Console(highlight=False).print(Text(line), soft_wrap=True)


def _lines(found: Trace) -> Iterator[str]:
    yield f"Key {found.key_id}, photon to frame"
    layers, places = (max(len(getattr(hop, name)) for hop in found.hops) for name in ("layer", "party"))
    for hop in found.hops:
        moment = datetime.fromtimestamp(hop.at / 1e6, UTC).strftime("%H:%M:%S.%f")[:-3] if hop.at else ""
        yield f"{moment:<12}  {hop.layer:<{layers}}  {hop.party:<{places}}  {hop.what}"
