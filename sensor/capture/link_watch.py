"""The fate of an interface that is gone: deleted, renamed, or moved to another network namespace.

Runs in the supervisor. The kernel reports it through rtnetlink(7): a deletion with ``IFLA_NEW_NETNSID`` is a
move.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from sensor.capture.nic import names_of

_RTMGRP_LINK = 1
_MESSAGE_BYTES = 1 << 16


class LinkWatch:
    """Listens to the deletions of some interfaces in the network namespace of the thread that creates it."""

    def __init__(self, indexes: Iterable[int]) -> None:
        """Listen from now on, to what becomes of the interfaces with these indexes."""
        self._moved: dict[int, bool | None] = dict.fromkeys(indexes)
        """True for an interface that was moved, False for one that was deleted, by index."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.bind((0, _RTMGRP_LINK))

    def add(self, index: int) -> None:
        """Listen to what becomes of this interface, too."""
        self._moved[index] = None

    def fate(self, index: int) -> str:
        """Return what became of an interface that has lost its name or is gone, to complete a sentence."""
        self.listen()
        with IPRoute() as netlink:
            names = [names_of(link)[0] for link in netlink.get_links() if link["index"] == index]
        if names:
            return f"it was renamed to {names[0]}"
        return {
            True: "it was moved to another network namespace",
            False: "it was deleted",
            None: "it was deleted, or moved to another network namespace",
        }[self._moved.get(index)]

    def listen(self) -> None:
        """Take note of what the kernel has told; call this often, because its queue is short."""
        while True:
            try:
                data = self._socket.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the queue was too short
                continue
            for message in MarshalRtnl().parse(data):
                is_deletion = message["event"] == "RTM_DELLINK" and message["family"] == socket.AF_UNSPEC
                if is_deletion and message["index"] in self._moved:
                    self._moved[message["index"]] = message.get_attr("IFLA_NEW_NETNSID") is not None

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
