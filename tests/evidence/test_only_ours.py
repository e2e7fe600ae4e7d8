"""Whatever is in the place of one of our files: no command follows it, waits for it or changes it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from evidence_samples import NOON_S, item, writing
from indexing import indexing
from processes import wait_until

from sensor.bench import probe_frames
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.config.settings import Settings
from sensor.errors import EvidenceError
from sensor.evidence.block import block_of_objects
from sensor.evidence.device_directory import DeviceDirectory
from sensor.live import indexer_process
from sensor.process.granted_paths import Files
from sensor.protocols import UDP
from tests.api.api_samples import environment, serving
from tests.rules.commands import sensor

RULES = {"threat": {"rules": {"60001": {"type": "t", "name": "Word", "protocol": "udp", "regex": "ATTACK"}}}}
FOREIGN = b"Dear diary"
PCAP, INDEX = "3/202306181200.pcap", "3/20230618.sqlite"
PLACES = (PCAP, f"{PCAP}.temp", INDEX, f"{INDEX}-wal", f"{INDEX}-shm", f"{INDEX}-journal")
LOCKS = ("3/.lock", "3/.index.lock")
TOKENS = "tokens.json"


def _socket(path: Path, _foreign: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # the path of a socket is short
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(path.name)
    os.fchdir(here)
    os.close(here)


KINDS: dict[str, Callable[[Path, Path], object]] = {
    "FIFO": lambda path, _: os.mkfifo(path),
    "link": lambda path, foreign: path.symlink_to(foreign),
    "dangling link": lambda path, foreign: path.symlink_to(foreign.with_name("nothing")),
    "hard link": lambda path, foreign: path.hardlink_to(foreign),
    "directory": lambda path, _: path.mkdir(),
    "socket": _socket,
}
"""Each makes a path, given that of a file that belongs to somebody else."""
if os.geteuid() == 0:
    KINDS |= {
        "character device": lambda path, _: os.mknod(path, stat.S_IFCHR | 0o660, os.makedev(1, 3)),
        "block device": lambda path, _: os.mknod(path, stat.S_IFBLK | 0o660, os.makedev(7, 250)),
    }


class Site:
    """An evidence directory with an item, rules, a capture with another item, and a file that is not ours."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.evidence = directory, directory / "evidence"
        self.foreign = directory / "foreign"
        self.foreign.write_bytes(FOREIGN)
        self.foreign.chmod(0o600)
        (directory / "rules").mkdir()
        (directory / "rules" / "threat.json").write_text(json.dumps(RULES))
        frame = probe_frames.ipv4(UDP, probe_frames.udp(b"ATTACK", 514))
        write_capture(directory / "in.pcap", [Frame(NOON_S * 1_000_000, frame)])
        with writing(self.evidence) as writer:
            writer.write(block_of_objects([item(1)]))

    def put(self, place: str, kind: str) -> None:
        """Put something in the place of a file."""
        path = self.evidence / place
        path.unlink(missing_ok=True)
        KINDS[kind](path, self.foreign)

    def commands(self) -> Iterator[list[str]]:
        """Yield every command that uses the directory."""
        where = ["--evidence", str(self.evidence)]
        rules = ["--rules", str(self.directory / "rules")]
        yield ["evidence", "list", *where]
        yield ["evidence", "show", str(NOON_S * 1_000_000), *where]
        yield ["evidence", "verify", *where]
        yield ["evidence", "export", str(self.directory / "out.pcap"), *where]
        yield ["rules", "reload", *where]
        yield ["token", "list", *where]
        yield ["read", str(self.directory / "in.pcap"), *where, *rules]
        yield ["evidence", "reindex", *where, *rules]
        yield ["token", "create", "ann", *where]

    def check(self) -> None:
        """Check that the other file is what it was, and that no new one is beside it."""
        status = self.foreign.stat()
        assert self.foreign.read_bytes() == FOREIGN
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert not self.foreign.with_name("nothing").exists()


@pytest.fixture
def site() -> Iterator[Site]:
    """Return a site in a directory of its own."""
    with TemporaryDirectory() as name:
        yield Site(Path(name))


