"""The process beside `sensor run` that deletes evidence above the limits, off the loop that writes it.

The supervisor executes it (`sensor.live.retention_process`). It can list and delete files in the directory of
the device, and nothing else.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
from pathlib import Path

from sensor.evidence.clock_trust import read_clock
from sensor.evidence.retention import Retention
from sensor.live.retention_channel import MESSAGE_BYTES, RetentionConfig, RetentionReport
from sensor.log import log_to_stderr
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
from sensor.process.landlock import Access
from sensor.process.prctl import end_with_parent, set_process_name

LOOK_S = 0.5
"""Period of looks at the disk."""

_READABLE = (Path("/etc/localtime"), Path("/usr/share/zoneinfo"))

log = logging.getLogger(__name__)


def main(channel: socket.socket, supervisor: int) -> None:
    """Read the configuration, then enforce the limits and report until the channel ends."""
    end_with_parent(supervisor)
    set_process_name("sensor-retain")
    config = RetentionConfig.of(channel.recv(MESSAGE_BYTES))
    _enter_sandbox(channel, config.directory, supervisor)
    deleted: list[str] = []
    retention = Retention(config.directory, config.limits, deleted.extend)
    ended = select.poll()
    ended.register(channel, select.POLLIN)
    is_ending = False
    while not is_ending:
        deleted.clear()
        retention.enforce(read_clock())
        report = RetentionReport(retention.deleted, retention.failures, retention.space, deleted)
        try:
            channel.send(report.pack())
        except OSError:  # the supervisor has ended
            return
        is_ending = bool(ended.poll(0 if deleted else 1000 * LOOK_S))


def _enter_sandbox(channel: socket.socket, directory: Path, supervisor: int) -> None:
    """Give up all rights but to delete files in the directory."""
    sandbox.enter_as_owner(
        ProcessRole.RETENTION,
        directory,
        descriptors=[channel.fileno()],
        access=Access(readable=(*_READABLE, *sandbox.LIBRARIES), erasable=(directory,)),
        supervisor=supervisor,
    )


if __name__ == "__main__":
    log_to_stderr()
    channel_fd, supervisor_pid = map(int, sys.argv[1:])
    main(socket.socket(fileno=channel_fd), supervisor_pid)
    sys.stderr.flush()
    os._exit(0)  # the supervisor waits: the interpreter need not clean up
