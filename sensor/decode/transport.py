"""Transport headers: TCP, UDP, ICMP and ICMPv6. Runs where `decode` runs."""

from __future__ import annotations

import numpy as np

from sensor.decode.frame_group import FrameGroup
from sensor.decode.tunnel import in_udp
from sensor.model import PacketStatus

TCP_SIZE_MIN = 20
UDP_SIZE = 8
ICMP_SIZE = 8


def tcp(group: FrameGroup) -> None:
    """Decode a TCP header with its options (RFC 9293, section 3.1)."""
    group = group.require(TCP_SIZE_MIN)
    group.set(sport=group.u16(0), dport=group.u16(2))
    header_size = (group.u8(12) >> 4) * 4
    payload = group.skip(header_size)
    valid = (header_size >= TCP_SIZE_MIN) & (payload.position <= payload.end)
    payload.keep(valid).finish_at_payload(PacketStatus.PAYLOAD)


def udp(group: FrameGroup) -> None:
    """Decode a UDP header (RFC 768); length 0 means up to the end of the IP packet (RFC 2675, section 4)."""
    group = group.require(UDP_SIZE)
    group.set(sport=group.u16(0), dport=group.u16(2))
    length = group.u16(4)
    datagram_end = np.where(length == 0, group.wire_end, group.position + length)
    overlong = datagram_end > group.wire_end
    first_fragment = group.decoding.first_fragment[group.frames]
    valid = ((length == 0) | (length >= UDP_SIZE)) & (first_fragment | ~overlong)
    datagram = group.narrow(np.minimum(datagram_end, group.wire_end)).skip(UDP_SIZE).keep(valid)
    datagram.finish_at_payload(PacketStatus.PAYLOAD)
    in_udp(datagram)


def icmp(group: FrameGroup) -> None:
    """Decode the first eight bytes of an ICMP or ICMPv6 message (RFC 792, RFC 4443)."""
    group.require(ICMP_SIZE).skip(ICMP_SIZE).finish_at_payload(PacketStatus.PAYLOAD)
