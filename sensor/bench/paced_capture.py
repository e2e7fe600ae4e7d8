"""A capture prepared for replay: its Ethernet frames at an even pace, and a file for each sender.

The pace is even so that ``sensor read`` on the same file gives the evidence a live sensor has to find.
Runs in ``sensor bench replay``.
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
"""Time between two frames in the file, at which evidence is compared."""
_START_US = 1_767_607_200_000_000
_ETHERNET_BYTES = 14
_ADDRESS_BYTES = {4: 8, 6: 32}


@dataclass
class PacedCapture:
    """The files and what they hold."""

    whole: Path
    """The file with all frames, in order."""
    shares: list[Path]
    """A file for each sender; both directions of a flow are in the same file."""
    frames: int = 0
    octets: int = 0
    too_long: int = 0
    """Frames left out because they are longer than the interface can send."""
    share_frames: list[int] = field(default_factory=list)


def write_paced_capture(
    captures: Sequence[Path], directory: Path, senders: int, mtu: int, limit: int | None = None
) -> PacedCapture:
    """Write the first ``limit`` frames of some captures into a directory, whole and in a share per sender.

    Raises:
        CaptureFileError: a capture cannot be read or is not Ethernet, or it has too few frames to send.
    """
    paced = PacedCapture(
        directory / "all.pcap", [directory / f"share{number}.pcap" for number in range(senders)]
    )
    paced.share_frames = [0] * senders
    with ExitStack() as stack:
        whole = stack.enter_context(paced.whole.open("wb"))
        shares = [stack.enter_context(path.open("wb")) for path in paced.shares]
        for file in (whole, *shares):
            file.write(file_header(LinkType.ETHERNET))
        for frame, share in islice(_frames(captures, senders), limit):
            if len(frame) > mtu + _ETHERNET_BYTES:
                paced.too_long += 1
                continue
            record = record_header(_START_US + paced.frames * GAP_US, len(frame), len(frame)) + frame
            whole.write(record)
            shares[share].write(record)
            paced.frames += 1
            paced.octets += len(frame)
            paced.share_frames[share] += 1
    if not all(paced.share_frames):
        raise CaptureFileError(f"too few flows for {senders} senders; use a capture with more flows")
    return paced


def _frames(captures: Sequence[Path], senders: int) -> Iterator[tuple[bytes, int]]:
    for path in captures:
        with CaptureFile(path) as file:
            for batch in file.batches():
                if batch.linktype != LinkType.ETHERNET:
                    raise CaptureFileError(
                        f"{path}: link type {batch.linktype}; only Ethernet frames can be replayed"
                    )
                shares = _shares(batch, decode(batch), senders)
                spans = zip(batch.start.tolist(), batch.caplen.tolist(), shares.tolist(), strict=True)
                for start, caplen, share in spans:
                    yield bytes(batch.buffer[start : start + caplen]), share


def _shares(batch: FrameBatch, packets: PacketBatch, senders: int) -> NDArray[np.int64]:
    """Return each frame's share; the sum of both ends is the same in both directions of a flow."""
    octets = np.frombuffer(batch.buffer, np.uint8)
    ends = packets.sport.astype(np.int64) + packets.dport
    for version, width in _ADDRESS_BYTES.items():
        chosen = np.flatnonzero(packets.ip_version == version)
        if len(chosen):
            at = packets.source_offset[chosen, None] + np.arange(width)
            ends[chosen] += octets[at].sum(axis=1, dtype=np.int64)
    return ends % senders
