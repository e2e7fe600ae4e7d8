"""Recovery after a crash: torn files are cut to whole records, and nothing else is lost."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from evidence_samples import (
    DEVID,
    FILE_HEADER_BYTES,
    PROGRAM_ENVIRONMENT,
    RECORD_HEADER_BYTES,
    capinfos_counts,
    item,
    names_in,
    numbers_in,
    tcpdump_count,
    writing,
)

from sensor.evidence.block import block_of_objects
from sensor.evidence.pcap import file_header
from sensor.model import LinkType

KILLED_WRITER = Path(__file__).with_name("evidence_killed_writer.py")
WHOLE = file_header(LinkType.ETHERNET) + block_of_objects(list(map(item, range(3)))).records.tobytes()
RECORD_BYTES = (len(WHOLE) - FILE_HEADER_BYTES) // 3


def left_open(directory: Path, content: bytes, name: str = "202306181200.pcap.temp") -> Path:
    """Create a file as a killed writer leaves it."""
    path = directory / str(DEVID) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_torn_at_every_byte_of_the_last_record(tmp_path: Path) -> None:
    """If the last record is torn at any byte, it is cut off and reported, and writing continues there."""
    path = tmp_path / str(DEVID) / "202306181200.pcap"
    for size in range(len(WHOLE) - RECORD_BYTES, len(WHOLE) + 1):
        left_open(tmp_path, WHOLE[:size])
        kept, cut = divmod(size - FILE_HEADER_BYTES, RECORD_BYTES)
        with writing(tmp_path) as writer:
            assert writer.recovered == [(path, kept, cut)]
            assert names_in(tmp_path) == [path.name]
            assert path.read_bytes() == WHOLE[: size - cut]
            writer.write(block_of_objects([item(9)]))
        assert numbers_in(path) == [*range(kept), 9]
        path.unlink()


def test_torn_at_every_byte_of_the_file_header(tmp_path: Path) -> None:
    """A file without records is reported and removed; the next record starts a new one."""
    path = tmp_path / str(DEVID) / "202306181200.pcap"
    for size in range(FILE_HEADER_BYTES + 1):
        left_open(tmp_path, WHOLE[:size])
        with writing(tmp_path) as writer:
            assert writer.recovered == [(path, 0, size % FILE_HEADER_BYTES)]
            assert names_in(tmp_path) == []
            writer.write(block_of_objects([item(9)]))
        assert numbers_in(path) == [9]
        path.unlink()


def test_zeros_behind_the_last_record_are_cut(tmp_path: Path) -> None:
    """Zeros at the end of a file, as after a power cut, are cut off like a torn record."""
    left_open(tmp_path, WHOLE + bytes(5000))
    with writing(tmp_path) as writer:
        assert [(recovery.records, recovery.cut) for recovery in writer.recovered] == [(3, 5000)]
        assert str(writer.recovered[0]).endswith(
            "was left open: 3 records kept, 5000 bytes of an incomplete record cut off"
        )
        assert writer.recovered[0].path.read_bytes() == WHOLE


def test_every_kind_of_file_left_open_is_finished(tmp_path: Path) -> None:
    """Files of any window and link type, and those beside a foreign file, get their final names."""
    raw = file_header(LinkType.RAW) + WHOLE[FILE_HEADER_BYTES:]
    left_open(tmp_path, WHOLE[:-1], "202306181200.pcap.temp")
    left_open(tmp_path, raw[:-2], "202306181200-linktype101.pcap.temp")
    left_open(tmp_path, raw[:-3], "202306181205-linktype101-2.pcap.temp")
    left_open(tmp_path, WHOLE, "202306181205-2.pcap.temp")
    with writing(tmp_path) as writer:
        assert {(recovery.path.name, recovery.cut > 0) for recovery in writer.recovered} == {
            ("202306181200.pcap", True),
            ("202306181200-linktype101.pcap", True),
            ("202306181205-linktype101-2.pcap", True),
            ("202306181205-2.pcap", False),
        }
    assert capinfos_counts([recovery.path for recovery in writer.recovered]) == [2, 2, 3, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("202306181200.pcap.temp", b"Dear diary", id="no pcap"),
        pytest.param("202306181200.pcap.temp", file_header(LinkType.RAW), id="other link type"),
        pytest.param("202306181200.pcap.temp", WHOLE + b"\xff" * 99 + WHOLE, id="damaged"),
        pytest.param("notes.temp", WHOLE[:-1], id="other name"),
    ],
)
def test_foreign_temp_file_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes
) -> None:
    """A start cuts and renames only evidence files, and logs which files it leaves alone."""
    path = left_open(tmp_path, content, name)
    with writing(tmp_path) as writer:
        assert writer.recovered == []
    assert path.read_bytes() == content
    assert f"{path} is left as it is: it is foreign, damaged, or also exists" in caplog.text


def test_file_open_and_finished_at_once_is_left_alone(tmp_path: Path) -> None:
    """If both names exist, neither file is replaced, and evidence goes to a file beside them."""
    left_open(tmp_path, WHOLE[:-1], "202306181200.pcap")
    left_open(tmp_path, WHOLE[:-2])
    with writing(tmp_path) as writer:
        writer.write(block_of_objects([item(9)]))
    sizes = {path.name: path.stat().st_size for path in (tmp_path / str(DEVID)).glob("*.pcap*")}
    assert sizes == {
        "202306181200.pcap": len(WHOLE) - 1,
        "202306181200.pcap.temp": len(WHOLE) - 2,
        "202306181200-2.pcap": FILE_HEADER_BYTES + RECORD_BYTES,
    }


def test_kill_loses_only_a_torn_record(tmp_path: Path) -> None:
    """A writer killed at any moment, often during a write, leaves all acknowledged items readable."""
    seeded = random.Random(2023)
    paths, counts = [], []
    for round_ in range(20):
        directory = tmp_path / str(round_)
        temp = directory / str(DEVID) / "202306181200.pcap.temp"
        kill_at_bytes = seeded.randrange(1, 10_000_000)
        command = [sys.executable, KILLED_WRITER, directory]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=PROGRAM_ENVIRONMENT) as child:
            while child.poll() is None and not (temp.exists() and temp.stat().st_size >= kill_at_bytes):
                pass
            child.kill()
            assert child.stdout is not None
            acknowledged = int((b"0\n" + child.stdout.read()).split()[-1])
        torn_bytes = temp.stat().st_size
        with writing(directory) as writer:
            [recovery] = writer.recovered
            assert recovery.records >= acknowledged
            assert recovery.path.stat().st_size == torn_bytes - recovery.cut
            assert recovery.cut < RECORD_HEADER_BYTES + 20_000
            writer.write(block_of_objects([item(recovery.records)]))
        assert numbers_in(recovery.path) == list(range(recovery.records + 1))
        paths.append(recovery.path)
        counts.append(recovery.records + 1)
    assert [tcpdump_count(path) for path in paths] == counts
    assert capinfos_counts(paths) == counts
