"""Compile the C sources when the package is built, and go on without where that is not possible."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))

import build_kernels


class KernelsBuildHook(BuildHookInterface):
    """Puts the compiled modules into the wheel, or, for an editable installation, beside the sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a wheel with compiled modules says for which platform it is."""
        try:
            libraries = build_kernels.compile_all()
        except build_kernels.NotCompiled as problem:
            self.app.display_warning(f"qsotn is installed without its compiled kernels: {problem}")
            return
        if version != "editable":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"cp311-abi3-{platform}"
            build_data["artifacts"] += [f"/{path.relative_to(build_kernels.ROOT)}" for path in libraries]
