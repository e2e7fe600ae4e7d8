"""Checks of rules, event receivers, and the addresses of metrics and API."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from sensor.api.access_settings import token_fault
from sensor.config.settings import Settings
from sensor.doctor.program_load import program_findings
from sensor.doctor.running import belongs_to, listening_process
from sensor.doctor.setting_faults import api_faults, event_faults
from sensor.errors import EvidenceError, RulesError
from sensor.finding import Finding, Level
from sensor.process.listener import Connections, Listener
from sensor.rules.engine.profile import PROFILES
from sensor.rules.files.rule_fault import FaultyRulesError
from sensor.rules.ready import make_ready
from sensor.text import count_of


def rules_findings(settings: Settings) -> Iterator[Finding]:
    """Compile the rules and load their program, as at a start; the start itself finds them cached."""
    subject = str(settings.rules)
    try:
        ready = make_ready(settings.rules, PROFILES[settings.profile].http, lenient=settings.lenient)
    except FaultyRulesError as error:
        yield _faulty(subject, len(error.faults), "error")
        return
    except RulesError as error:
        yield Finding(level="error", check="rules", what=str(error))
        return
    if ready.rules.faults:
        yield _faulty(subject, len(ready.rules.faults), "warning")
    else:
        yield Finding(level="ok", check="rules", subject=subject, what=count_of(len(ready.rules), "rule"))
    yield from program_findings(settings, ready)


def _faulty(directory: str, faults: int, level: Level) -> Finding:
    return Finding(
        level=level,
        check="rules",
        subject=directory,
        what=count_of(faults, "fault"),
        why="sensor run does not start with these rules" if level == "error" else "some rules are skipped",
        advice="list the faults",
        command=f"sensor rules check {directory}",
    )


def service_findings(settings: Settings, running: int | None) -> Iterator[Finding]:
    """Check the receivers of events, and the addresses of metrics and API."""
    for fault in event_faults(settings):
        yield Finding(level="error", check="events", what=fault)
    if settings.metrics:
        host, _, port = settings.metrics.rpartition(":")
        yield _address("metrics", host.strip("[]"), int(port), running)
    if settings.api:
        yield from _api(settings)
        yield _address("listen", settings.listen_host, settings.listen_port, running)


def _api(settings: Settings) -> Iterator[Finding]:
    """Check the API; a fault is a warning, as capturing does not depend on the API."""
    faults = list(api_faults(settings))
    try:
        faults += filter(None, [token_fault(settings)])
    except EvidenceError as error:
        faults.append(str(error))
    for fault in faults:
        yield Finding(level="warning", check="api", what=fault, why="the API cannot serve evidence")


def _address(setting: str, host: str, port: int, running: int | None) -> Finding:
    """Try to listen on an address; if that fails, find out which process does."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        Listener(host, port, Connections(1, 1)).close()
    except OSError as error:
        code = error.errno or 0
    else:
        return Finding(level="ok", check=setting, subject=address, what="is free")
    is_in_use = code == errno.EADDRINUSE
    holder = listening_process(port) if is_in_use else None
    if running and is_in_use and (holder is None or belongs_to(holder, running)):
        return Finding(
            level="ok",
            check=setting,
            subject=address,
            what=f"the running sensor (process {running}) listens there",
        )
    return Finding(
        level="error" if setting == "metrics" else "warning",
        check=setting,
        subject=address,
        what=f"cannot listen there: {os.strerror(code)}{f' by process {holder}' if holder else ''}",
        why="sensor run does not start" if setting == "metrics" else "the API cannot serve evidence",
        advice=f"choose another --{setting}",
    )
