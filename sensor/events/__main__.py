"""The event sender: a process beside `sensor run` that turns evidence into lines and sends them to receivers.

It ends when the supervisor closes the channel or dies. First it sends what it still can, for at most `END_S`.
"""

from __future__ import annotations

import pickle
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from sensor.events.eve import Event, alerts, objects
from sensor.events.receiver_queue import ReceiverQueue
from sensor.events.receiver_state import ReceiverBoard
from sensor.events.sender import ABORT_S, END_S, MESSAGE_BYTES, REOPEN, SenderConfig
from sensor.events.url import STDOUT, receiver_of
from sensor.log import log_to_stderr


def main(channel: socket.socket, board: ReceiverBoard) -> None:
    """Read the configuration, then chunks of evidence, until the channel ends."""
    config: SenderConfig = _receive(channel)
    queues = [
        ReceiverQueue(url, receiver_of(url), board.row(number), config.queue_bytes)
        for number, url in enumerate(config.urls)
    ]
    for queue in queues:
        queue.start()
    stdout = [queue for queue in queues if queue.name == STDOUT]
    eve = [queue for queue in queues if queue.name != STDOUT]
    while message := _receive(channel):
        if message == REOPEN:
            for queue in queues:
                queue.reopen()
        else:
            _offer(eve, alerts(message, config.options))
            _offer(stdout, objects(message))
    _end(queues)


def _receive(channel: socket.socket) -> Any:
    """Return the next message, or None at the end."""
    data = channel.recv(MESSAGE_BYTES)
    return pickle.loads(data) if data else None  # noqa: S301 - our supervisor wrote it


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
    channel_fd, board_fd, receivers = map(int, sys.argv[1:])
    main(socket.socket(fileno=channel_fd), ReceiverBoard(receivers, board_fd))
