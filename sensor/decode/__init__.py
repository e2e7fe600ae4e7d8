"""Decodes frames to packets: header fields and payload spans. Runs in workers and in ``sensor read``.

The frames of a batch are decoded together: each layer reads its header in all frames that reach it,
then passes them to the next layers. ``link``, ``ip``, ``transport`` and ``tunnel`` contain the layers,
``frame_group`` what they share. ``bpf/parse.h`` applies the same rules in the kernel, up to the first
tunnel; the tests compare the two.
"""

from __future__ import annotations

import numpy as np

from sensor.decode.frame_group import FrameGroup, unknown
from sensor.decode.link import LINK_LAYERS, enter_tunnel
from sensor.model import FrameBatch, PacketBatch, PacketStatus

__all__ = ["decode"]

TUNNELS_MAX = 2


def decode(batch: FrameBatch) -> PacketBatch:
    """Return one packet for each frame of a batch, in the same order; no input raises an exception.

    Only a frame's ``caplen`` bytes are read. A header cut off there makes the packet MALFORMED; a
    payload ends there. Fields decoded before an UNKNOWN or MALFORMED header are kept. Frames of a
    link type that is not in `LinkType` are UNKNOWN.

    Up to two tunnels are entered, and the innermost packet is the one returned. A packet with a third
    tunnel is UNKNOWN. A datagram to a tunnel's port that carries no such packet is ordinary payload.
    """
    packets = _malformed_packets(len(batch))
    group = FrameGroup.at_start(batch, packets)
    LINK_LAYERS.get(batch.linktype, unknown)(group)
    for _ in range(TUNNELS_MAX):
        if group.decoding.pending:
            enter_tunnel(group.decoding.join_pending())
    group.decoding.restore_datagrams()
    return packets


def _malformed_packets(count: int) -> PacketBatch:
    """Return empty packets with status MALFORMED, which is final for packets that no layer finishes."""
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
