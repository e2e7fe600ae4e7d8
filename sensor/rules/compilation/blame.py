"""The rule to blame if a process that compiles rules does not survive. Runs in its parent."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NamedTuple

from sensor.model import RULE_CLASSES
from sensor.rules.compilation.compiler_task import NO_MEMORY, TOO_LARGE, CompilerLimits
from sensor.rules.files.rule_fault import Fault
from sensor.rules.files.rule_sources import path_of
from sensor.rules.progress import Phase, Progress

_BY_RULE = (Phase.CHECK, Phase.PROVE, Phase.PLAN)


class Ended(NamedTuple):
    """The end of a process that compiled rules."""

    code: int
    """As of `subprocess.Popen.returncode`."""
    progress: Progress
    """Its work at the end."""
    is_late: bool
    """True if it was killed because it was not done in time."""
    result: bytes


def fault_of(ended: Ended, directory: Path, limits: CompilerLimits) -> Fault:
    """Return the fault that ended a process: of the rule at work, of a file, or of all rules together."""
    progress = ended.progress
    path = path_of(directory, RULE_CLASSES[progress.file])
    limit = _limit_met(ended, limits)
    if progress.phase is Phase.READ:
        return Fault(path, None, None, None, _problem("the file needs", limit, "use a smaller one", ended))
    rule_id = str(progress.rule_id) if progress.rule_id else None
    is_of_all = ended.is_late or ended.code == -signal.SIGXCPU or progress.memory_kib > limits.memory_mib << 9
    if rule_id and progress.phase in _BY_RULE and not is_of_all:
        problem = _problem("it needs", limit, "use smaller repeats and fewer alternatives", ended)
        return Fault(path, progress.line or None, rule_id, "regex", problem)
    advice = "use fewer or smaller ones"
    if rule_id and progress.phase is Phase.COMPILE:
        advice += f", first of all than rule {rule_id}"
    subject = f"the {progress.total:,} rules together need" if progress.total else "the rules need"
    return Fault(directory, None, None, None, _problem(subject, limit, advice, ended))


def _problem(subject: str, limit: str | None, advice: str, ended: Ended) -> str:
    if limit:
        return f"{subject} {limit} to compile; {advice}"
    if ended.code == -signal.SIGKILL:
        return "the process that compiles rules was killed, as the kernel does when memory is short"
    how = f"signal {signal.Signals(-ended.code).name}" if ended.code < 0 else f"exit code {ended.code}"
    return f"the process that compiles rules died of it ({how}); this is a bug: please report it"


def _limit_met(ended: Ended, limits: CompilerLimits) -> str | None:
    """Return in words which limit a process met; None if it ended for another reason."""
    if ended.is_late:
        return f"more than {limits.wall_s} s"
    if ended.code == -signal.SIGPROF:
        seconds = limits.file_cpu_s if ended.progress.phase is Phase.READ else limits.rule_cpu_s
        return f"more than {seconds:g} s of CPU time"
    if ended.code == -signal.SIGXCPU:
        return f"more than {limits.cpu_s} s of CPU time"
    if ended.code in (NO_MEMORY, -signal.SIGABRT):  # the second one is of C++
        return f"more than {limits.memory_mib:,} MiB of memory"
    if ended.code == TOO_LARGE:
        return f"more than {limits.result_mib:,} MiB of memory for the result"
    return None
