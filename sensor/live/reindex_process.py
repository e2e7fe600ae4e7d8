"""The reindexer: matches the stored packets of all gaps, and sends what it finds to the indexer.

The supervisor executes it (`sensor.live.reindex_launcher`), so that it shares no memory and no descriptors
with other processes. It reads packets that may be hostile, and writes nothing but its socket.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from sensor.errors import SensorError
from sensor.evidence.message import HEADER_BYTES, pack, unpack_header
from sensor.evidence.rule_codec import encode_in_parts
from sensor.live.reindex_channel import GAPS_BYTES, RULES_BYTES, ReindexKind, decode_gaps
from sensor.live.reindex_task import Task
from sensor.log import log_to_stderr
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
from sensor.process.landlock import Access
from sensor.process.prctl import end_with_parent, set_process_name
from sensor.reindex import Rematcher

log = logging.getLogger(__name__)


def main(channel: int, supervisor: int) -> int:
    """Do the task on standard input for the gaps that the channel brings; return the exit code."""
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
        ProcessRole.REINDEXER,
        descriptors=[channel],
        groups=[Path().stat().st_gid],
        access=Access(readable=(Path(), *sandbox.LIBRARIES)),
        supervisor=supervisor,
    )
    header = unpack_header(_read(channel, HEADER_BYTES), GAPS_BYTES)
    gaps = decode_gaps(_read(channel, header.body_bytes))
    _write(channel, pack(ReindexKind.DIGEST, rematcher.rules.digest.encode("ascii")))
    for _, rules in encode_in_parts(list(rematcher.rules), RULES_BYTES):
        _write(channel, pack(ReindexKind.RULES, rules))
    for part in rematcher.parts(Path(), gaps):
        if len(part.block):
            _write(channel, pack(ReindexKind.ROWS, block=part.block, with_records=False))
        else:
            _write(channel, pack(ReindexKind.SKIP))
    _write(channel, pack(ReindexKind.DONE))
    return 0


def _read(channel: int, size: int) -> bytes:
    """Read exactly ``size`` bytes.

    Raises:
        BrokenPipeError: the indexer has closed the channel.
    """
    data = bytearray()
    while len(data) < size:
        part = os.read(channel, size - len(data))
        if not part:
            raise BrokenPipeError
        data += part
    return bytes(data)


def _write(channel: int, parts: Iterable[bytes | memoryview]) -> None:
    """Write all parts; wait while the channel is full."""
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(channel, rest) :]


if __name__ == "__main__":
    try:
        code = main(*map(int, sys.argv[1:]))
    except (BrokenPipeError, ConnectionResetError):  # the indexer does not want to know any more
        code = 1
    sys.exit(code)
