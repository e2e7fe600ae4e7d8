"""All checks of ``sensor doctor``, in the order in which a start of the sensor depends on them."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sensor.config.settings import Settings
from sensor.doctor.host import host_findings
from sensor.doctor.port import port_findings
from sensor.doctor.resources import disk_findings, memory_finding
from sensor.doctor.running import running_sensor
from sensor.doctor.service import rules_findings, service_findings
from sensor.doctor.software import software_findings
from sensor.finding import Finding


def examine(settings: Settings, *, disk: bool) -> Iterator[Finding]:
    """Yield the findings of all checks.

    Args:
        settings: The settings of ``sensor run``.
        disk: Measure the speed of the evidence disk too, which takes seconds.
    """
    running = running_sensor(settings)
    yield from host_findings(settings)
    yield from software_findings()
    yield from port_findings(settings, running)
    yield memory_finding(settings, running)
    yield from disk_findings(settings, running, trial=disk)
    yield from rules_findings(settings)
    yield from service_findings(settings, running)


class AppliedFix(NamedTuple):
    """A command that was run to fix something."""

    command: str
    exit_code: int
    said: str
    """The standard error of the command, on one line."""

    def __str__(self) -> str:
        return f"failed: {self.command}: {self.said}" if self.exit_code else f"ran: {self.command}"


def apply_safe_fixes(findings: Iterable[Finding]) -> Iterator[AppliedFix]:
    """Run the commands of the findings whose fix is safe, each once."""
    for command in dict.fromkeys(finding.command for finding in findings if finding.is_safe):
        try:
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
        except OSError as error:
            yield AppliedFix(command, 127, error.strerror or str(error))
        else:
            yield AppliedFix(command, done.returncode, " ".join(done.stderr.split()))
