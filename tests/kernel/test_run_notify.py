"""`sensor run` notifies a service manager at the right moments."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from live import running
from test_reload import HELLO, write_rules
from test_run import Network, xdp_program

pytestmark = pytest.mark.kernel

FAULTY = {"1": HELLO["1"] | {"regex": "^(hello"}}


def test_a_service_from_its_start_to_its_end(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready once attached, watchdog, status, reloading and ready again after success or failure, stopping."""
    write_rules(tmp_path / "rules", HELLO)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")

        def next_message(*other_than: bytes) -> str:
            """Return the next message that does not start with one of ``other_than``."""
            while (message := manager.recv(4096)).startswith(other_than):
                pass
            return message.decode()

        alive, status = b"WATCHDOG=1", b"STATUS="
        with running(network[0], tmp_path / "evidence", "--rules", str(tmp_path / "rules")) as run:
            assert next_message(alive) == "READY=1"
            assert xdp_program(network[0]) is not None
            assert [next_message(status) for _ in range(2)] == ["WATCHDOG=1"] * 2
            for content in (HELLO, FAULTY):
                write_rules(tmp_path / "rules", content)
                run.process.send_signal(signal.SIGHUP)
                assert next_message(alive, status).startswith("RELOADING=1\nMONOTONIC_USEC=")
                assert next_message(alive, status) == "READY=1"
            assert next_message(alive).endswith("lost 0  undecodable 0  matched 0  written 0")
            assert run.stop() == 0
            assert next_message(alive, status) == "STOPPING=1"
