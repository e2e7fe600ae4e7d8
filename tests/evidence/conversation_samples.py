"""A TCP connection with an attack in it, as evidence with roles, and variations of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from frames import IPV4, batch_of, ethernet, ipv4, tcp

from sensor.decode import decode
from sensor.evidence.block import EvidenceBlock, block_of_packets
from sensor.evidence.conversation import ConversationNote, Ending
from sensor.model import FiveTuple, Role, Rule
from tests.evidence.evidence_samples import NOON_S

CLIENT, SERVER = "192.0.2.10", "198.51.100.20"
SYN, FIN, RST, ACK, PSH = 2, 1, 4, 16, 8
RULE = Rule(50001, "threat", "SQL injection", "SQL union select", "union")
OTHER = Rule(21, "service", "Web", "Apache", "Apache")
RULES = [RULE, OTHER]
REQUEST = b"GET /?id=1+union+select HTTP/1.1\r\nHost: \x1b[31m\xff\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nServer: Apache\r\n\r\nalice:secret\n"
STEP_US = 1000

Step = tuple[bool, int, bytes, Role, tuple[int, ...]]
"""From the client or not, TCP flags, payload, role, and the positions of the rules that match."""
STEPS: Sequence[Step] = (
    (True, SYN, b"", Role.BEFORE, ()),
    (False, SYN | ACK, b"", Role.BEFORE, ()),
    (True, ACK, b"", Role.BEFORE, ()),
    (True, PSH | ACK, REQUEST, Role.HIT, (0,)),
    (False, PSH | ACK, RESPONSE, Role.HIT, (1,)),
    (True, FIN | ACK, b"", Role.AFTER, ()),
    (False, FIN | ACK, b"", Role.AFTER, ()),
)
HIT = 3
"""The first packet of `STEPS` that matches."""


def segment(step: Step, sport: int = 40000) -> bytes:
    """Return the frame of a step."""
    is_client, flags, payload, _, _ = step
    ports = {"sport": sport, "dport": 80} if is_client else {"sport": 80, "dport": sport}
    ends = (CLIENT, SERVER) if is_client else (SERVER, CLIENT)
    header = bytearray(tcp(payload, **ports))
    header[13] = flags
    return ethernet(IPV4, ipv4(6, bytes(header), source=ends[0], destination=ends[1]))


def number_at(start_us: int) -> int:
    """Return the number of the conversation whose first packet is at this time."""
    return start_us + HIT * STEP_US


def conversation(
    start_us: int = NOON_S * 1_000_000,
    steps: Sequence[Step] = STEPS,
    *,
    sport: int = 40000,
    is_numbered: bool = True,
) -> EvidenceBlock:
    """Return the packets of a conversation, a millisecond apart."""
    batch = batch_of(segment(step, sport) for step in steps)
    times_ns = (start_us + np.arange(len(steps)) * STEP_US) * 1000
    batch = replace(batch, timestamp_ns=times_ns, interface=np.ones(len(steps), np.int64))
    block = block_of_packets(
        batch,
        decode(batch),
        np.arange(len(steps)),
        np.full(len(steps), sport, np.uint64),
        np.array([len(rules) for *_, rules in steps]),
        np.array([rule for *_, rules in steps for rule in rules], np.uint32),
        RULES,
        roles=np.array([role for *_, role, _ in steps], np.uint8),
    )
    block.items["conversation"] = number_at(start_us) if is_numbered else 0
    return block


def note_of(start_us: int = NOON_S * 1_000_000, *, sport: int = 40000) -> ConversationNote:
    """Return what is known of the conversation in the end."""
    client, server = (bytes(map(int, address.split("."))) for address in (CLIENT, SERVER))
    five_tuple = FiveTuple(6, client, sport, server, 80)
    return ConversationNote(number_at(start_us), five_tuple, (), Ending.FIN, packets=len(STEPS))


def flags_of(block: EvidenceBlock) -> list[int]:
    """Return the TCP flags in the frames of a block."""
    return [struct.unpack_from("B", block.frame(at), 14 + 20 + 13)[0] for at in range(len(block))]


MIDNIGHT_US = (NOON_S + 43_200) * 1_000_000
ENDS = f"TCP {CLIENT}:40000 > {SERVER}:80"
