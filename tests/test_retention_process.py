"""Evidence is deleted by a process of its own, which may die or stall at any time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from processes import TIMEOUT_S, is_running, wait_until

from sensor.config.settings import Settings
from sensor.evidence.message import MalformedMessageError
from sensor.evidence.retention import LIMIT_NAMES, Deleted, Space
from sensor.live import retention_process
from sensor.live.retention_channel import RetentionReport
from sensor.live.retention_process import RetentionProcess

REPORT = RetentionReport(
    dict.fromkeys(LIMIT_NAMES, Deleted(1, 2)), 3, Space(4.5, is_short=True), ["202306181200.pcap"]
)


class Run:
    """A process that deletes evidence, and what it was heard to say."""

    def __init__(self, directory: Path, **settings: float) -> None:
        self.deleted: list[str] = []
        self.unknown = 0
        self.process = RetentionProcess(
            Settings(retain_free_percent=0, **settings), directory, self.deleted.extend, self._count
        )

    def _count(self) -> None:
        self.unknown += 1

    def tick_until(self, holds: Callable[[], object]) -> None:
        """Do what the supervisor's loop does, until a condition is true."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < deadline_s
            self.process.tick()
            time.sleep(0.002)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the process, once it is prepared for that; return its process id."""
        pid = self.process.pid
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sensor-retain\n")
        os.kill(pid, number)
        return pid


@contextmanager
def run(directory: Path, **settings: float) -> Iterator[Run]:
    """Start a process that deletes evidence in a directory, and end it."""
    one = Run(directory, **settings)
    with closing(one.process):
        yield one


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_process, "BACKOFF_S", 0.0)
    monkeypatch.setattr(retention_process, "MOST_SILENT_TICKS", 1_000_000)  # they follow each other quickly


def make_files(directory: Path, count: int) -> list[str]:
    """Make evidence files of 1024 bytes; return their names."""
    names = [f"20230618{hour:02}{minute:02}.pcap" for hour in range(24) for minute in range(0, 60, 5)]
    for name in names[:count]:
        (directory / name).write_bytes(bytes(1024))
    return names[:count]


def test_the_oldest_files_are_deleted(tmp_path: Path) -> None:
    """Their names and the limit are reported; the process can then end."""
    names = make_files(tmp_path, 50)
    with run(tmp_path, retain_gib=10 / 2**20) as one:
        one.tick_until(lambda: len(one.deleted) == 40)
        assert sorted(path.name for path in tmp_path.glob("*.pcap")) == names[40:]
        assert one.deleted == names[:40]
        one.tick_until(lambda: one.process.deleted["size"] == (40, 40 * 1024))
        assert one.process.space.is_short
        pid = one.process.pid
    assert not is_running(pid)
    assert one.unknown == 0


def test_a_killed_process_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The files are compared with the index; figures are sums of both processes."""
    make_files(tmp_path, 20)
    with run(tmp_path, retain_gib=10 / 2**20) as one:
        one.tick_until(lambda: one.process.deleted["size"].files == 10)
        first = one.signal(signal.SIGKILL)
        wait_until(lambda: not is_running(first))
        one.tick_until(lambda: one.process.pid != first)
        assert one.unknown == 1
        make_files(tmp_path, 15)
        one.tick_until(lambda: one.process.deleted["size"].files == 20)
    assert "the process that deletes evidence died (exit code -9)" in caplog.text


def test_a_stopped_process_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is killed when it has been silent for too long."""
    with run(tmp_path, retain_days=1) as one:
        stopped = one.signal(signal.SIGSTOP)
        monkeypatch.setattr(retention_process, "MOST_SILENT_TICKS", 50)
        one.tick_until(lambda: one.process.pid != stopped)
        monkeypatch.setattr(retention_process, "MOST_SILENT_TICKS", 1_000_000)
        assert not is_running(stopped)
    assert "has stalled and is killed" in caplog.text


@pytest.mark.parametrize("sent", [b"garbage", b"{}", REPORT._replace(names=["../x.pcap"]).pack()], ids="abc")
def test_a_malformed_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    """A process that sends something else than a possible report is killed, and nothing is believed."""
    (tmp_path / "sent").write_bytes(sent)
    send = "socket.socket(fileno=int(sys.argv[2])).send(open(sys.argv[1], 'rb').read())"
    program = f"import socket, sys, time; {send}; time.sleep(100)"
    monkeypatch.setattr(retention_process, "COMMAND", [sys.executable, "-c", program, str(tmp_path / "sent")])
    monkeypatch.setattr(retention_process, "BACKOFF_S", 60.0)
    with run(tmp_path) as one:
        pid = one.process.pid
        one.tick_until(lambda: not is_running(pid))
        assert one.deleted == []
    assert "and is killed" in caplog.text


def test_reports() -> None:
    """A report survives the channel, also with unlimited space."""
    for report in (REPORT, REPORT._replace(space=Space(), names=[])):
        assert RetentionReport.of(report.pack()) == report
    with pytest.raises(MalformedMessageError):
        RetentionReport.of(b"")


def test_the_end_between_a_death_and_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor ends normally while the process that died has no successor yet."""
    monkeypatch.setattr(retention_process, "BACKOFF_S", 60.0)
    with run(tmp_path) as one:
        one.signal(signal.SIGKILL)
        one.tick_until(lambda: one.unknown)
