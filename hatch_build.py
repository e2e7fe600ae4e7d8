"""Build hook: compile ``sensor/native/**/*.c`` when a wheel is built or an editable install is made."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARIES = {"batch.so": "*.c", "sqlite.so": "sqlite/*.c"}
"""The libraries in ``sensor/native``, and their sources. Extensions of SQLite are libraries of their own."""


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Builds shared libraries for ctypes, which depend on the machine but not on the Python version."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile the libraries, and tag the wheel for this machine."""
        directory = Path(self.root) / "sensor" / "native"
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        for library, pattern in LIBRARIES.items():
            hidden = [] if library == "batch.so" else ["-fvisibility=hidden"]
            sources = sorted(directory.glob(pattern))
            subprocess.run([*command, *hidden, "-o", directory / library, *sources], check=True)
            build_data["artifacts"].append(f"sensor/native/{library}")
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
