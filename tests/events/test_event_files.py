"""File receivers: whole lines, rotation by size and by logrotate, and the checks of receiver URLs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from event_samples import chunk, sending
from processes import wait_until

from sensor.config.settings import Settings
from sensor.doctor.setting_faults import event_faults
from sensor.errors import SettingsError
from sensor.events.eve import Event
from sensor.events.receiver import Receiver
from sensor.events.sender import EventSender
from sensor.events.url import receiver_of

LINE = Event(b'{"a":1}', 0, 1)


def opened(url: str) -> Receiver:
    """Return the receiver that a URL names, open."""
    receiver = receiver_of(url)
    receiver.open()
    return receiver


def ports(path: Path) -> list[int]:
    """Return the source ports, which number the evidence items, of the events in a file."""
    return [json.loads(line)["src_port"] for line in path.read_text().splitlines()]


def test_lines_are_appended(tmp_path: Path) -> None:
    """New lines follow the old ones; the file is not world-readable."""
    path = tmp_path / "eve.json"
    for first in (0, 10):
        with sending(f"file:{path}") as sender:
            sender.offer([chunk(first, 10)])
    assert ports(path) == list(range(20))
    assert path.stat().st_mode & 0o777 == 0o640


def test_rotation_by_size(tmp_path: Path) -> None:
    """No file exceeds ``mib``, ``keep`` old files stay, and no line between them is lost."""
    path = tmp_path / "eve.json"
    file = opened(f"file:{path}?mib=1&keep=2")
    line = Event(b"x" * (1 << 19), 0, 1)  # with its newline, one fits
    for number in range(5):
        file.send(line._replace(line=line.line + b"%d" % number))
    file.close()
    last = {one.name: one.read_bytes()[-2:] for one in tmp_path.iterdir()}
    assert last == {"eve.json": b"4\n", "eve.json.1": b"3\n", "eve.json.2": b"2\n"}


@pytest.mark.parametrize("loss", ["removed", "renamed", "replaced"])
@pytest.mark.parametrize("is_busy", [False, True])
def test_a_file_that_is_gone(
    loss: str, is_busy: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Later events go to the file that has the name, without a signal; what somebody put there is kept."""
    path = tmp_path / "eve.json"
    with sending(f"file:{path}") as sender:
        sender.offer([chunk(0, 10)])
        wait_until(lambda: sender.states()[0].sent == 10)
        if loss == "removed":
            path.unlink()
        elif loss == "renamed":
            path.rename(tmp_path / "eve.json.1")
        else:
            (tmp_path / "new").touch()
            (tmp_path / "new").replace(path)
        sent = 10

        def is_noticed() -> bool:
            nonlocal sent
            if is_busy:
                sender.offer([chunk(sent, 1)])
                sent += 1
            return sender.states()[0].replaced > 0

        wait_until(is_noticed)
        sender.offer([chunk(sent, 10)])
    assert ports(path)[-10:] == list(range(sent, sent + 10))
    if loss != "renamed":
        assert ports(path) == list(range(10, sent + 10)) or loss == "replaced"
    else:
        assert [*ports(tmp_path / "eve.json.1"), *ports(path)] == list(range(sent + 10))
    state = sender.states()[0]
    assert (state.sent, state.lost, state.replaced) == (sent + 10, 0, 1)
    assert capfd.readouterr().err.count("without a signal") == 1


