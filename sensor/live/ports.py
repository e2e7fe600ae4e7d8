"""The ports that frames are captured on: attached, watched, and attached again when they are back.

Runs in the supervisor. A port that is deleted, renamed, moved or detached is lost. The others go on, and the
lost one is tried again, after a delay that grows. When no port is left, the sensor ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress

from sensor.capture.attachment import Interface, Mode, attached, check_interface, find_interface, is_attached
from sensor.capture.link_watch import LinkWatch
from sensor.capture.program import Program
from sensor.errors import InterfaceError, SensorError

FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0

log = logging.getLogger(__name__)


class Port:
    """An interface, by the name that the settings have for it."""

    def __init__(self, asked: str, place: int, interface: Interface) -> None:
        self.asked = asked
        self.name = interface.name
        """The name that it had at the start; metrics use it."""
        self.place = place
        """Its place among the interfaces of the program."""
        self.linktype = interface.linktype
        self.interface = interface
        self.link_fd: int | None = None
        """The link that attaches the program; None while the port is lost."""
        self.due_s = 0.0
        """Monotonic time of the next attempt."""
        self._delay_s = FIRST_DELAY_S
        self._attached_s = 0.0
        self._attachment = ExitStack()

    def attach(self, program: Program, mode: Mode) -> None:
        """Attach the program.

        Raises:
            SensorError: The interface or the kernel refuses.
        """
        program.set_port(self.place, self.interface.index)
        self.link_fd = self._attachment.enter_context(attached(program.fd, self.interface, mode))
        self._attached_s = time.monotonic()

    def detach(self) -> None:
        """Detach the program, if it is attached."""
        self.link_fd = None
        self._attachment.close()

    def postpone(self) -> None:
        """Set the time of the next attempt: each time twice as late, unless the port was there for long."""
        now_s = time.monotonic()
        if self._attached_s and now_s - self._attached_s > LONGEST_DELAY_S:
            self._delay_s = FIRST_DELAY_S
        self._attached_s = 0.0
        self.due_s = now_s + self._delay_s
        self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)


class Ports:
    """All ports of a run."""

    def __init__(
        self, interfaces: Mapping[str, Interface], program: Program, mode: Mode, *, frags: bool
    ) -> None:
        """Remember the interfaces by the names that the settings have for them."""
        self._ports = [Port(name, place, one) for place, (name, one) in enumerate(interfaces.items())]
        self._program = program
        self._mode: Mode = mode
        self._frags = frags
        self._watch = LinkWatch(port.interface.index for port in self._ports)

    @property
    def link_fds(self) -> list[int]:
        """The links that attach the program."""
        return [port.link_fd for port in self._ports if port.link_fd is not None]

    @property
    def are_attached(self) -> dict[str, bool]:
        """True for each port whose frames are captured, False for one that is lost, by name."""
        return {port.name: port.link_fd is not None for port in self._ports}

    def attach(self) -> None:
        """Attach the program to all ports.

        Raises:
            SensorError: The interface or the kernel refuses.
        """
        for port in self._ports:
            port.attach(self._program, self._mode)

    def check(self) -> None:
        """Find ports that were lost, and attach those that are back; call this once per second.

        Raises:
            InterfaceError: The last port was lost.
        """
        self._watch.listen()
        lost = None
        for port in self._ports:
            if port.link_fd is None:
                self._retry(port)
                continue
            try:
                port.interface = self._recheck(port, port.link_fd)
            except InterfaceError as error:
                port.detach()
                port.postpone()
                lost = error
                if self.link_fds:
                    log.error("%s; frames are captured there again when it is back", error)  # noqa: TRY400
        if lost and not self.link_fds:
            raise lost

    def close(self) -> None:
        """Detach the program from all ports."""
        for port in self._ports:
            port.detach()
        self._watch.close()

    def _recheck(self, port: Port, link_fd: int) -> Interface:
        """Return the interface as it is now.

        Raises:
            InterfaceError: It is gone, or the program was detached from it.
        """
        before, now = port.interface, None
        with suppress(InterfaceError):
            now = find_interface(port.asked)
        if now is None or now.index != before.index:
            fate = self._watch.fate(before.index)
            raise InterfaceError(f"{port.asked}: there is no such interface any more: {fate}")
        if not is_attached(link_fd):
            raise InterfaceError(f"{port.asked}: the XDP program was detached; restart the sensor")
        if now.has_carrier != before.has_carrier:
            state = "restored" if now.has_carrier else "lost, no frames arrive"
            log.warning("%s: carrier %s", now.name, state)
        return now

    def _retry(self, port: Port) -> None:
        """Attach a lost port if it is time and it is back; else wait twice as long."""
        if time.monotonic() < port.due_s:
            return
        try:
            interface = check_interface(port.asked, self._mode, frags=self._frags)
            if interface.linktype != port.linktype:
                raise InterfaceError(f"{port.asked}: is of another kind than before; restart the sensor")
            port.interface = interface
            self._watch.add(interface.index)
            port.attach(self._program, self._mode)
        except SensorError as error:
            port.detach()
            port.postpone()
            log.debug("%s", error)
        else:
            log.info("%s: frames are captured again", port.asked)
