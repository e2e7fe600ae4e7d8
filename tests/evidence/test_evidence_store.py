"""The writer: which file a frame goes to, when files are finished, and who else may be in the directory."""

from __future__ import annotations

import logging
import os
import stat
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
from sensor.evidence.evidence_file import WINDOW_S
from sensor.evidence.pcap import RecordReader, file_header
from sensor.evidence.writer import GRACE_S, MAX_OPEN_FILES, EvidenceWriter
from sensor.model import LinkType


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process lives in Berlin: UTC+2, and UTC+1 from 2023-10-29 01:00 UTC on."""
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
    """The name is the packet's time in UTC, the minute rounded down to five, to the nanosecond."""
    with writing(tmp_path) as writer:
        writer.write([item(time_ns=time_ns)])
    assert names_in(tmp_path) == [name]
    assert writer.paths == [tmp_path / str(DEVID) / name]


@pytest.mark.usefixtures("berlin")
def test_names_in_local_time(tmp_path: Path) -> None:
    """A setting names files in local time; times inside the file stay UTC."""
    with writing(tmp_path, local_time=True) as writer:
        writer.write([item()])
    assert names_in(tmp_path) == ["202306181400.pcap"]
    assert records_of(writer.paths[0])[0].time_us == NOON_S * 1_000_000


@pytest.mark.usefixtures("berlin")
def test_the_hour_that_comes_twice_shares_files(tmp_path: Path) -> None:
    """In local time two windows have one name at the end of summer time: one file keeps both."""
    twenty_past_two_s = 1_698_538_800
    with writing(tmp_path, local_time=True) as writer:
        writer.write([item(0, twenty_past_two_s * NS), item(1, (twenty_past_two_s + 3600) * NS)])
        writer.write([item(2, twenty_past_two_s * NS)])
    assert names_in(tmp_path) == ["202310290220.pcap"]
    assert numbers_in(writer.paths[0]) == [0, 1, 2]


def test_file_carries_temp_while_it_is_open(tmp_path: Path) -> None:
    """What is still being written cannot be taken for a finished file, and is readable all the same."""
    with writing(tmp_path) as writer:
        writer.write([item(0), item(1)])
        assert names_in(tmp_path) == ["202306181200.pcap.temp"]
        assert numbers_in(tmp_path / str(DEVID) / "202306181200.pcap.temp") == [0, 1]
    assert names_in(tmp_path) == ["202306181200.pcap"]


def test_tick_finishes_files_without_a_packet(tmp_path: Path) -> None:
    """When the five minutes and the grace for late rings are over the file is finished, traffic or not."""
    with writing(tmp_path) as writer:
        writer.write([item(0), item(1, (NOON_S + WINDOW_S) * NS)])
        writer.tick((NOON_S + WINDOW_S + GRACE_S) * NS - 1)
        assert names_in(tmp_path) == ["202306181200.pcap.temp", "202306181205.pcap.temp"]
        writer.tick((NOON_S + WINDOW_S + GRACE_S) * NS)
        assert names_in(tmp_path) == ["202306181200.pcap", "202306181205.pcap.temp"]
        writer.tick((NOON_S + 2 * WINDOW_S + GRACE_S) * NS)
        assert names_in(tmp_path) == ["202306181200.pcap", "202306181205.pcap"]


def test_late_packet_is_appended_to_its_finished_file(tmp_path: Path) -> None:
    """A packet of a window that is over joins the others of its window."""
    with writing(tmp_path) as writer:
        for number in range(3):
            writer.write([item(number)])
            writer.tick((NOON_S + 2 * WINDOW_S) * NS)
            assert names_in(tmp_path) == ["202306181200.pcap"]
    assert numbers_in(writer.paths[0]) == [0, 1, 2]


def test_late_packet_does_not_cost_a_scan(tmp_path: Path) -> None:
    """A stream that lags reopens its files all the time: what this run wrote is not read again for that."""

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    with writing(tmp_path) as writer:
        writer.write([item(number, caplen=60_000) for number in range(50)])
        writer.tick((NOON_S + 2 * WINDOW_S) * NS)
        before = bytes_read()
        writer.write([item(50)])
        assert bytes_read() - before < 1_000_000
    assert numbers_in(writer.paths[0]) == list(range(51))


