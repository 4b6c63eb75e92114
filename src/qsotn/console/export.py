"""`qsotn key export`: documents for machines, one a line."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qsotn.app.operator_export import export
from qsotn.app.record import load_plan
from qsotn.console.operator import operate, write_lines


def print_etsi015(state: Path) -> None:
    """Print the YANG instance data of every key manager of a province. Raises `LineError`."""
    plan = load_plan(state)
    nodes = operate(state, lambda operator: export(operator, plan))
    write_lines([msgspec.json.encode(node).decode() for node in nodes])
