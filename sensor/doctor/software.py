"""Checks of BCC and libseccomp, which come from the distribution, and of the version of Hyperscan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import requires, version

from sensor import DISTRIBUTION
from sensor.capture.compiler import bcc_version
from sensor.errors import KernelError, PrivilegeError
from sensor.finding import Finding
from sensor.process.syscall_filter import check_library


def software_findings() -> Iterator[Finding]:
    """Check that BCC and seccomp can be imported, and that Hyperscan has the tested version."""
    try:
        yield Finding(level="ok", check="bcc", what=f"BCC {bcc_version()}")
    except KernelError:
        yield Finding(
            level="error",
            check="bcc",
            what="BCC for this Python is missing",
            why="the XDP program cannot be compiled",
            advice="create the environment with /usr/bin/python3 -m venv --system-site-packages, and",
            command="apt install python3-bpfcc",
        )
    try:
        check_library()
        yield Finding(level="ok", check="seccomp", what="system call filters can be made")
    except PrivilegeError:
        yield Finding(
            level="error",
            check="seccomp",
            what="the Python module seccomp is missing",
            why="the processes of the sensor cannot be confined",
            advice="create the environment with /usr/bin/python3 -m venv --system-site-packages, and",
            command="apt install python3-seccomp",
        )
    yield hyperscan_finding(version("hyperscan"))


def hyperscan_finding(found: str) -> Finding:
    """Compare a version with the one that sensor is tested with; others miss matches silently."""
    pinned = next(one for one in requires(DISTRIBUTION) or () if re.match(r"hyperscan\b", one))
    tested = pinned.partition("==")[2].partition(";")[0].strip()
    if found == tested:
        return Finding(level="ok", check="hyperscan", what=f"Hyperscan {found}")
    return Finding(
        level="error",
        check="hyperscan",
        what=f"Hyperscan {found} is not the {tested} that sensor is tested with",
        why="it may miss matches silently",
        advice="install the tested version",
        command=f"pip install hyperscan=={tested}",
    )
