"""Compiles ``sensor/native/batch.c`` when a wheel is built or the package is installed for development."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg]
    """A plain shared library, loaded by ctypes: it depends on the machine, not on the Python version."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile it, and name the wheel for this machine."""
        directory = Path(self.root) / "sensor" / "native"
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", directory / "batch.so", directory / "batch.c"], check=True)
        build_data["artifacts"].append("sensor/native/batch.so")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
