"""The pcap format of evidence: encoding, and reading torn, damaged and foreign files."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pytest
from evidence_samples import FILE_HEADER_BYTES, NOON_S, NS, RECORD_HEADER_BYTES, item, number_of

from sensor.errors import EvidenceError
from sensor.evidence.block import block_of_objects
from sensor.evidence.pcap import SNAPLEN, Record, RecordReader, file_header
from sensor.model import Evidence, LinkType

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "evidence_example.json"


def named(content: bytes) -> io.BytesIO:
    """Return a file in memory with a name for messages."""
    file = io.BytesIO(content)
    file.name = "sample.pcap"
    return file


def read(content: bytes) -> tuple[list[Record], int]:
    """Return the whole records of a file, and the end of the last one."""
    reader = RecordReader(named(content))
    return list(reader), reader.end


def encode(items: list[Evidence]) -> bytes:
    """Return the records of these items, one after the other."""
    return block_of_objects(items).records.tobytes()


def sample(count: int = 3) -> bytes:
    """Return an evidence file with records of 78 bytes."""
    return file_header(LinkType.ETHERNET) + encode([item(number) for number in range(count)])


def test_header_is_classic_little_endian_pcap() -> None:
    """The header has magic 0xa1b2c3d4, version 2.4, and a snaplen at which no reader cuts frames."""
    expected = "d4c3b2a10200040000000000000000000000040001000000"
    assert file_header(LinkType.ETHERNET).hex() == expected


def test_round_trip() -> None:
    """Times, lengths and frames are read back unchanged, at the computed offsets."""
    items = [item(number, NOON_S * NS + number * 1_000, caplen=62 + number) for number in range(3)]
    content = file_header(LinkType.ETHERNET) + encode(items)
    decoded, end = read(content)
    assert [record.frame for record in decoded] == [each.frame for each in items]
    assert [record.time_us for record in decoded] == [NOON_S * 1_000_000 + number for number in range(3)]
    offsets = block_of_objects(items).record_offsets(FILE_HEADER_BYTES).tolist()
    assert [*(record.offset for record in decoded), end] == offsets
    assert [record.end for record in decoded] == offsets[1:]
    assert end == len(content)


def test_record_header_equals_a_real_one() -> None:
    """The record header equals the one that ly_probe returns for the same packet."""
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is missing")
    answer = json.loads(REFERENCE.read_text())["response"][0]
    time_ns = answer["time_sec"] * NS + answer["time_usec"] * 1_000 + 999
    records = encode([item(time_ns=time_ns, caplen=answer["caplen"], wirelen=answer["pktlen"])])
    assert records[:RECORD_HEADER_BYTES].hex() == answer["pkthdr"]


@pytest.mark.parametrize("nanoseconds", [0, 1, 999, 1_000, 999_999_999])
def test_nanoseconds_are_cut_not_rounded(nanoseconds: int) -> None:
    """A time is cut to its microsecond, so that it never moves into the next second or window."""
    records = encode([item(time_ns=NOON_S * NS + nanoseconds)])
    assert struct.unpack_from("<II", records) == (NOON_S, nanoseconds // 1000)


def test_wirelen_of_a_cut_frame_is_kept() -> None:
    """A frame that was cut by the capture keeps its length on the wire."""
    decoded, _ = read(file_header(LinkType.ETHERNET) + encode([item(caplen=96, wirelen=1514)]))
    assert [(record.caplen, record.wirelen) for record in decoded] == [(96, 1514)]


def test_frame_beyond_snaplen_is_cut_to_it() -> None:
    """A frame longer than readers accept is cut to the snaplen, and keeps its length on the wire."""
    decoded, _ = read(file_header(LinkType.ETHERNET) + encode([item(caplen=SNAPLEN + 1)]))
    assert [(record.caplen, record.wirelen) for record in decoded] == [(SNAPLEN, SNAPLEN + 1)]


def test_torn_at_every_byte_of_the_last_record() -> None:
    """If the last record is torn at any byte, the reader returns the records before it and their end."""
    content = sample()
    last = FILE_HEADER_BYTES + 2 * (len(content) - FILE_HEADER_BYTES) // 3
    for size in range(last, len(content)):
        records, end = read(content[:size])
        assert ([number_of(record) for record in records], end) == ([0, 1], last)


def test_torn_in_the_file_header() -> None:
    """A file that ends inside its header has no records and an unknown link type."""
    for size in range(FILE_HEADER_BYTES):
        reader = RecordReader(named(sample()[:size]))
        assert (list(reader), reader.end, reader.linktype) == ([], 0, None)


@pytest.mark.parametrize("zeros", [1, 16, 17, 3_000_000])
def test_zeros_at_the_end_are_no_records(zeros: int) -> None:
    """Zeros at the end of a file, as after a power cut, are not read as records of the year 1970."""
    records, end = read(sample() + bytes(zeros))
    assert (len(records), end) == (3, len(sample()))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(struct.pack("<IIII", NOON_S, 999_999, SNAPLEN + 1, 62), id="caplen"),
        pytest.param(struct.pack("<IIII", NOON_S, 1_000_000, 62, 62), id="microseconds"),
        pytest.param(bytes(RECORD_HEADER_BYTES), id="zeros"),
    ],
)
def test_damage_before_the_end_is_an_error(header: bytes) -> None:
    """Damage in the middle is an error with its offset, after the records before it."""
    content = bytearray(sample())
    second = FILE_HEADER_BYTES + (len(content) - FILE_HEADER_BYTES) // 3
    content[second : second + RECORD_HEADER_BYTES] = header
    reader = iter(RecordReader(named(bytes(content))))
    assert number_of(next(reader)) == 0
    with pytest.raises(EvidenceError, match=f"sample.pcap is damaged: there is no record at byte {second}"):
        next(reader)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAPLEN, 1), id="big endian"),
        pytest.param(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAPLEN, 1), id="nanoseconds"),
        pytest.param(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1), id="smaller snaplen"),
        pytest.param(bytes.fromhex("0a0d0d0a1c0000004d3c2b1a01000000ffffffffffffffff"), id="pcapng"),
        pytest.param(b"Dear diary", id="text"),
    ],
)
def test_foreign_header_is_rejected(header: bytes) -> None:
    """A file in another format, or with a smaller snaplen, is not read as evidence."""
    with pytest.raises(EvidenceError, match=r"sample\.pcap is not an evidence file"):
        RecordReader(named(header))
