"""The evidence writer: the file of each frame, finishing files, and other files and writers."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from evidence_samples import (
    DEVID,
    NOON_S,
    NS,
    capinfos_counts,
    item,
    names_in,
    numbers_in,
    records_of,
    tcpdump_count,
    writing,
)

from sensor.errors import EvidenceError
from sensor.evidence.block import block_of_objects
from sensor.evidence.explain_block import explained
from sensor.evidence.file_name import WINDOW_S
from sensor.evidence.indexed_writer import IndexedWriter
from sensor.evidence.pcap import RecordReader, file_header
from sensor.evidence.writer import GRACE_S, MAX_OPEN_FILES
from sensor.model import LinkType
from sensor.rules.engine.http_payload import RFC9110


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the time zone to Berlin: UTC+2, and UTC+1 from 2023-10-29 01:00 UTC on."""
    with monkeypatch.context() as context:
        context.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("time_ns", "name"),
    [
        (NOON_S * NS - 1, "202306181155.pcap"),
        (NOON_S * NS, "202306181200.pcap"),
        (NOON_S * NS + 1, "202306181200.pcap"),
        ((NOON_S + 299) * NS + 999_999_999, "202306181200.pcap"),
        ((NOON_S + 300) * NS, "202306181205.pcap"),
        (0, "197001010000.pcap"),
        (1_704_067_199 * NS, "202312312355.pcap"),
        (1_704_067_200 * NS, "202401010000.pcap"),
    ],
)
def test_file_is_named_by_the_time_of_the_packet(tmp_path: Path, time_ns: int, name: str) -> None:
    """The name is the packet's time in UTC, exact to the nanosecond, with the minute rounded down to five."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(time_ns=time_ns)]))
    assert names_in(tmp_path) == [name]
    assert writer.paths == [tmp_path / str(DEVID) / name]


@pytest.mark.usefixtures("berlin")
def test_names_in_local_time(tmp_path: Path) -> None:
    """Files can be named in local time; times inside the file are in UTC."""
    with writing(tmp_path, local_time=True) as writer:
        writer.write(block_of_objects([item()]))
    assert names_in(tmp_path) == ["202306181400.pcap"]
    assert records_of(writer.paths[0])[0].time_us == NOON_S * 1_000_000


@pytest.mark.usefixtures("berlin")
def test_repeated_hour_shares_files(tmp_path: Path) -> None:
    """At the end of summer time two windows have the same local name and share one file."""
    twenty_past_two_s = 1_698_538_800
    with writing(tmp_path, local_time=True) as writer:
        writer.write(
            block_of_objects([item(0, twenty_past_two_s * NS), item(1, (twenty_past_two_s + 3600) * NS)])
        )
        writer.write(block_of_objects([item(2, twenty_past_two_s * NS)]))
    assert names_in(tmp_path) == ["202310290220.pcap"]
    assert numbers_in(writer.paths[0]) == [0, 1, 2]


def test_open_file_has_the_suffix_temp(tmp_path: Path) -> None:
    """An open file is recognisable by its name, and is readable."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(0), item(1)]))
        assert names_in(tmp_path) == ["202306181200.pcap.temp"]
        assert numbers_in(tmp_path / str(DEVID) / "202306181200.pcap.temp") == [0, 1]
    assert names_in(tmp_path) == ["202306181200.pcap"]


