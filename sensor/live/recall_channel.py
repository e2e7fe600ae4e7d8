"""The channel between the supervisor and the process that finds the context of matches in the history.

Requests are records of fixed size. Answers come like the reports of a worker (`ReportChannel`).
"""

from __future__ import annotations

import socket
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from sensor.live.report_channel import ReportChannel

REQUEST = np.dtype(
    [
        ("number", "<u8"),
        ("flows", "<u8", (2,)),
        ("hashes", "<u4", (2,)),
        ("from_ktime_ns", "<u8"),
        ("until_ktime_ns", "<u8"),
        ("is_unparsed", "<u8"),
    ]
)
"""A flow whose frames are wanted, and its later IP fragments, which are a flow without ports.

``number`` identifies the request. ``flows`` are those of `ITEM`, and ``hashes`` those of their keys in the
kernel. Frames before ``from_ktime_ns`` or after ``until_ktime_ns`` are not wanted.
``is_unparsed`` is 1 if the flow may be among the frames that the kernel could not parse.
"""

MOST_AT_ONCE = 16
"""Requests that are answered together."""


class RecallChannel:
    """Both ends of the channel. Create it before the process is forked."""

    def __init__(self) -> None:
        self.answers = ReportChannel()
        self._supervisor, self._recaller = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    # In the process that looks

    def enter_recaller(self) -> None:
        """Close the supervisor's ends."""
        self.answers.enter_worker()
        self._supervisor.close()

    @property
    def recaller_fds(self) -> list[int]:
        """The descriptors of this process."""
        return [self.answers.worker_fd, self._recaller.fileno()]

    def receive(self) -> NDArray[np.void]:
        """Wait for requests and return them, of dtype `REQUEST`; none if the channel is closed."""
        data = self._recaller.recv(REQUEST.itemsize)
        with suppress(BlockingIOError):
            while data and len(data) < MOST_AT_ONCE * REQUEST.itemsize:
                more = self._recaller.recv(REQUEST.itemsize, socket.MSG_DONTWAIT)
                if not more:
                    break
                data += more
        return np.frombuffer(data, REQUEST)

    # In the supervisor

    def enter_supervisor(self) -> None:
        """Close the other process's ends, so that reading ends when it does."""
        self.answers.enter_supervisor()
        self._recaller.close()
        self._supervisor.setblocking(False)

    def send(self, request: NDArray[np.void]) -> None:
        """Send one request, shape (1,). It is lost if the process has died, or reads nothing."""
        with suppress(OSError):
            self._supervisor.send(request.tobytes())

    def close(self) -> None:
        """Close the supervisor's ends."""
        self._supervisor.close()
        self.answers.close()
