"""The reindexing process: matches the stored packets of all gaps and sends what it finds to the supervisor.

The supervisor executes it (`sensor.live.reindexer`), so that it shares no memory and no descriptors with the
supervisor. It reads packets that may be hostile, and writes nothing but its pipe.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from sensor.errors import SensorError
from sensor.evidence.message import pack
from sensor.evidence.rule_codec import encode_in_parts
from sensor.live.reindex_task import RULES_BYTES, ReindexKind, Task
from sensor.log import log_to_stderr
from sensor.process import sandbox
from sensor.process.accounts import Role
from sensor.process.landlock import Access
from sensor.process.prctl import end_with_parent, set_process_name
from sensor.reindex import Rematcher

log = logging.getLogger(__name__)


def main(pipe: int, supervisor: int) -> int:
    """Do the task on standard input; return the exit code."""
    end_with_parent(supervisor)
    set_process_name("sensor-reindex")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles ^C, and ends this process
    log_to_stderr()
    logging.getLogger().setLevel(logging.WARNING)
    os.nice(19)
    task = Task.of(sys.stdin.buffer.read())
    try:
        rematcher = Rematcher(task.settings)
    except SensorError as error:
        log.warning("the index is not complete: %s", error)
        return 1
    os.chdir(task.directory)  # this process's user may not be able to enter a directory above it
    sandbox.enter(  # from here on this process parses untrusted bytes
        Role.REINDEXER,
        descriptors=[pipe],
        groups=[Path().stat().st_gid],
        access=Access(readable=(Path(), *sandbox.LIBRARIES)),
        supervisor=supervisor,
    )
    _write(pipe, pack(ReindexKind.DIGEST, rematcher.rules.digest.encode("ascii")))
    for _, rules in encode_in_parts(list(rematcher.rules), RULES_BYTES):
        _write(pipe, pack(ReindexKind.RULES, rules))
    for part in rematcher.parts(Path(), task.gaps):
        if len(part.block):
            _write(pipe, pack(ReindexKind.ROWS, block=part.block, with_records=False))
        else:
            _write(pipe, pack(ReindexKind.SKIP))
    _write(pipe, pack(ReindexKind.DONE))
    return 0


def _write(pipe: int, parts: Iterable[bytes | memoryview]) -> None:
    """Write all parts; wait while the pipe is full."""
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(pipe, rest) :]


if __name__ == "__main__":
    try:
        code = main(*map(int, sys.argv[1:]))
    except BrokenPipeError:  # the supervisor does not want to know any more
        code = 1
    sys.exit(code)
