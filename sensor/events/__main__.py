"""The event sender: a process beside `sensor run` that turns evidence into lines and sends them to receivers.

It ends when the supervisor closes the channel or dies. First it sends what it still can, for at most `END_S`.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sensor.events.channel import MESSAGE_BYTES, EventKind, SenderConfig
from sensor.events.eve import Event, alerts, objects, packets
from sensor.events.receiver import Receiver
from sensor.events.receiver_queue import ReceiverQueue
from sensor.events.receiver_state import ReceiverBoard
from sensor.events.sender import ABORT_S, END_S
from sensor.events.url import STDOUT, receiver_of
from sensor.evidence.message import MalformedMessageError, ReceivedMessage
from sensor.evidence.rule_numbers import RuleTable
from sensor.evidence.writer import Chunk
from sensor.log import log_to_stderr
from sensor.process import sandbox
from sensor.process.accounts import ProcessRole
from sensor.process.landlock import Access
from sensor.process.opener import RemoteFiles
from sensor.process.prctl import set_process_name
from sensor.rules.engine.profile import PROFILES
from sensor.text import remember_interface_names

_DNS = 53
_READABLE = (
    *sandbox.LIBRARIES,
    *sandbox.NAME_SERVICE,
    Path("/usr/share/ca-certificates"),
    Path("/usr/local/share/ca-certificates"),
    Path("/proc/self"),
)

log = logging.getLogger(__name__)


def main(channel: socket.socket, board: ReceiverBoard) -> int:
    """Read the configuration, then chunks of evidence, until the channel ends; return the exit code."""
    queues: list[ReceiverQueue] = []
    try:
        _serve(channel, board, queues)
    except MalformedMessageError as error:
        log.error("the event sender received a malformed message and ends: %s", error)  # noqa: TRY400
        return 1
    finally:
        _end(queues)
    return 0


def _serve(channel: socket.socket, board: ReceiverBoard, queues: list[ReceiverQueue]) -> None:
    """Handle messages until the channel ends; ``queues`` receives the queues that were started.

    Raises:
        MalformedMessageError: a message is malformed.
    """
    first = _receive(channel)
    if first is None:
        return
    if first.header.kind != EventKind.CONFIG:
        raise MalformedMessageError(f"a message of kind {first.header.kind} before the configuration")
    config = SenderConfig.of(first.text)
    if config.profile not in PROFILES or len(config.urls) != board.receivers:
        raise MalformedMessageError("a configuration that does not fit this process")
    receivers = [receiver_of(url) for url in config.urls]
    _enter_sandbox(receivers, config, channel, board)
    for number, (url, receiver) in enumerate(zip(config.urls, receivers, strict=True)):
        queues.append(ReceiverQueue(url, receiver, board.row(number), config.queue_bytes))
        queues[-1].start()
    stdout = [queue for queue in queues if queue.name == STDOUT]
    eve = [queue for queue in queues if queue.name != STDOUT]
    rules = RuleTable()
    http = PROFILES[config.profile].http
    while message := _receive(channel):
        if message.header.kind == EventKind.RULES:
            rules.define(message)
        elif message.header.kind == EventKind.BLOCK:
            path = Path(os.fsdecode(message.text)) if message.text else None
            found = packets(Chunk(path, message.header.number, message.block(rules.rules)), http)
            _offer(eve, alerts(found, config.options))
            _offer(stdout, objects(found))
        elif message.header.kind == EventKind.REOPEN:
            for queue in queues:
                queue.reopen()
        else:
            raise MalformedMessageError(f"a message of kind {message.header.kind}")


def _enter_sandbox(
    receivers: Sequence[Receiver], config: SenderConfig, channel: socket.socket, board: ReceiverBoard
) -> None:
    """Give up all rights but to send: before evidence arrives, which may be hostile."""
    set_process_name("sensor-events")
    descriptors = [channel.fileno(), board.descriptor]
    for receiver in receivers:
        if grants := receiver.grants():
            receiver.files = files = RemoteFiles(grants)
            descriptors.append(files.descriptor)
    ports = {_DNS, *(port for receiver in receivers for port in receiver.ports())}
    sandbox.enter(
        ProcessRole.EVENT_SENDER,
        descriptors=descriptors,
        streams=(1, 2) if STDOUT in config.urls else (2,),
        access=Access(readable=_READABLE, ports=tuple(ports)),
    )


def _receive(channel: socket.socket) -> ReceivedMessage | None:
    """Return the next message, or None at the end."""
    data = channel.recv(MESSAGE_BYTES + 1)
    return ReceivedMessage.of(data, MESSAGE_BYTES) if data else None


def _offer(queues: list[ReceiverQueue], events: Iterator[Event]) -> None:
    """Put the events into each queue; make none if there is no queue."""
    if queues:
        listed = list(events)
        for queue in queues:
            queue.offer(listed)


def _end(queues: list[ReceiverQueue]) -> None:
    """Give the queues some time to empty; a thread that cannot be stopped ends with the process."""
    deadline_s = time.monotonic() + END_S
    for queue in queues:
        queue.end()
    for queue in queues:
        queue.join(max(0.0, deadline_s - time.monotonic()))
    for queue in queues:
        queue.abort()
    deadline_s += ABORT_S
    for queue in queues:
        queue.join(max(0.0, deadline_s - time.monotonic()))


if __name__ == "__main__":
    log_to_stderr()
    remember_interface_names()  # evidence of a port that is created again has its first index
    channel_fd, board_fd, receivers = map(int, sys.argv[1:])
    sys.exit(main(socket.socket(fileno=channel_fd), ReceiverBoard(receivers, board_fd)))
