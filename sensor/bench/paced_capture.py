"""A capture as it is replayed: its Ethernet frames at an even pace, in a file for each sender.

Even, because then ``sensor read`` of the very file says what a live sensor has to find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.decode import decode
from sensor.errors import CaptureFileError
from sensor.evidence.pcap import file_header, record_header
from sensor.files.capture_file import CaptureFile
from sensor.model import FrameBatch, LinkType, PacketBatch

GAP_US = 50
"""Between two frames in the file: the pace at which evidence is compared."""
_START_US = 1_767_607_200_000_000
_ETHERNET_BYTES = 14
_ADDRESS_BYTES = {4: 8, 6: 32}


@dataclass
class PacedCapture:
    """What is in the files."""

    whole: Path
    """All frames, in order."""
    shares: list[Path]
    """One for each sender; both directions of a flow are in the same."""
    frames: int = 0
    octets: int = 0
    too_long: int = 0
    """Frames left out: longer than the interface takes."""
    share_frames: list[int] = field(default_factory=list)


def play(
    captures: Sequence[Path], directory: Path, senders: int, mtu: int, most: int | None = None
) -> PacedCapture:
    """Write the files into the directory, with the first ``most`` frames.

    Raises:
        CaptureFileError: A capture cannot be read, is not of Ethernet, or nothing in it can be sent.
    """
    played = PacedCapture(
        directory / "all.pcap", [directory / f"share{number}.pcap" for number in range(senders)]
    )
    played.share_frames = [0] * senders
    with ExitStack() as stack:
        whole = stack.enter_context(played.whole.open("wb"))
        shares = [stack.enter_context(path.open("wb")) for path in played.shares]
        for file in (whole, *shares):
            file.write(file_header(LinkType.ETHERNET))
        for frame, share in islice(_frames(captures, senders), most):
            if len(frame) > mtu + _ETHERNET_BYTES:
                played.too_long += 1
                continue
            record = record_header(_START_US + played.frames * GAP_US, len(frame), len(frame)) + frame
            whole.write(record)
            shares[share].write(record)
            played.frames += 1
            played.octets += len(frame)
            played.share_frames[share] += 1
    if not all(played.share_frames):
        raise CaptureFileError(f"too few frames for {senders} senders: name a capture with more flows")
    return played


def _frames(captures: Sequence[Path], senders: int) -> Iterator[tuple[bytes, int]]:
    for path in captures:
        with CaptureFile(path) as file:
            for batch in file.batches():
                if batch.linktype != LinkType.ETHERNET:
                    raise CaptureFileError(
                        f"{path}: link type {batch.linktype}; only Ethernet can be replayed"
                    )
                shares = _shares(batch, decode(batch), senders)
                spans = zip(batch.start.tolist(), batch.caplen.tolist(), shares.tolist(), strict=True)
                for start, caplen, share in spans:
                    yield bytes(batch.buffer[start : start + caplen]), share


def _shares(batch: FrameBatch, packets: PacketBatch, senders: int) -> NDArray[np.int64]:
    """Spread the flows: the sum of both ends is the same in either direction."""
    octets = np.frombuffer(batch.buffer, np.uint8)
    ends = packets.sport.astype(np.int64) + packets.dport
    for version, width in _ADDRESS_BYTES.items():
        chosen = np.flatnonzero(packets.ip_version == version)
        if len(chosen):
            at = packets.source_offset[chosen, None] + np.arange(width)
            ends[chosen] += octets[at].sum(axis=1, dtype=np.int64)
    return ends % senders
