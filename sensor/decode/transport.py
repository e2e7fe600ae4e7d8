"""Transport headers, up to the payload; runs wherever `decode` does."""

from __future__ import annotations

import numpy as np

from sensor.decode.frame_group import FrameGroup
from sensor.decode.tunnel import in_udp
from sensor.model import PacketStatus

TCP_SIZE_MIN = 20
UDP_SIZE = 8
ICMP_SIZE = 8


def tcp(cursor: FrameGroup) -> None:
    """Pass a TCP header with its options (RFC 9293, section 3.1)."""
    cursor = cursor.need(TCP_SIZE_MIN)
    cursor.set(sport=cursor.u16(0), dport=cursor.u16(2))
    header_size = (cursor.u8(12) >> 4) * 4
    payload = cursor.skip(header_size)
    valid = (header_size >= TCP_SIZE_MIN) & (payload.position <= payload.end)
    payload.keep(valid).finish_at_payload(PacketStatus.PAYLOAD)


def udp(cursor: FrameGroup) -> None:
    """Pass a UDP header (RFC 768); where its length is 0, the IP packet's counts (RFC 2675, section 4)."""
    cursor = cursor.need(UDP_SIZE)
    cursor.set(sport=cursor.u16(0), dport=cursor.u16(2))
    length = cursor.u16(4)
    datagram_end = np.where(length == 0, cursor.wire_end, cursor.position + length)
    overlong = datagram_end > cursor.wire_end
    first_fragment = cursor.decoding.first_fragment[cursor.frames]
    valid = ((length == 0) | (length >= UDP_SIZE)) & (first_fragment | ~overlong)
    datagram = cursor.narrow(np.minimum(datagram_end, cursor.wire_end)).skip(UDP_SIZE).keep(valid)
    datagram.finish_at_payload(PacketStatus.PAYLOAD)
    in_udp(datagram)


def icmp(cursor: FrameGroup) -> None:
    """Pass the eight bytes that every ICMP and ICMPv6 message starts with (RFC 792, RFC 4443)."""
    cursor.need(ICMP_SIZE).skip(ICMP_SIZE).finish_at_payload(PacketStatus.PAYLOAD)
