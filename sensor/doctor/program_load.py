"""Check of the XDP program: it is built from the rules and loaded, as at a start, but not attached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace

from sensor.capture.attachment import needs_frags
from sensor.capture.compiler import bcc_version
from sensor.capture.program import Program
from sensor.config.settings import Settings
from sensor.errors import InterfaceError, KernelError
from sensor.finding import Finding
from sensor.live.program_options import options_of, plan_of
from sensor.process.capabilities import missing_capabilities
from sensor.rules.ready import Ready

_FLOWS = 1024
"""The number makes no difference to the verifier; `sensor.doctor.resources` checks memory."""


def program_findings(settings: Settings, ready: Ready) -> Iterator[Finding]:
    """Load the program; yield nothing if BCC or a capability is missing, which other checks report."""
    try:
        bcc_version()
    except KernelError:
        return
    if missing_capabilities():
        return
    plan = plan_of(ready.plan, ready.matcher.http, settings.keep)
    options = replace(options_of(settings, frags=_frags(settings)), flows=_FLOWS)
    try:
        with closing(Program(plan, options)):
            yield Finding(level="ok", check="program", what="the kernel accepts the program of these rules")
    except KernelError as error:
        yield Finding(level="error", check="program", what=str(error), why="sensor run does not start")


def _frags(settings: Settings) -> bool:
    """Return True if the program must handle frames in several buffers; other checks report missing ports."""
    for name in settings.interface:
        with suppress(InterfaceError):
            if needs_frags(name, settings.mode):
                return True
    return False
