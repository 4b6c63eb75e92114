"""What the tests of deploy/ share: its folders, the province of compose.yaml, YAML read strictly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML ships no types

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose"


class _Strict(yaml.SafeLoader):  # type: ignore[misc]  # of a package without types
    """YAML in which no key stands twice in one mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), f"line {node.start_mark.line}: a key stands twice among {keys}"
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(), _Strict)  # noqa: S506  (a safe loader)


def anywhere(text: str) -> str:
    """The same province file, with ports that are free on this machine."""
    return re.sub(r"^first_port = \d+", "first_port = 0", text, flags=re.MULTILINE)