def test_restart_within_the_window_appends(tmp_path: Path) -> None:
    """A clean stop and start in the same five minutes loses and overwrites nothing."""
    for number in range(3):
        with writing(tmp_path) as writer:
            writer.write([item(number)])
            assert names_in(tmp_path) == ["202306181200.pcap.temp"]
    assert names_in(tmp_path) == ["202306181200.pcap"]
    assert numbers_in(writer.paths[0]) == [0, 1, 2]
    assert writer.recovered == []


def test_windows_and_link_types_mixed_in_one_batch(tmp_path: Path) -> None:
    """Each piece goes to the file of its window and link type, in the order in which it came."""
    linktypes = [LinkType.ETHERNET, LinkType.RAW, LinkType.LINUX_SLL]
    items = [
        item(number, (NOON_S + number % 2 * WINDOW_S) * NS, linktype=linktypes[number % 3])
        for number in range(60)
    ]
    with writing(tmp_path) as writer:
        writer.write(items)
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
    """Windows of any age come in any order; few files are open at a time and none loses a frame."""
    windows = 5 * MAX_OPEN_FILES
    order = [round_ * windows + n * 37 % windows for round_ in range(3) for n in range(windows)]
    with writing(tmp_path) as writer:
        for number in order:
            writer.write([item(number, (NOON_S + number % windows * WINDOW_S) * NS)])
            assert len([name for name in names_in(tmp_path) if name.endswith(".temp")]) <= MAX_OPEN_FILES
    assert [numbers_in(path) for path in writer.paths] == [
        [window, windows + window, 2 * windows + window] for window in range(windows)
    ]
    assert capinfos_counts(writer.paths) == [3] * windows


def test_longest_frames_are_read_whole_by_others(tmp_path: Path) -> None:
    """Frames longer than 65535 bytes, as a loopback has them, come back from tcpdump byte for byte."""
    with writing(tmp_path) as writer:
        writer.write([item(0, caplen=65_549), item(1, caplen=262_144), item(2)])
    copy = tmp_path / "copy.pcap"
    command = ["tcpdump", "-Z", "root", "-r", writer.paths[0], "-w", copy]
    subprocess.run(command, check=True, capture_output=True)
    assert copy.read_bytes() == writer.paths[0].read_bytes()


@pytest.mark.parametrize("time_ns", [-1, (1 << 32) * NS, (1 << 63) - 1])
def test_time_that_pcap_cannot_hold_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, time_ns: int
) -> None:
    """A frame with an impossible time, as a foreign capture file may have it, costs itself alone."""
    with writing(tmp_path) as writer:
        writer.write([item(0), item(1, time_ns), item(2)])
    assert (writer.written, writer.write_failed) == (2, 1)
    assert numbers_in(writer.paths[0]) == [0, 2]
    assert "time of a packet is outside 1970 to 2106" in caplog.text


def test_second_writer_is_refused(tmp_path: Path) -> None:
    """Two writers in one directory would tear each other's files: the second is told who the first is."""
    with writing(tmp_path), pytest.raises(EvidenceError, match=f"process {os.getpid()} already .* --devid"):
        EvidenceWriter(tmp_path, DEVID)
    with writing(tmp_path):
        EvidenceWriter(tmp_path, DEVID + 1).close()


def test_directory_that_cannot_be_made_is_an_error_at_start(tmp_path: Path) -> None:
    """A wrong path is reported before anything is captured, with the path and the flag to change."""
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(EvidenceError, match=f"cannot write evidence to {in_the_way}/3: .* --evidence"):
        EvidenceWriter(in_the_way, DEVID)


def test_directory_that_cannot_be_written_is_an_error_at_start() -> None:
    """A directory in which not even root may create a file is reported at once."""
    with pytest.raises(EvidenceError, match="cannot write evidence to /sys/kernel/3: "):
        EvidenceWriter(Path("/sys/kernel"), DEVID)


