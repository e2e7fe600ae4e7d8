"""Conversations between two hosts, as frames that are valid in every header. Runs in the traffic generator.

A conversation has its own clock: each frame follows the one before it after some microseconds, or later if
the other side answers. All randomness comes from the `random.Random` it is given.
"""

from __future__ import annotations

import struct
from random import Random
from typing import NamedTuple

from sensor.bench.traffic import frames
from sensor.bench.traffic.frames import ACK, FIN, PSH, SYN, Frame, Host
from sensor.protocols import TCP, UDP


class Notable(NamedTuple):
    """A ``text`` in a payload that a rule of class ``rule_class`` should match."""

    name: str
    rule_class: str
    text: bytes


class Expected(NamedTuple):
    """A `Notable` in a sent packet, at these offsets of its payload."""

    name: str
    rule_class: str
    time_us: int
    protocol: str
    sip: str
    sport: int
    dip: str
    dport: int
    start: int
    end: int
    text: str


class Conversation:
    """Frames between two hosts, and the matches expected in them."""

    def __init__(
        self, rng: Random, start_us: int, client: Host, server: Host, vlans: tuple[int, ...] = ()
    ) -> None:
        self.rng = rng
        self.now_us = start_us
        self.client = client
        self.server = server
        self.vlans = vlans
        self.frames: list[Frame] = []
        self.expected: list[Expected] = []
        self._half_trip_us = rng.randint(150, 20_000)
        self._identification = rng.randrange(0x8000)
        self._last_sender: Host | None = None

    def pause(self, most_us: int) -> None:
        """Let some time pass, ``most_us`` at most."""
        self.now_us += self.rng.randint(most_us // 10, most_us)

    def link(self, sender: Host, ethertype: int, body: bytes, destination: bytes | None = None) -> None:
        """Send one frame to the other side, or to ``destination``, another link address."""
        turn = self._last_sender not in (None, sender)
        self.now_us += self.rng.randint(12, 60) + (self._half_trip_us if turn else 0)
        self._last_sender = sender
        data = frames.ethernet(sender.mac, destination or self.other(sender).mac, ethertype, body, self.vlans)
        self.frames.append(Frame(self.now_us, data))

    def ip(self, sender: Host, protocol: int, body: bytes) -> None:
        """Send an IP packet to the other side, in fragments if it is too long."""
        self._identification += 1
        ethertype = frames.ETHERTYPE_IPV4 if sender.address.version == 4 else frames.ETHERTYPE_IPV6
        for packet in frames.packets(
            sender, self.other(sender), protocol, body, identification=self._identification
        ):
            self.link(sender, ethertype, packet)

    def other(self, sender: Host) -> Host:
        """Return the side that receives."""
        return self.server if sender is self.client else self.client

    def expect(
        self, notable: Notable, protocol: str, sender: Host, sport: int, dport: int, payload: bytes
    ) -> None:
        """Record where the frame sent last holds the notable text."""
        start = payload.index(notable.text)
        self.expected.append(
            Expected(
                notable.name,
                notable.rule_class,
                self.now_us,
                protocol,
                str(sender.address),
                sport,
                str(self.other(sender).address),
                dport,
                start,
                start + len(notable.text),
                notable.text.decode("latin-1"),
            )
        )


class UdpConversation(Conversation):
    """Datagrams between two sockets."""

    def __init__(
        self,
        rng: Random,
        start_us: int,
        client: Host,
        server: Host,
        port: int,
        vlans: tuple[int, ...] = (),
        client_port: int | None = None,
    ) -> None:
        super().__init__(rng, start_us, client, server, vlans)
        self.ports = {client: client_port or rng.randint(32_768, 60_999), server: port}

    def send(self, sender: Host, payload: bytes) -> None:
        """Send one datagram."""
        receiver = self.other(sender)
        datagram = frames.udp(
            sender.address, self.ports[sender], receiver.address, self.ports[receiver], payload
        )
        self.ip(sender, UDP, datagram)


class TcpConversation(Conversation):
    """A TCP connection, which begins with its handshake; `send` adds segments, `close` ends it."""

    def __init__(
        self, rng: Random, start_us: int, client: Host, server: Host, port: int, vlans: tuple[int, ...] = ()
    ) -> None:
        super().__init__(rng, start_us, client, server, vlans)
        self.ports = {client: rng.randint(32_768, 60_999), server: port}
        self._seq = {client: rng.getrandbits(32), server: rng.getrandbits(32)}
        self._clock_ms = {client: rng.getrandbits(31), server: rng.getrandbits(31)}
        self._segment_bytes = (1448 if client.address.version == 4 else 1428) - 4 * len(vlans)
        self._segment(client, SYN, acknowledge=False)
        self._segment(server, SYN)
        self._segment(client)

    def send(self, sender: Host, payload: bytes, notable: Notable | None = None) -> None:
        """Send bytes in as many segments as needed; the receiver acknowledges every second one."""
        for at in range(0, len(payload), self._segment_bytes):
            part = payload[at : at + self._segment_bytes]
            last = at + len(part) == len(payload)
            self._segment(sender, PSH if last else 0, part)
            if notable and notable.text in part:
                receiver = self.other(sender)
                self.expect(notable, "TCP", sender, self.ports[sender], self.ports[receiver], part)
            if at // self._segment_bytes % 2:
                self._segment(self.other(sender))

    def close(self) -> None:
        """End the connection in both directions."""
        self._segment(self.client, FIN)
        self._segment(self.server, FIN)
        self._segment(self.client)

    def _segment(
        self, sender: Host, flags: int = 0, payload: bytes = b"", *, acknowledge: bool = True
    ) -> None:
        """Send one segment, and advance the sequence number."""
        receiver = self.other(sender)
        self.ip(
            sender,
            TCP,
            frames.tcp(
                sender.address,
                self.ports[sender],
                receiver.address,
                self.ports[receiver],
                seq=self._seq[sender],
                ack=self._seq[receiver] if acknowledge else 0,
                flags=flags | (ACK if acknowledge else 0),
                window=64_240 if flags & SYN else 502,
                options=self._options(sender, receiver, flags, acknowledge=acknowledge),
                payload=payload,
            ),
        )
        self._seq[sender] = (self._seq[sender] + len(payload) + bool(flags & (SYN | FIN))) & 0xFFFFFFFF

    def _options(self, sender: Host, receiver: Host, flags: int, *, acknowledge: bool) -> bytes:
        """Build the options: timestamps (RFC 7323); with SYN also segment size, SACK and window scale."""
        clock_ms = self._clock_ms[sender] + self.now_us // 1000 & 0xFFFFFFFF
        echo_ms = self._clock_ms[receiver] + self.now_us // 1000 & 0xFFFFFFFF if acknowledge else 0
        if flags & SYN:
            size = self._segment_bytes + 12
            return struct.pack("!BBHBBBBIIBBBB", 2, 4, size, 4, 2, 8, 10, clock_ms, echo_ms, 1, 3, 3, 7)
        return struct.pack("!BBBBII", 1, 1, 8, 10, clock_ms, echo_ms)
