"""From frames to packets: header fields and payload spans; runs in capture workers and in ``sensor read``.

All frames of a batch take each step together: a layer reads its header in every frame that
has come to it, and sends the frames on to the next layers. ``link``, ``ip``, ``transport`` and
``tunnel`` hold the layers, ``cursor`` what they have in common. ``bpf/parse.h`` follows the same
law in the kernel, up to the first tunnel; the tests hold the two against each other.
"""

from __future__ import annotations

import numpy as np

from sensor.decode.frame_group import FrameGroup, unknown
from sensor.decode.link import LINK_LAYERS, inside_tunnel
from sensor.model import FrameBatch, PacketBatch, PacketStatus

__all__ = ["decode"]

TUNNELS_MAX = 2


def decode(batch: FrameBatch) -> PacketBatch:
    """Decode a batch of frames, entry for entry; whatever the bytes are, there is no exception.

    Nothing outside a frame's ``caplen`` bytes is read: a header that is cut there makes the
    packet MALFORMED, a payload ends there. Fields found before a header turned out UNKNOWN or
    MALFORMED are reported. Frames of a link type that is not in `LinkType` are UNKNOWN.

    Up to two tunnels are entered, and the packet inside is the one that is reported; what has a
    third tunnel is UNKNOWN. Datagrams to a tunnel's port in which there is no such packet are
    payload like any other.
    """
    packets = _malformed_packets(len(batch))
    cursor = FrameGroup.at_start(batch, packets)
    LINK_LAYERS.get(batch.linktype, unknown)(cursor)
    for _ in range(TUNNELS_MAX):
        if cursor.decoding.left:
            inside_tunnel(cursor.decoding.take_left())
    cursor.decoding.restore_datagrams()
    return packets


def _malformed_packets(count: int) -> PacketBatch:
    """Make packets without a field: MALFORMED, which those stay that no layer finishes."""
    return PacketBatch(
        status=np.full(count, PacketStatus.MALFORMED, np.uint8),
        ip_version=np.zeros(count, np.uint8),
        protocol=np.zeros(count, np.uint8),
        tos=np.zeros(count, np.uint8),
        vlan_count=np.zeros(count, np.uint8),
        vlan_tci=np.zeros((count, 2), np.uint16),
        source_offset=np.zeros(count, np.int64),
        sport=np.zeros(count, np.uint16),
        dport=np.zeros(count, np.uint16),
        payload_start=np.zeros(count, np.int64),
        payload_end=np.zeros(count, np.int64),
    )
