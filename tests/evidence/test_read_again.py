"""A capture file that is read again adds nothing, whatever its name; evidence knows where it came from."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from evidence_samples import PROGRAM_ENVIRONMENT, names_in
from processes import wait_until
from test_evidence_command import SENSOR

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.evidence.origins import CAPTURES
from tests.rules.commands import Done, sensor

HEAD = 24
"""Bytes of the header of a pcap file."""


class Site:
    """A capture file, its rules, and a directory for its evidence."""

    def __init__(self, directory: Path, rules: Path) -> None:
        self.directory = directory
        self.evidence = directory / "evidence"
        self.rules = rules
        self.capture = directory / "capture.pcap"
        write_capture(self.capture, mix.demo(seed=1).frames)

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of a command that keeps evidence."""
        return "--rules", str(self.rules), "--evidence", str(self.evidence)

    def read(
        self, *arguments: object, stdin: int | BinaryIO | None = None, content: bytes | None = None
    ) -> Done:
        """Read files and keep their evidence."""
        command = [*SENSOR, "read", *map(str, arguments), *self.flags]
        done = subprocess.run(
            command, stdin=stdin, input=content, capture_output=True, env=PROGRAM_ENVIRONMENT
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def read_pipe(self, content: bytes) -> str:
        """Read standard input; return the log."""
        return self.read("-", content=content).err

    def write(self, name: str, content: bytes) -> Path:
        """Write another file."""
        path = self.directory / name
        path.write_bytes(content)
        return path

    def stored(self) -> list[tuple[Any, ...]]:
        """Return what is stored, item by item; check that files and index agree."""
        assert sensor("evidence", "verify", "--evidence", self.evidence).code == 0
        names = "time_us", "sip", "sport", "caplen", "role", "conversation"
        return sorted(tuple(str(one[name]) for name in names) for one in self._listed())

    def matches(self) -> int:
        """Return the number of packets that match, without context."""
        return sum(one["role"] == "hit" for one in self._listed())

    def _listed(self) -> list[dict[str, Any]]:
        return sensor("evidence", "list", "--evidence", self.evidence, "--limit", "100000", "--json").objects


@pytest.fixture
def site(tmp_path: Path, few_rules: Path) -> Site:
    """Return a site without evidence."""
    return Site(tmp_path, few_rules)


def counters(log: str) -> dict[str, int]:
    """Return the counters in the log of a command; check that each matched frame has one place."""
    found: dict[str, int] = json.loads(log.split("counters: ")[1].splitlines()[0])
    places = ("written", "suppressed", "write_failed", "stored_before")
    assert found["matched"] == sum(found.get(name, 0) for name in places)
    return found


def zipped(site: Site) -> Path:
    """Return the capture file, compressed."""
    return site.write("capture.pcap.gz", gzip.compress(site.capture.read_bytes()))


@pytest.mark.parametrize(
    "again",
    [
        lambda site: site.capture,
        lambda site: shutil.copy(site.capture, site.directory / "other name.cap"),
        zipped,
        lambda site: site.write("torn.pcap", site.capture.read_bytes()[:-7]),
    ],
    ids=["itself", "copy", "gzip", "torn copy"],
)
def test_the_same_content_adds_nothing(site: Site, again: Callable[[Site], Path]) -> None:
    """All matches are printed, nothing is stored, and the command says so."""
    first = site.read(site.capture)
    before, files = (
        site.stored(),
        {path: path.stat().st_size for path in (site.evidence / "3").glob("*.pcap")},
    )
    path = again(site)
    done = site.read(path)
    assert (done.code, done.out) == (7 if path.name.startswith("torn") else 0, first.out)
    assert "nothing to add" in done.err or "0 were added" in done.err
    assert counters(done.err)["stored_before"] == site.matches() > 0
    assert site.stored() == before
    assert {path: path.stat().st_size for path in files} == files


def test_twice_in_one_command_and_after_the_index(site: Site) -> None:
    """Neither the command nor the index is what knows the file."""
    done = site.read(site.capture, site.capture)
    assert counters(done.err)["stored_before"] > 0
    before = site.stored()
    for path in (site.evidence / "3").glob("*.sqlite*"):
        path.unlink()
    assert sensor("evidence", "reindex", *site.flags).code == 0
    assert "already read on" in site.read(site.capture).err
    assert site.stored() == before


def test_standard_input(site: Site) -> None:
    """A pipe is recognised by its beginning, and a file that is redirected as any other."""
    content = site.capture.read_bytes()
    site.read_pipe(content)
    before = site.stored()
    assert "already read on" in site.read_pipe(content)
    assert "already read on" in site.read(site.capture).err
    with site.capture.open("rb") as file:
        assert "already read on" in site.read("-", stdin=file).err
    assert site.stored() == before


@pytest.mark.parametrize("size", [100, 4000, 300_000, 2_000_000])
def test_a_file_that_grew_adds_the_rest(site: Site, size: int) -> None:
    """Nothing of a torn or growing file is stored twice, and nothing is missing."""
    content = site.capture.read_bytes()
    growing = site.write("growing.pcap", content[:size])
    assert site.read(growing).code == 7
    growing.write_bytes(content)
    assert site.read(growing).code == 0
    assert site.matches() == counters(site.read(site.capture).err)["stored_before"]
    whole = Site(site.directory / "whole", site.rules) if (site.directory / "whole").mkdir() is None else site
    whole.read(whole.capture)
    assert site.stored() == whole.stored()


def test_a_reader_that_is_killed(site: Site) -> None:
    """The next one stores what is missing, also if other evidence went to the same files meanwhile."""
    content = site.capture.read_bytes()
    middle = 1_500_000
    other = site.write("other.pcap", content[:HEAD])
    write_capture(other, mix.demo(seed=2).frames)
    command = [*SENSOR, "read", "-", *site.flags]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=PROGRAM_ENVIRONMENT) as process:
        assert process.stdin
        process.stdin.write(content[:middle])
        process.stdin.flush()
        wait_until(lambda: any((site.evidence / "3").glob("*.temp")))
        process.kill()
    assert any(name.endswith(".temp") for name in names_in(site.evidence))
    site.read(other)
    partly = counters(site.read(site.capture).err)
    assert min(partly["written"], partly["stored_before"]) > 0
    assert sensor("evidence", "reindex", *site.flags).code == 0  # rows died with the reader
    alone = site.directory / "alone"
    for path in (site.capture, other):
        sensor("read", path, "--rules", site.rules, "--evidence", alone)
    expected = sensor("evidence", "list", "--evidence", alone, "--limit", "100000", "--json")
    assert len(site.stored()) == len(expected.objects)


