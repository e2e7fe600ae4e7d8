"""Build hook: compile ``sensor/native/*.c`` when a wheel is built or an editable install is made."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Builds a shared library for ctypes, which depends on the machine but not on the Python version."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile the library, and tag the wheel for this machine."""
        directory = Path(self.root) / "sensor" / "native"
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        sources = sorted(directory.glob("*.c"))
        subprocess.run([*command, "-o", directory / "batch.so", *sources, "-lm"], check=True)
        build_data["artifacts"].append("sensor/native/batch.so")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