def test_evidence_is_not_open_to_everybody(tmp_path: Path) -> None:
    """Directories are 0750 and files 0640: the packets of others are nobody else's business."""
    evidence = tmp_path / "cap"
    with writing(evidence) as writer:
        writer.write([item()])
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (evidence, evidence / str(DEVID), writer.paths[0])]
    assert [oct(mode) for mode in modes] == ["0o750", "0o750", "0o640"]


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
    """A file of others that has our name stays as it is; evidence goes beside it, and is appended there."""
    foreign = tmp_path / str(DEVID) / f"202306181200.pcap{suffix}"
    foreign.parent.mkdir()
    foreign.write_bytes(content)
    for number in range(2):
        with writing(tmp_path) as writer:
            writer.write([item(10 * number)])
            writer.tick((NOON_S + 2 * WINDOW_S) * NS)
            writer.write([item(10 * number + 1)])
    assert foreign.read_bytes() == content
    assert names_in(tmp_path) == ["202306181200-2.pcap", foreign.name]
    assert numbers_in(tmp_path / str(DEVID) / "202306181200-2.pcap") == [0, 1, 10, 11]
    assert (writer.written, writer.write_failed) == (2, 0)
    assert "202306181200.pcap is foreign or damaged" in caplog.text


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_name_taken_by_no_file_at_all(tmp_path: Path, make: object) -> None:
    """A directory, a pipe or a link in the way is neither followed, opened nor replaced."""
    in_the_way = tmp_path / str(DEVID) / "202306181200.pcap"
    in_the_way.parent.mkdir()
    make(in_the_way)
    before = in_the_way.lstat()
    with writing(tmp_path) as writer:
        writer.write([item()])
    assert names_in(tmp_path) == ["202306181200-2.pcap", "202306181200.pcap"]
    assert in_the_way.lstat() == before


def test_final_name_taken_while_writing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that appears under the final name is not replaced; ours stays ``.temp``, with its frames."""
    with writing(tmp_path) as writer:
        writer.write([item(0)])
        in_the_way = tmp_path / str(DEVID) / "202306181200.pcap"
        in_the_way.write_bytes(b"Dear diary")
    assert in_the_way.read_bytes() == b"Dear diary"
    assert numbers_in(tmp_path / str(DEVID) / "202306181200.pcap.temp") == [0]
    assert "202306181200.pcap.temp was removed or cannot be finished" in caplog.text


def test_removed_file_is_created_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When somebody removes the open file, the frames that follow are not written into the void."""
    with writing(tmp_path) as writer:
        writer.write([item(0)])
        (tmp_path / str(DEVID) / "202306181200.pcap.temp").unlink()
        writer.write([item(1)])
    assert numbers_in(writer.paths[0]) == [1]
    assert (writer.written, writer.write_failed) == (2, 0)
    assert "202306181200.pcap.temp was removed" in caplog.text


def test_finished_file_that_others_changed_is_read_before_it_grows(tmp_path: Path) -> None:
    """A late packet goes behind the last whole record even when the finished file was cut meanwhile."""
    with writing(tmp_path) as writer:
        writer.write([item(0), item(1)])
        writer.tick((NOON_S + 2 * WINDOW_S) * NS)
        path = writer.paths[0]
        os.truncate(path, path.stat().st_size - 1)
        writer.write([item(2)])
    assert numbers_in(path) == [0, 2]


def test_quiet_day_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Writing, finishing and appending as they should go are not worth a line in the log."""
    caplog.set_level(logging.DEBUG)
    for _ in range(2):
        with writing(tmp_path) as writer:
            writer.write([item()])
            writer.write([])
            writer.tick((NOON_S + 2 * WINDOW_S) * NS)
    assert caplog.records == []


def test_where_each_piece_went_is_said(tmp_path: Path) -> None:
    """File and offset of each, over windows, link types, and a file that is taken up again."""
    items = [
        item(number, (NOON_S + 200 * number) * NS, caplen=62 + number, linktype=1 if number % 3 else 101)
        for number in range(9)
    ]
    chunks = []
    for part in (items[:5], items[5:]):
        with writing(tmp_path) as writer:
            chunks += writer.write(part)
    found = {}
    for chunk in chunks:
        assert chunk.path
        with chunk.path.open("rb") as file:
            by_offset = {record.offset: record for record in RecordReader(file)}
        for one, offset in zip(chunk.items, chunk.offsets(), strict=False):
            found[by_offset[offset].frame] = one.frame
    assert found == {one.frame: one.frame for one in items}


def test_a_piece_that_is_in_no_file_is_said_to_be_in_none(tmp_path: Path) -> None:
    """Beside those that are."""
    late = item(1, (1 << 32) * NS)
    with writing(tmp_path) as writer:
        [first, second] = writer.write([item(0), late])
    assert first.path
    assert list(first.items) == [item(0)]
    assert (second.path, list(second.items)) == (None, [late])
    assert (writer.matches_written, writer.matches_failed) == ({"flow": 1}, {"flow": 1})
