"""The process that compiles one set of rules (`sensor.rules.compilation.rule_compiler` starts it).

A short rule can stand for endless work. So this process has limits that the kernel enforces, and no rights
that an author of rules could want: it gets the files as bytes, and gives bytes back.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from mmap import mmap

from sensor.errors import PrivilegeError, RulesError
from sensor.model import RULE_CLASSES, Rule
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
from sensor.process.limits import (
    end_first_without_memory,
    limit_cpu,
    limit_file_size,
    limit_memory,
    limit_step,
)
from sensor.process.prctl import end_with_parent, set_process_name
from sensor.process.syscall_filter import has_library
from sensor.rules.compilation.compiler_task import NO_MEMORY, TOO_LARGE, CompilerLimits, CompilerTask
from sensor.rules.compilation.ready_codec import Ready, encode_ready, encode_refusal, encode_rules
from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import HttpReading
from sensor.rules.engine.matcher import Matcher
from sensor.rules.files.load import load_sources
from sensor.rules.files.rule_fault import FaultyRulesError
from sensor.rules.files.rule_set import RuleSet
from sensor.rules.prefilter.plan import Plan, demands
from sensor.rules.prefilter.tables import kernel_plan
from sensor.rules.progress import RECORD_BYTES, Phase, Progress

_NICE = 10
"""Priority while a sensor captures."""


class _Recorder:
    """Shows the parent what is under way, and limits the CPU time of each step."""

    def __init__(self, descriptor: int, limits: CompilerLimits) -> None:
        self._record = mmap(descriptor, RECORD_BYTES)
        self._cpu_s = {
            Phase.READ: limits.file_cpu_s,
            **dict.fromkeys((Phase.CHECK, Phase.PROVE, Phase.PLAN), limits.rule_cpu_s),
        }
        self._lines: dict[int, int] = {}
        """The line of each rule in its file."""

    def __call__(self, progress: Progress) -> None:
        """Note that this work begins."""
        self._lines.setdefault(progress.rule_id, progress.line)
        memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._record[:] = progress._replace(memory_kib=memory_kib).pack()
        limit_step(self._cpu_s.get(progress.phase, 0.0))

    def rule(self, phase: Phase, number: int, total: int, rule: Rule) -> None:
        """Note that work on a rule begins that was checked before."""
        place = RULE_CLASSES.index(rule.rule_class)
        self(Progress(phase, number, total, place, rule.rule_id, self._lines.get(rule.rule_id, 0)))

    def each(self, phase: Phase, rules: RuleSet) -> Iterator[Rule]:
        """Yield the rules, and note that work on each begins."""
        for number, rule in enumerate(rules, 1):
            self.rule(phase, number, len(rules), rule)
            yield rule


def main(result: int, record: int, parent: int) -> int:
    """Compile what standard input asks for, write it to ``result``, and return the exit code."""
    end_with_parent(parent)
    set_process_name("sensor-rules")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles ^C, and ends this process
    task = CompilerTask.decode(sys.stdin.buffer.read())
    os.nice(_NICE if task.yields else 0)
    recorder = _Recorder(record, task.limits)
    end_first_without_memory()
    limit_cpu(task.limits.cpu_s)
    limit_memory(task.limits.memory_mib << 20)
    limit_file_size(task.limits.result_mib << 20)
    try:
        if has_library():  # sensor run requires it; sensor read works without
            sandbox.enter(ProcessRole.COMPILER, descriptors=[result], supervisor=parent)
        answer = _answer(task, recorder)
    except PrivilegeError as error:
        answer = encode_refusal(str(error))
    except MemoryError:
        return NO_MEMORY
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        return NO_MEMORY
    return _write(result, answer)


def _write(result: int, answer: bytes) -> int:
    """Write the answer, and return the exit code."""
    rest = memoryview(answer)
    try:
        while rest:
            rest = rest[os.write(result, rest) :]
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return TOO_LARGE
    return 0


def _answer(task: CompilerTask, recorder: _Recorder) -> bytes:
    """Return the compiled rules, or why they are refused."""
    try:
        rules = load_sources(task.sources, lenient=task.lenient, watch=recorder, refused=task.refused)
        if task.http is None:
            return encode_rules(rules)
        return encode_ready(_compiled(rules, task.http, recorder))
    except FaultyRulesError as error:
        return encode_refusal(error.faults, error.fine)
    except RulesError as error:
        return encode_refusal(str(error))


def _compiled(rules: RuleSet, http: HttpReading, recorder: _Recorder) -> Ready:
    """Compile rules for the matcher and for the kernel.

    Raises:
        RulesError: They are too large together.
    """
    total = len(rules)
    if total:
        largest = max(rules, key=lambda rule: expression(rule.regex).tree.extent.states)
        recorder.rule(Phase.COMPILE, 0, total, largest)
    in_order = tuple(rules)
    matcher = Matcher(
        rules, http, lambda index: recorder.rule(Phase.PROVE, index + 1, total, in_order[index])
    )
    plan = Plan.of(demands(recorder.each(Phase.PLAN, rules), http))
    recorder(Progress(Phase.FINISH, total=total))
    return Ready(rules, matcher, kernel_plan(plan, http))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
