"""Compile rules in a child process, and name the rule to blame if the child does not survive.

Runs in every process that wants rules, in ``sensor run`` in a thread while capture continues.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from sensor.errors import RulesError
from sensor.process.child import blocked, finish
from sensor.rules.compilation.blame import Ended, fault_of
from sensor.rules.compilation.compiler_task import CompilerLimits, CompilerTask
from sensor.rules.compilation.ready_codec import MalformedResultError, Ready, decode_ready, decode_rules
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.files.rule_fault import FaultyRulesError
from sensor.rules.files.rule_set import RuleSet
from sensor.rules.files.rule_sources import RuleSources
from sensor.rules.progress import RECORD_BYTES, Progress, Watch, unwatched

COMMAND = [sys.executable, "-P", "-m", "sensor.rules.compilation.compiler_process"]
MOST_CULPRITS = 8
"""Rules that may each cost a process, where all faults are wanted; the search begins anew after each."""
LIMITS = CompilerLimits()
_LOOK_S = 0.1

_Result = TypeVar("_Result")


def compile_rules(
    sources: RuleSources,
    http: HttpReading,
    *,
    lenient: bool,
    find_all: bool = False,
    yields: bool = False,
    watch: Watch = unwatched,
    limits: CompilerLimits = LIMITS,
) -> Ready:
    """Compile rules. ``watch`` is called with the progress, some times per second.

    With ``find_all``, all rules that need too much are looked for; otherwise the first one ends the search.
    With ``yields``, other processes have the CPU first.

    Raises:
        FaultyRulesError: There are faults. With ``lenient``: no rule is usable, or the rules take too much
            together.
    """
    return _made(
        CompilerTask(sources, http, lenient, {}, yields, limits),
        lambda result: decode_ready(result, sources.directory, http),
        watch,
        find_all=find_all,
    )


def check_rules(directory: Path, *, lenient: bool) -> RuleSet:
    """Load the rules of a directory without compiling them for a sensor.

    Raises:
        FaultyRulesError: As for `compile_rules`.
    """
    return _made(
        CompilerTask(RuleSources.read(directory), None, lenient, {}),
        lambda result: decode_rules(result, directory),
        unwatched,
    )


def _made(
    task: CompilerTask, decode: Callable[[bytes], _Result], watch: Watch, *, find_all: bool = False
) -> _Result:
    """Return what a process makes of the task, or another one without the rules that the first died of."""
    refused: dict[str, str] = {}
    while True:
        ended = _run(task._replace(refused=refused), watch)
        if ended.code == 0:
            try:
                return decode(ended.result)  # its rules are those of these files
            except MalformedResultError as error:
                raise RulesError(
                    f"{task.sources.directory}: the compiled rules are malformed: {error}; "
                    "this is a bug: please report it"
                ) from error
        fault = fault_of(ended, task.sources.directory, task.limits)
        is_last = len(refused) == MOST_CULPRITS or not (task.lenient or find_all)
        if fault.rule_id is None or fault.rule_id in refused or is_last:
            raise FaultyRulesError((fault,))
        refused[fault.rule_id] = fault.problem


def _run(task: CompilerTask, watch: Watch) -> Ended:
    """Start a process for the task, and wait for its end.

    Raises:
        RulesError: No process can be started.
    """
    with ExitStack() as stack:
        try:
            stdin, result, record = (
                stack.enter_context(_memory_file(name)) for name in ("task", "rules", "progress")
            )
            stdin.write(task.encode())
            stdin.seek(0)
            record.truncate(RECORD_BYTES)
            process = _execute(stdin.fileno(), result.fileno(), record.fileno())
        except OSError as error:
            raise RulesError(
                f"rules cannot be compiled: no process can be started ({error.strerror})"
            ) from error
        try:
            is_late = _wait(process, task.limits.wall_s, lambda: watch(_progress(record.fileno())))
        finally:
            finish(process)
        # Nobody but that process could write to the file, and it has ended.
        content = (
            b"" if process.returncode else os.pread(result.fileno(), os.fstat(result.fileno()).st_size, 0)
        )
        return Ended(process.returncode, _progress(record.fileno()), is_late, content)


def _memory_file(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(f"sensor-{name}"), "w+b", buffering=0)


def _execute(stdin: int, result: int, record: int) -> subprocess.Popen[bytes]:
    arguments = map(str, (result, record, os.getpid()))
    command = [*COMMAND, *arguments]
    with blocked([signal.SIGINT]):  # inherited until the process ignores it
        # In further arenas, malloc would look for a file of /proc, which the sandbox reports as an attempt.
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            pass_fds=[result, record],
            env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        )


def _wait(process: subprocess.Popen[bytes], patience_s: float, look: Callable[[], None]) -> bool:
    """Wait for the end of the process; return True if that took too long."""
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_S)
            return False
        look()
    return True


def _progress(record: int) -> Progress:
    return Progress.unpack(os.pread(record, RECORD_BYTES, 0))
