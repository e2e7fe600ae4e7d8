"""The kernel's parser and `decode` agree on every frame.

For a packet inside another, the kernel only has to say that there is a tunnel. For any other frame,
both must find the same.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frames import corpus, truncations
from reference_decode import reference_decode
from tunnels import tunnel_corpus

from sensor import abi
from sensor.capture.syscalls import prog_test_run
from sensor.decode import decode
from sensor.model import FrameBatch, LinkType, PacketBatch, PacketStatus

pytestmark = pytest.mark.kernel(alone=False)

CORPUS = corpus() + tunnel_corpus()
BPF = Path(__file__).parents[2] / "bpf"
SMALLEST_FRAME = 14  # BPF_PROG_TEST_RUN, like a NIC, passes at least an Ethernet header to XDP


class Probe:
    """``parse_probe.c``, loaded."""

    def __init__(self, *, raw_ip: bool = False) -> None:
        self.raw_ip = raw_ip
        os.environ["BCC_KERNEL_SOURCE"] = str(BPF)
        from bcc import BPF as Bcc  # noqa: N811 - the name of the class

        source = str(Path(__file__).parent / "parse_probe.c")
        self.bpf = Bcc(
            src_file=source.encode(), cflags=[f"-I{BPF}", "-Wall", "-Werror", f"-DRAW_IP={int(raw_ip)}"]
        )
        self.fd = self.bpf.load_func(b"probe", Bcc.XDP).fd

    def parse(self, frame: bytes) -> dict[str, Any]:
        """Return the result of the kernel's parser for one frame."""
        prog_test_run(self.fd, frame)
        result = self.bpf[b"results"][ctypes.c_int(0)]
        return {
            "status": result.status,
            "payload": (result.payload_offset, result.payload_end),
            "ports": (result.sport, result.dport),
            "vlan": tuple(result.vlan_tci)[: result.vlan_count],
            "ip_version": result.ip_version,
            "protocol": result.protocol,
        }


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    """Load the kernel's parser."""
    loaded = Probe()
    yield loaded
    loaded.bpf.cleanup()


@pytest.fixture(scope="module")
def raw_probe() -> Iterator[Probe]:
    """Load the kernel's parser for frames that begin with an IP header."""
    loaded = Probe(raw_ip=True)
    yield loaded
    loaded.bpf.cleanup()


def batch_of(frames: list[bytes], linktype: int = LinkType.ETHERNET) -> FrameBatch:
    """Make a batch of complete frames, as a ring would give it."""
    lengths = np.array([len(frame) for frame in frames], np.int64)
    zeros = np.zeros(len(frames), np.int64)
    return FrameBatch(
        memoryview(b"".join(frames)), np.cumsum(lengths) - lengths, lengths, lengths, zeros, zeros, linktype
    )


def decoded(packets: PacketBatch, start: int, i: int) -> dict[str, Any]:
    """Return the result of `decode` for frame ``i``, in the form of the probe."""
    begin, end = int(packets.payload_start[i]), int(packets.payload_end[i])
    return {
        "status": packets.status[i],
        "payload": (begin - start, end - start) if end else (0, 0),
        "ports": (packets.sport[i], packets.dport[i]),
        "vlan": tuple(packets.vlan_tci[i])[: packets.vlan_count[i]],
        "ip_version": packets.ip_version[i],
        "protocol": packets.protocol[i],
    }


def outer(frame: bytes, linktype: int) -> dict[str, Any]:
    """Return the result of the reference decoder, which enters no tunnels, in the form of the probe."""
    packet = reference_decode(frame, len(frame), linktype, enters=False)
    return {
        "status": packet.status,
        "payload": packet.payload,
        "ports": (packet.sport, packet.dport),
        "vlan": tuple(packet.vlan),
        "ip_version": packet.ip_version,
        "protocol": packet.protocol,
    }


def disagreements(probe: Probe, named: list[tuple[str, bytes]]) -> list[str]:
    """Describe every frame on which the two parsers disagree."""
    linktype = LinkType.RAW if probe.raw_ip else LinkType.ETHERNET
    batch = batch_of([frame for _, frame in named], linktype)
    packets = decode(batch)
    found = []
    for i, (name, frame) in enumerate(named):
        kernels = probe.parse(frame)
        if kernels["status"] == PacketStatus.TUNNEL:
            ours = outer(frame, linktype)
        else:
            ours = decoded(packets, int(batch.start[i]), i)
        if ours != kernels:
            found.append(f"{name} ({len(frame)} bytes): decode {ours}, kernel {kernels}")
    return found


def test_agreement_on_the_corpus(probe: Probe) -> None:
    """Both find the same status, offsets, ports and tags in every combination of headers."""
    named = [(name, frame) for name, frame in CORPUS if len(frame) >= SMALLEST_FRAME]
    assert len(named) > 100
    assert disagreements(probe, named) == []


def test_agreement_on_every_truncation(probe: Probe) -> None:
    """Both agree on every frame of the corpus, cut off at every byte."""
    named = [(name, frame) for name, frame in truncations(CORPUS) if len(frame) >= SMALLEST_FRAME]
    assert len(named) > 5000
    assert disagreements(probe, named) == []


def test_agreement_on_packets_without_link_header(raw_probe: Probe) -> None:
    """Both agree on every IP packet of the corpus, cut off at every byte, and on any first byte."""
    ip = [(name, frame[14:]) for name, frame in CORPUS if frame[12:14] in (b"\x08\x00", b"\x86\xdd")]
    named = [(name, packet) for name, packet in [*ip, *truncations(ip)] if len(packet) >= SMALLEST_FRAME]
    named += [(f"first byte {first}", bytes([first]) + ip[0][1][1:]) for first in range(256)]
    assert len(named) > 3000
    assert disagreements(raw_probe, named) == []


@pytest.mark.parametrize("name", ["frame_meta", "flow_key", "flow", "flow_set", "network4", "network6"])
def test_layouts(probe: Probe, name: str) -> None:
    """A C structure and its dtype agree on the name, offset and size of every member."""
    assert layout_of(probe.bpf[f"layout_of_{name}".encode()].Leaf) == fields_of(getattr(abi, name.upper()))


def layout_of(structure: type[ctypes.Structure]) -> dict[str, tuple[int, int]]:
    """Return offset and size of each member."""
    names = [field[0] for field in structure._fields_]
    return {name: (getattr(structure, name).offset, getattr(structure, name).size) for name in names}


def fields_of(dtype: np.dtype[Any]) -> dict[str, tuple[int, int]]:
    """Return offset and size of each member."""
    return {name: (field[1], field[0].itemsize) for name, field in dtype.fields.items()}
