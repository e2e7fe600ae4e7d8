"""Notifications follow sd_notify(3), through sockets in the file system and abstract ones."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sensor.live.service_manager import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """Yield the socket of a service manager, and the environment it gives to a service."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@sensor-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + address[1:] if address.startswith("@") else address)
        end.settimeout(10)
        yield end, {"NOTIFY_SOCKET": address, "OTHER": "stays"}


def test_each_message(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """Each message is as in sd_notify(3); a reload is sent once, with its start time."""
    end, environment = manager
    before_us = time.monotonic_ns() // 1000
    with closing(Notifier(environment)) as notifier:
        notifier.ready()
        notifier.status("12 frames/s")
        for is_loading in (False, True, True, False, False):
            notifier.reloading(is_loading)
        notifier.alive()
        notifier.stopping()
    assert environment == {"OTHER": "stays"}
    assert [end.recv(4096) for _ in range(2)] == [b"READY=1", b"STATUS=12 frames/s"]
    reloading, moment = end.recv(4096).split(b"\n")
    assert reloading == b"RELOADING=1"
    assert before_us <= int(moment.removeprefix(b"MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert [end.recv(4096) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]


def test_the_watchdog_is_fed_when_it_is_due(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """Twice per period, however often `alive` is called; never if the watchdog is for another process."""
    end, environment = manager
    period_us = 200_000
    watched = {"WATCHDOG_USEC": str(period_us), "WATCHDOG_PID": str(os.getpid())}
    with closing(Notifier(environment | watched)) as notifier:
        notifier.alive()
        began_ns = time.monotonic_ns()
        notifier.alive()
        assert end.recv(4096) == b"WATCHDOG=1"
        end.setblocking(False)
        is_fed = False
        while not is_fed:
            notifier.alive()
            with suppress(BlockingIOError):
                is_fed = end.recv(4096) == b"WATCHDOG=1"
        assert time.monotonic_ns() - began_ns >= period_us // 2 * 1000 * 0.9
    with closing(Notifier(environment | watched | {"WATCHDOG_PID": "1"})) as notifier:
        notifier.alive()
        with pytest.raises(BlockingIOError):
            end.recv(4096)


def test_no_service_manager(tmp_path: Path) -> None:
    """Without a service manager, or with one that is gone, nothing fails."""
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1"}):
        with closing(Notifier(environment)) as notifier:
            notifier.ready()
            notifier.alive()