def outcomes(commands: list[list[str]]) -> dict[str, int | str]:
    """Run commands in a process that is killed if it hangs; return each command's exit code or traceback."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        found: dict[str, int | str] = {}
        for command in commands:
            try:
                found[" ".join(command[:2])] = sensor(*command).code
            except BaseException:
                found[" ".join(command[:2])] = traceback.format_exc()
        os.write(write_end, json.dumps(found).encode()[:60_000])
        os._exit(0)
    os.close(write_end)
    try:
        wait_until(lambda: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT), 0.01)
        with os.fdopen(read_end, "rb") as report:
            found = json.loads(report.read())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return dict(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [*PLACES, *LOCKS, TOKENS])
def test_commands(place: str, kind: str, site: Site) -> None:
    """Every command ends with a documented exit code, and leaves the other file alone."""
    site.put(place, kind)
    found = outcomes(list(site.commands()))
    assert set(found.values()) <= {0, 6}, found
    site.check()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hard link"])
def test_locks_and_tokens_are_refused(kind: str, site: Site) -> None:
    """The error names the file and what it is."""
    site.put("3/.lock", kind)
    done = sensor(
        "read", site.directory / "in.pcap", "--evidence", site.evidence, "--rules", site.directory / "rules"
    )
    assert done.code == 6
    assert "is in the place of a regular file" in done.err
    site.put(TOKENS, kind)
    done = sensor("token", "list", "--evidence", site.evidence)
    assert (done.code, len(done.err.splitlines())) == (6, 1)
    assert f"{TOKENS}: cannot be read: a" in done.err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_the_running_sensor(place: str, kind: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence is written and indexed, in other files if it must be."""
    monkeypatch.setattr(indexer_process, "MOST_SILENT_TICKS", 1_000_000)
    settings = Settings(rules=site.directory / "rules", evidence=site.evidence)
    if place != PCAP and not place.startswith(INDEX):
        (site.evidence / PCAP).unlink()
    site.put(place, kind)
    with indexing(settings) as run:
        run.writer.write(block_of_objects([item(2)]))
        assert (run.writer.written, run.writer.write_failed) == (1, 0)
        if (place.startswith(INDEX), kind) == (True, "directory"):  # the indexer may not move it
            run.tick_until(lambda: run.indexer.report.failures)
            (site.evidence / place).rmdir()
        run.tick_until(lambda: run.indexer.report.rows)
    site.check()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hard link"])
def test_exports_and_events(kind: str, site: Site) -> None:
    """A file that is written for the user has the evidence's mode, and no link is followed."""
    for name in ("out.pcap", "eve.json"):
        KINDS[kind](site.directory / name, site.foreign)
    done = sensor("evidence", "export", site.directory / "out.pcap", "--evidence", site.evidence)
    assert (done.code, len(done.err.splitlines())) == (6, 1)
    with pytest.raises(OSError, match="in the place of a regular file"):
        Files().append(site.directory / "eve.json")
    site.check()


def test_the_mode_of_an_export(site: Site) -> None:
    """It is that of evidence, also if it replaces a name of another file."""
    out = site.directory / "out.pcap"
    out.hardlink_to(site.foreign)
    assert sensor("evidence", "export", out, "--evidence", site.evidence).code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert sorted(path.name for path in site.directory.iterdir()) == [
        "evidence",
        "foreign",
        "in.pcap",
        "out.pcap",
        "rules",
    ]
    site.check()


@pytest.mark.parametrize("which", [".", "3"])
def test_directories_of_others(which: str, site: Site) -> None:
    """Nothing is written where somebody else, or everybody, can replace what is written."""
    command = (
        "read",
        site.directory / "in.pcap",
        "--evidence",
        site.evidence,
        "--rules",
        site.directory / "rules",
    )
    directory = site.evidence / which
    directory.chmod(0o757)
    done = sensor(*command)
    assert done.code == 6
    assert "may be written by everybody" in done.err
    directory.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(directory, 65534, 65534)
        done = sensor(*command)
        assert done.code == 6
        assert "belongs to nobody" in done.err
    site.check()


def test_a_link_in_the_place_of_the_directory(site: Site) -> None:
    """The directory of a device is not a link to another one."""
    elsewhere = site.directory / "elsewhere"
    elsewhere.mkdir()
    (site.evidence / "4").symlink_to(elsewhere)
    with pytest.raises(EvidenceError, match="is a symbolic link"):
        DeviceDirectory(site.evidence, 4)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_api(kind: str, site: Site) -> None:
    """It starts and answers, whatever is in the place of its files; an audit log that is none is refused."""
    site.directory.chmod(0o711)
    for place in (PCAP, INDEX, TOKENS, "3/holds.jsonl"):
        site.put(place, kind)
    with serving(site.evidence, "--rules", site.directory / "rules") as running:
        for path in ("/api/v1/evidence", "/api/v1/holds", "/api/v1/export.pcap", "/api/v1/status"):
            assert running.get(path).status_code in (200, 503), path
        held = running.client.post("/api/v1/holds?reason=x", headers={"Authorization": "Bearer sensor_x"})
        assert held.status_code == 401
    site.check()
    if kind != "directory":  # which `sensor serve` cannot open for other reasons
        KINDS[kind](site.directory / "audit.jsonl", site.foreign)
        command = [sys.executable, "-m", "sensor", "serve", "--listen", "127.0.0.1:0"]
        command += ["--evidence", site.evidence, "--audit", site.directory / "audit.jsonl"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "audit.jsonl: cannot be written" in done.stderr
        site.check()