def test_tick_finishes_files_without_a_packet(tmp_path: Path) -> None:
    """A file is finished after its five minutes and a grace period, even without traffic."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(0), item(1, (NOON_S + WINDOW_S) * NS)]))
        writer.tick((NOON_S + WINDOW_S + GRACE_S) * NS - 1)
        assert names_in(tmp_path) == ["202306181200.pcap.temp", "202306181205.pcap.temp"]
        writer.tick((NOON_S + WINDOW_S + GRACE_S) * NS)
        assert names_in(tmp_path) == ["202306181200.pcap", "202306181205.pcap.temp"]
        writer.tick((NOON_S + 2 * WINDOW_S + GRACE_S) * NS)
        assert names_in(tmp_path) == ["202306181200.pcap", "202306181205.pcap"]


def test_late_packet_is_appended_to_its_finished_file(tmp_path: Path) -> None:
    """A packet of a past window is appended to the file of that window."""
    with writing(tmp_path) as writer:
        for number in range(3):
            writer.write(block_of_objects([item(number)]))
            writer.tick((NOON_S + 2 * WINDOW_S) * NS)
            assert names_in(tmp_path) == ["202306181200.pcap"]
    assert numbers_in(writer.paths[0]) == [0, 1, 2]


def test_late_packet_does_not_cost_a_scan(tmp_path: Path) -> None:
    """Reopening a file that this run has written does not read it again."""

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(number, caplen=60_000) for number in range(50)]))
        writer.tick((NOON_S + 2 * WINDOW_S) * NS)
        before = bytes_read()
        writer.write(block_of_objects([item(50)]))
        assert bytes_read() - before < 1_000_000
    assert numbers_in(writer.paths[0]) == list(range(51))


def test_restart_within_the_window_appends(tmp_path: Path) -> None:
    """A restart in the same five minutes loses and overwrites nothing."""
    for number in range(3):
        with writing(tmp_path) as writer:
            writer.write(block_of_objects([item(number)]))
            assert names_in(tmp_path) == ["202306181200.pcap.temp"]
    assert names_in(tmp_path) == ["202306181200.pcap"]
    assert numbers_in(writer.paths[0]) == [0, 1, 2]
    assert writer.recovered == []


def test_windows_and_link_types_mixed_in_one_batch(tmp_path: Path) -> None:
    """Each item goes to the file of its window and link type, in its original order."""
    linktypes = [LinkType.ETHERNET, LinkType.RAW, LinkType.LINUX_SLL]
    items = [
        item(number, (NOON_S + number % 2 * WINDOW_S) * NS, linktype=linktypes[number % 3])
        for number in range(60)
    ]
    with writing(tmp_path) as writer:
        writer.write(block_of_objects(items))
    assert names_in(tmp_path) == [
        "202306181200-linktype101.pcap",
        "202306181200-linktype113.pcap",
        "202306181200.pcap",
        "202306181205-linktype101.pcap",
        "202306181205-linktype113.pcap",
        "202306181205.pcap",
    ]
    assert [numbers_in(path) for path in writer.paths] == [list(range(n, 60, 6)) for n in (4, 2, 0, 1, 5, 3)]
    assert [tcpdump_count(path) for path in writer.paths] == [10] * 6
    assert capinfos_counts(writer.paths) == [10] * 6
    assert (writer.written, writer.write_failed) == (60, 0)


def test_any_number_of_windows_in_any_order(tmp_path: Path) -> None:
    """Windows can come in any order; few files are open at the same time, and all frames are written."""
    windows = 5 * MAX_OPEN_FILES
    order = [round_ * windows + n * 37 % windows for round_ in range(3) for n in range(windows)]
    with writing(tmp_path) as writer:
        for number in order:
            writer.write(block_of_objects([item(number, (NOON_S + number % windows * WINDOW_S) * NS)]))
            assert len([name for name in names_in(tmp_path) if name.endswith(".temp")]) <= MAX_OPEN_FILES
    assert [numbers_in(path) for path in writer.paths] == [
        [window, windows + window, 2 * windows + window] for window in range(windows)
    ]
    assert capinfos_counts(writer.paths) == [3] * windows


def test_longest_frames_are_read_whole_by_tcpdump(tmp_path: Path) -> None:
    """Tcpdump reads frames longer than 65535 bytes, as on a loopback interface, unchanged."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(0, caplen=65_549), item(1, caplen=262_144), item(2)]))
    copy = tmp_path / "copy.pcap"
    command = ["tcpdump", "-Z", "root", "-r", writer.paths[0], "-w", copy]
    subprocess.run(command, check=True, capture_output=True)
    assert copy.read_bytes() == writer.paths[0].read_bytes()