def test_what_was_deleted_is_stored_again(site: Site) -> None:
    """After retention, or a removal by hand, what is missing comes back, and only that."""
    site.read(site.capture)
    before = site.stored()
    deleted = next((site.evidence / "3").glob("*[0-9].pcap"))
    deleted.unlink()
    done = counters(site.read(site.capture).err)
    assert min(done["written"], done["stored_before"]) > 0
    assert site.stored() == before
    assert "nothing to add" in site.read(site.capture).err


def test_other_rules_add_what_only_they_find(site: Site) -> None:
    """A file is worth reading again after the rules or the settings changed."""
    everything = counters(site.read(site.capture).err)["written"]
    shutil.rmtree(site.evidence)
    threats = counters(site.read(site.capture, "--keep", "threat").err)["written"]
    added = counters(site.read(site.capture).err)
    assert (added["written"], added["stored_before"]) == (everything - threats, threats)
    assert site.matches() == everything


def test_flows_that_other_files_began(site: Site) -> None:
    """A file that finds more alone than after others adds nothing either: its evidence was decided on."""
    content = site.capture.read_bytes()
    other = site.write("other.pcap", content[:16] + b"\xff\xff\3\0" + content[20:])  # another snaplen
    site.read(other, site.capture)
    before = site.stored()
    assert "nothing to add" in site.read(site.capture).err
    assert site.stored() == before


def test_equal_packets_of_one_file_are_all_kept(site: Site) -> None:
    """Only what a file has more than once, or a different file has, is stored more than once."""
    content = site.capture.read_bytes()
    double = site.write("double.pcap", content + content[HEAD:])
    written = counters(site.read(double).err)["written"]
    assert counters(site.read(double).err)["stored_before"] == written
    other = site.write(
        "other.pcap", content[:HEAD] + content[HEAD + 16 + int.from_bytes(content[32:36], "little") :]
    )
    assert counters(site.read(other).err)["written"] > 0


def test_show_names_the_capture_file(site: Site) -> None:
    """The name is that of the file as it was read, with its digest; it is escaped on a terminal."""
    path = site.write("case\x1b17\udcff.pcap", site.capture.read_bytes())
    site.read(path)
    item = sensor("evidence", "list", "--evidence", site.evidence, "--limit", "1", "--json").objects[0]
    where = (item["time_us"], "--evidence", site.evidence)
    digest = subprocess.run(["sha256sum", site.capture], capture_output=True, text=True, check=True).stdout[
        :64
    ]
    shown = sensor("evidence", "show", *where).out
    assert "/case\\x1b17\\xff.pcap on 20" in shown
    assert f"SHA-256 {digest}" in shown
    capture = sensor("evidence", "show", *where, "--json").objects[0]["capture"]
    assert (capture["sha256"], capture["size"]) == (digest, site.capture.stat().st_size)


def test_a_damaged_file_is_known_as_a_whole(site: Site) -> None:
    """Its digest is that of all its bytes, also of those behind the damage."""
    damaged = site.write("damaged.pcap", site.capture.read_bytes()[:1_000_000] + b"\xff" * (1 << 24))
    assert site.read(damaged).code == 7
    digest = hashlib.sha256(damaged.read_bytes()).hexdigest()
    assert f'"sha256": "{digest}"' in (site.evidence / "3" / CAPTURES).read_text()
    assert "nothing to add" in site.read(damaged).err
    other = site.write("other.pcap", damaged.read_bytes()[:-1])
    assert "nothing to add" not in site.read(other).err


@pytest.mark.parametrize(
    "torn", [b'{"time"', b"\xff\n", b"[]\n", b'{"time":"","action":"end","capture":"x"}\n']
)
def test_a_damaged_line_costs_no_other(site: Site, torn: bytes) -> None:
    """A line that a killed process left in the journal does not matter."""
    site.read(site.capture)
    with (site.evidence / "3" / CAPTURES).open("ab") as journal:
        journal.write(torn)
    assert "nothing to add" in site.read(site.capture).err
    assert "nothing to add" in site.read(zipped(site)).err


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_journal_that_is_none(site: Site, kind: str) -> None:
    """The command is refused, since it could store evidence twice; nothing is followed or waited for."""
    (site.evidence / "3").mkdir(parents=True)
    journal = site.evidence / "3" / CAPTURES
    if kind == "link":
        journal.symlink_to(site.directory / "nothing")
    elif kind == "fifo":
        os.mkfifo(journal)
    else:
        journal.mkdir()
    done = site.read(site.capture)
    assert (done.code, "move it away" in done.err, "Traceback" in done.err) == (6, True, False)
    assert not (site.directory / "nothing").exists()
