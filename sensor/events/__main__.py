"""The sender: a process beside `sensor run` that makes lines of evidence and hands them to the receivers.

It ends when its supervisor closes the channel, or dies: with what can still be sent, and within `END_S`.
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
from sensor.events.receiver_state import Board
from sensor.events.sender import ABORT_S, END_S, MESSAGE_BYTES, REOPEN, Order
from sensor.events.url import STDOUT, receiver_of
from sensor.log import log_to_stderr


def main(channel: socket.socket, board: Board) -> None:
    """Take the order, then chunks of evidence, until the channel ends."""
    order: Order = _take(channel)
    receivers = [
        ReceiverQueue(url, receiver_of(url), board.row(number), order.queue_bytes)
        for number, url in enumerate(order.urls)
    ]
    for receiver in receivers:
        receiver.start()
    plain = [receiver for receiver in receivers if receiver.name == STDOUT]
    eve = [receiver for receiver in receivers if receiver.name != STDOUT]
    while message := _take(channel):
        if message == REOPEN:
            for receiver in receivers:
                receiver.reopen()
        else:
            _offer(eve, alerts(message, order.form))
            _offer(plain, objects(message))
    _end(receivers)


def _take(channel: socket.socket) -> Any:
    """Return the next message; None at the end."""
    data = channel.recv(MESSAGE_BYTES)
    return pickle.loads(data) if data else None  # noqa: S301 - our supervisor wrote it


def _offer(receivers: list[ReceiverQueue], events: Iterator[Event]) -> None:
    if receivers:
        made = list(events)
        for receiver in receivers:
            receiver.offer(made)


def _end(receivers: list[ReceiverQueue]) -> None:
    """Give them some time for what waits; the thread of one that cannot be stopped ends with the process."""
    deadline_s = time.monotonic() + END_S
    for receiver in receivers:
        receiver.end()
    for receiver in receivers:
        receiver.join(max(0.0, deadline_s - time.monotonic()))
    for receiver in receivers:
        receiver.abort()
    deadline_s += ABORT_S
    for receiver in receivers:
        receiver.join(max(0.0, deadline_s - time.monotonic()))


if __name__ == "__main__":
    log_to_stderr()
    channel_fd, board_fd, receivers = map(int, sys.argv[1:])
    main(socket.socket(fileno=channel_fd), Board(receivers, board_fd))