def test_mib_0_turns_rotation_off(tmp_path: Path) -> None:
    """With mib=0 only other programs rotate the file."""
    file = opened(f"file:{tmp_path / 'eve.json'}?mib=0")
    for _ in range(3):
        file.send(Event(b"x" * (1 << 20), 0, 1))
    file.close()
    assert [one.name for one in tmp_path.iterdir()] == ["eve.json"]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """An incomplete line is removed, and written again once there is room."""
    path = tmp_path / "eve.json"
    file = opened(f"file:{path}")
    file.send(LINE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (11, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            file.send(LINE)
        assert path.read_bytes() == LINE.line + b"\n"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.send(LINE)
    assert path.read_bytes() == 2 * (LINE.line + b"\n")


def test_a_file_truncated_by_another_program(tmp_path: Path) -> None:
    """Writing continues at the start, without a hole (logrotate's copytruncate)."""
    path = tmp_path / "eve.json"
    file = opened(f"file:{path}")
    file.send(LINE)
    os.truncate(path, 0)
    file.send(LINE)
    assert path.read_bytes() == LINE.line + b"\n"


def test_logrotate(tmp_path: Path) -> None:
    """The renamed file gets the lines before the signal, the new file those after it; none is lost."""
    path = tmp_path / "eve.json"
    (tmp_path / "conf").write_text(f"{path} {{\n    rotate 3\n    size 1\n    create 0640\n}}\n")
    (tmp_path / "conf").chmod(0o644)
    rotate = ["logrotate", "--state", str(tmp_path / "state"), str(tmp_path / "conf")]
    with sending(f"file:{path}?mib=0") as sender:
        sender.offer([chunk(0, 10)])
        wait_until(lambda: sender.states()[0].sent == 10)
        subprocess.run(rotate, check=True)
        sender.offer([chunk(10, 10)])
        wait_until(lambda: sender.states()[0].sent == 20)
        assert ports(tmp_path / "eve.json.1") == list(range(20))
        sender.request_reopen()
        sender.tick()
        sender.offer([chunk(20, 10)])
    assert ports(tmp_path / "eve.json.1") == list(range(20))
    assert ports(path) == list(range(20, 30))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://logs/", "must start with one of file:, unix:, syslog+udp:, syslog+tcp:, syslog+tls:"),
        ("eve.json", "must start with one of"),
        ("file:eve.json", "needs an absolute path, like file:/"),
        ("file://var/log/eve.json", "needs an absolute path"),
        ("file:{tmp}/nowhere/eve.json", "nowhere: No such file or directory"),
        ("file:{tmp}/no.pem/eve.json", "no.pem: Not a directory"),
        ("file:{tmp}", "a directory is in the place of a regular file"),
        ("file:{tmp}/fifo", "a FIFO is in the place of a regular file"),
        ("file:{tmp}/eve.json?mb=5", "unknown option mb"),
        ("file:{tmp}/eve.json?mib=much", "invalid literal"),
        ("file:{tmp}/eve.json?keep=0", "keep must be 1 or more"),
        ("unix:run/x", "needs an absolute path, like unix:/"),
        ("syslog+udp://logs", "needs a host and a port, like syslog+udp://"),
        ("syslog+tcp://:514", "needs a host and a port"),
        ("syslog+tcp://logs:port", "Port could not be cast"),
        ("syslog+tcp://logs:70000", "Port out of range"),
        ("syslog+tcp://logs..example:514", "label empty"),
        ("syslog+tls://logs:6514?ca={tmp}/none.pem", "none.pem: No such file or directory"),
        ("syslog+tls://logs:6514?ca={tmp}/no.pem", "no certificate or crl found"),
        ("syslog+tls://logs:6514?key={tmp}/no.pem", "key needs cert"),
    ],
)
def test_invalid_receivers_are_refused(tmp_path: Path, url: str, why: str) -> None:
    """The error, raised before anything starts, has the URL and the reason."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "no.pem").write_text("no certificate\n")
    url = url.replace("{tmp}", str(tmp_path))
    with pytest.raises(SettingsError) as refused:
        EventSender(Settings(events=(url,)), as_json=False)
    assert str(refused.value).startswith(f"events: {url}: ")
    assert why in str(refused.value)


def test_the_check_creates_no_file(tmp_path: Path) -> None:
    """A file created by the check could belong to another user, and the sensor could not write to it."""
    assert list(event_faults(Settings(events=(f"file:{tmp_path}/eve.json",)))) == []
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_write_permission(tmp_path: Path) -> None:
    """An unprivileged user gets the reason."""
    program = "from sensor.events.url import receiver_of; import sys; receiver_of(sys.argv[1])"
    path = tmp_path / "eve.json"
    tmp_path.chmod(0o555)
    command = [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        sys.executable,
        "-c",
        program,
        f"file:{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"{tmp_path}: Permission denied" in done.stderr