@pytest.mark.parametrize("time_ns", [-1, (1 << 32) * NS, (1 << 63) - 1])
def test_time_that_pcap_cannot_hold_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, time_ns: int
) -> None:
    """A frame with an impossible time, from a foreign capture file, is counted; the others are written."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(0), item(1, time_ns), item(2)]))
    assert (writer.written, writer.write_failed) == (2, 1)
    assert numbers_in(writer.paths[0]) == [0, 2]
    assert "time of a packet is outside 1970 to 2106" in caplog.text


def test_second_writer_is_rejected(tmp_path: Path) -> None:
    """A second writer in a directory is rejected, and the message names the first one."""
    with writing(tmp_path), pytest.raises(EvidenceError, match=f"process {os.getpid()} already .* --devid"):
        IndexedWriter(tmp_path, DEVID)
    with writing(tmp_path):
        IndexedWriter(tmp_path, DEVID + 1).close()


def test_directory_that_cannot_be_created_is_an_error_at_start(tmp_path: Path) -> None:
    """A wrong path is an error at the start, with the path and the flag to change."""
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(EvidenceError, match=f"cannot write evidence to {in_the_way}/3: .* --evidence"):
        IndexedWriter(in_the_way, DEVID)


def test_directory_that_cannot_be_written_is_an_error_at_start() -> None:
    """A directory in which even root cannot create a file is an error at the start."""
    with pytest.raises(EvidenceError, match="cannot write evidence to /sys/kernel/3: "):
        IndexedWriter(Path("/sys/kernel"), DEVID)


def test_modes_of_files_and_directories(tmp_path: Path) -> None:
    """Directories have mode 0750 and files 0640, because packets are confidential."""
    evidence = tmp_path / "cap"
    with writing(evidence) as writer:
        writer.write(block_of_objects([item()]))
    paths = (evidence, evidence / str(DEVID), writer.paths[0])
    assert [oct(path.stat().st_mode & 0o777) for path in paths] == ["0o750", "0o750", "0o640"]


FOREIGN = {
    "big endian": struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1),
    "nanoseconds": struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1),
    "other link type": file_header(LinkType.RAW),
    "damaged": file_header(LinkType.ETHERNET) + b"\xff" * 100,
    "text": b"Dear diary, today",
}


@pytest.mark.parametrize("suffix", ["", ".temp"])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_file_is_never_touched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, suffix: str
) -> None:
    """A foreign file with an evidence name is left as it is; evidence goes to a file beside it."""
    foreign = tmp_path / str(DEVID) / f"202306181200.pcap{suffix}"
    foreign.parent.mkdir()
    foreign.write_bytes(content)
    for number in range(2):
        with writing(tmp_path) as writer:
            writer.write(block_of_objects([item(10 * number)]))
            writer.tick((NOON_S + 2 * WINDOW_S) * NS)
            writer.write(block_of_objects([item(10 * number + 1)]))
    assert foreign.read_bytes() == content
    assert names_in(tmp_path) == ["202306181200-2.pcap", foreign.name]
    assert numbers_in(tmp_path / str(DEVID) / "202306181200-2.pcap") == [0, 1, 10, 11]
    assert (writer.written, writer.write_failed) == (2, 0)
    assert "202306181200.pcap is foreign or damaged" in caplog.text


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_name_that_is_not_a_regular_file(tmp_path: Path, make: object) -> None:
    """A directory, pipe or link with an evidence name is not followed, opened or replaced."""
    in_the_way = tmp_path / str(DEVID) / "202306181200.pcap"
    in_the_way.parent.mkdir()
    make(in_the_way)
    before = in_the_way.lstat()
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item()]))
    assert names_in(tmp_path) == ["202306181200-2.pcap", "202306181200.pcap"]
    assert in_the_way.lstat() == before


def test_final_name_used_while_writing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that appears under the final name is not replaced; the evidence file stays ``.temp``."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(0)]))
        in_the_way = tmp_path / str(DEVID) / "202306181200.pcap"
        in_the_way.write_bytes(b"Dear diary")
    assert in_the_way.read_bytes() == b"Dear diary"
    assert numbers_in(tmp_path / str(DEVID) / "202306181200.pcap.temp") == [0]
    assert "202306181200.pcap.temp was removed or cannot be finished" in caplog.text


def test_removed_file_is_created_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the open file is removed, the following frames go to a new file."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(0)]))
        (tmp_path / str(DEVID) / "202306181200.pcap.temp").unlink()
        writer.write(block_of_objects([item(1)]))
    assert numbers_in(writer.paths[0]) == [1]
    assert (writer.written, writer.write_failed) == (2, 0)
    assert "202306181200.pcap.temp was removed" in caplog.text


def test_changed_file_is_checked_before_appending(tmp_path: Path) -> None:
    """A late packet is appended after the last whole record, even if the finished file was cut."""
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(0), item(1)]))
        writer.tick((NOON_S + 2 * WINDOW_S) * NS)
        path = writer.paths[0]
        os.truncate(path, path.stat().st_size - 1)
        writer.write(block_of_objects([item(2)]))
    assert numbers_in(path) == [0, 2]


def test_normal_operation_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Writing, finishing and appending without problems log nothing."""
    caplog.set_level(logging.DEBUG)
    for _ in range(2):
        with writing(tmp_path) as writer:
            writer.write(block_of_objects([item()]))
            writer.write(block_of_objects([]))
            writer.tick((NOON_S + 2 * WINDOW_S) * NS)
    assert caplog.records == []


def test_write_returns_the_places_of_items(tmp_path: Path) -> None:
    """`write` returns the file and offset of each item, for all windows and link types."""
    items = [
        item(number, (NOON_S + 200 * number) * NS, caplen=62 + number, linktype=1 if number % 3 else 101)
        for number in range(9)
    ]
    chunks = []
    for part in (items[:5], items[5:]):
        with writing(tmp_path) as writer:
            chunks += writer.write(block_of_objects(part))
    found = {}
    for chunk in chunks:
        assert chunk.path
        with chunk.path.open("rb") as file:
            by_offset = {record.offset: record for record in RecordReader(file)}
        for position, offset in enumerate(chunk.offsets()[:-1].tolist()):
            found[by_offset[offset].frame] = bytes(chunk.block.frame(position))
    assert found == {one.frame: one.frame for one in items}


def test_write_returns_unwritten_items(tmp_path: Path) -> None:
    """`write` returns items that could not be written, without a path."""
    late = item(1, (1 << 32) * NS)
    with writing(tmp_path) as writer:
        [first, second] = writer.write(block_of_objects([item(0), late]))
    assert first.path
    assert list(explained(first.block, RFC9110)) == [item(0)]
    assert (second.path, list(explained(second.block, RFC9110))) == (None, [late])
    assert (writer.matches_written, writer.matches_failed) == ({"flow": 1}, {"flow": 1})
