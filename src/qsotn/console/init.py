"""`qsotn init` as a person sees it: what was made, and what to type next."""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path

import msgspec

from qsotn.app.installation import create_installation
from qsotn.app.record import ProvinceRecord


class Made(msgspec.Struct, frozen=True):
    """What `qsotn init --json` prints."""

    state: str
    province: ProvinceRecord


def run_init(province: Path | None, state: Path, *, as_json: bool) -> None:
    """Make a province's certificates and configuration, from a province file or the sample."""
    record = create_installation(province, state, os.urandom, dt.datetime.now(dt.UTC))
    if as_json:
        made = msgspec.json.encode(Made(str(state), record))
        sys.stdout.write(msgspec.json.format(made, indent=2).decode() + "\n")
    else:
        _print(record, state)


def _print(record: ProvinceRecord, state: Path) -> None:
    parties = len({one.party for one in record.services})
    links, fibres = len(record.twin.links), len(record.fibres)
    lines = [
        f"The province {record.name} is in {state}:",
        f"  {parties} parties in {len(record.services)} processes, {links} QKD links, {fibres} fibres.",
        "  pki/ holds the keys of its two roots; keep it from everybody else.",
        "  parties/ holds a folder for each party: all it needs, and nothing of another's.",
        "  operator/ holds the certificate of operator/admin, which the operator's commands show.",
        "",
        "Next:",
        f"  qsotn up --state {state}          start every party, and stop them with Ctrl-C",
        f"  qsotn pki show --state {state}    list the certificates",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
