"""``sensor read`` says why no frame of a file could be matched."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import pytest
from captures import START_NS, Frame, interface, packet, pcap, section
from frames import IPV4, PAYLOAD, TCP, ethernet, ipv4, tcp

from sensor.errors import CaptureFileError
from sensor.files.capture_file import CaptureFile
from sensor.files.undecoded import batches_of
from sensor.model import LinkType
from sensor.pipeline import Pipeline
from sensor.rules.engine.matcher import Matcher

FRAME = Frame(ethernet(IPV4, ipv4(TCP, tcp(PAYLOAD))), START_NS, 100)
UNKNOWN = Frame(ethernet(0x9999, bytes(40)), START_NS, 54)
NOT_ETHERNET = Frame(b"\xff\x03\x00\x21", START_NS, 4)


def warnings(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Read a file through a pipeline, and return the warnings about it."""
    path.write_bytes(content)
    pipeline = Pipeline(Matcher([]), "any", live=False)
    with caplog.at_level(logging.WARNING), CaptureFile(path) as file, suppress(CaptureFileError):
        for batch in batches_of(file, pipeline):
            pipeline.process(batch)
    return [message.replace(str(path), "FILE") for _, _, message in caplog.record_tuples]


def mixed(*linktypes: int) -> bytes:
    """Return a pcapng file with one frame of each link type."""
    content = section() + b"".join(interface(linktype) for linktype in linktypes)
    return content + b"".join(packet(FRAME, START_NS // 1000, number) for number in range(len(linktypes)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (pcap([FRAME]), []),
        (pcap([]), []),
        (pcap([], linktype=9), []),
        (pcap([FRAME], linktype=9), ["link type 9 (PPP) is not decoded; no frame of FILE was matched"]),
        (pcap([FRAME], linktype=147), ["link type 147 is not decoded; no frame of FILE was matched"]),
        (
            pcap([FRAME, FRAME], linktype=127)[:-1],
            ["link type 127 (IEEE 802.11 with radiotap header) is not decoded; no frame of FILE was matched"],
        ),
        (
            mixed(9, 1, 9),
            ["link type 9 (PPP) is not decoded; 2 of 3 frames of FILE were not matched"],
        ),
        (
            mixed(9, 105),
            [
                "link type 9 (PPP) is not decoded; 1 of 2 frames of FILE were not matched",
                "link type 105 (IEEE 802.11) is not decoded; 1 of 2 frames of FILE were not matched",
            ],
        ),
        (
            pcap([NOT_ETHERNET]),
            [
                "no frame of FILE could be decoded and matched (undecodable: 1 malformed or cut short, "
                "0 of unknown protocols); see why: sensor rules explain FILE",
            ],
        ),
        (
            pcap([NOT_ETHERNET, NOT_ETHERNET, UNKNOWN, FRAME]),
            [
                "only 1 of 4 frames of FILE could be decoded and matched (undecodable: 2 malformed or cut "
                "short, 1 of unknown protocols); see why: sensor rules explain FILE",
            ],
        ),
        (pcap([NOT_ETHERNET, FRAME]), []),
    ],
)
def test_undecoded(
    content: bytes, expected: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each link type that is not decoded is named, and so is a file of which nothing is."""
    assert warnings(tmp_path / "capture", content, caplog) == expected


@pytest.mark.parametrize("linktype", [LinkType.RAW_BSD, LinkType.RAW_OPENBSD, LinkType.RAW])
def test_raw_ip(linktype: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Raw IP is decoded under each of its numbers."""
    frame = FRAME._replace(data=FRAME.data[14:])
    assert warnings(tmp_path / "capture", pcap([frame], linktype=linktype), caplog) == []
