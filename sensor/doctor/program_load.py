"""The program for the kernel: made of the rules and loaded as a start does it, and attached to nothing."""

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
"""Their number changes nothing for the verifier; memory is looked at elsewhere."""


def program_findings(settings: Settings, ready: Ready) -> Iterator[Finding]:
    """Load it; nothing is said where capabilities or BCC are missing, which are findings of their own."""
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
            yield Finding(level="ok", check="program", what="the kernel takes the program of these rules")
    except KernelError as error:
        yield Finding(level="error", check="program", what=str(error), why="no sensor starts")


def _frags(settings: Settings) -> bool:
    """Whether it has to take frames of several buffers; ports that are not there are findings themselves."""
    for name in settings.interface:
        with suppress(InterfaceError):
            if needs_frags(name, settings.mode):
                return True
    return False
