"""Blocks of evidence for tests of conversations: frames of a client and a server, described in short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.context_budgets import ContextBudgets
from sensor.evidence.conversation_tracker import ConversationTracker
from sensor.evidence.open_conversation import ContextLimits
from sensor.model import Evidence, FiveTuple, Match, Role, Rule

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
TCP, UDP = 6, 17
THREAT, BANNER = Rule(50001, "threat", "T", "attack", "x"), Rule(1, "service", "T", "banner", "x")
OTHER_THREAT = Rule(50002, "threat", "T", "other attack", "x")
RULES = (THREAT, BANNER, OTHER_THREAT)
SERVER = bytes([198, 51, 100, 1])
START_NS = 1_800_000_000_000_000_000


class Sent(NamedTuple):
    """A frame of a flow."""

    time_s: float
    rule: Rule | None = None
    """The rule that matches it; None: it is context."""
    flags: int = ACK
    is_answer: bool = False
    client: tuple[int, int] = (1, 40000)
    """The last bytes of the client's address, and its port."""
    size: int = 100
    protocol: int = TCP
    cpu: int = 0


def block_of(frames: Sequence[Sent], role: Role = Role.AFTER) -> EvidenceBlock:
    """Return frames as a block, as a worker reports it."""
    block = block_of_objects([_evidence(frame, role) for frame in frames], RULES)
    items = block.items
    items["tcp_flags"] = [frame.flags if frame.protocol == TCP else 0 for frame in frames]
    items["ktime_ns"] = items["time_ns"] - START_NS + 1_000_000_000_000
    items["cpu"] = [frame.cpu for frame in frames]
    return block


def _evidence(frame: Sent, role: Role) -> Evidence:
    number, port = frame.client
    client, server = (bytes([10, number >> 16 & 255, number >> 8 & 255, number & 255]), port), (SERVER, 80)
    ends = (*server, *client) if frame.is_answer else (*client, *server)
    return Evidence(
        frame=bytes(frame.size),
        timestamp_ns=START_NS + round(frame.time_s * 1e9),
        wirelen=frame.size,
        linktype=1,
        interface=1,
        five_tuple=FiveTuple(frame.protocol, *ends),
        vlan=(),
        payload_start=0,
        payload_end=frame.size,
        matches=(Match(frame.rule, None, None),) if frame.rule else (),
        role=Role.HIT if frame.rule else role,
    )


def tracker(
    *, packets: int = 256, size_bytes: int = 1 << 18, seconds: float = 60, most_open: int = 10_000
) -> ConversationTracker:
    """Return a tracker that keeps the conversations of threats."""
    return ConversationTracker(
        lambda rules: np.array([rule.rule_class == "threat" for rule in rules], np.bool_),
        lambda items: np.zeros(len(items), np.uint64),
        ContextLimits(packets, size_bytes, seconds),
        ContextBudgets(),
        most_open=most_open,
    )


def kept(block: EvidenceBlock) -> list[tuple[float, Role, int]]:
    """Return the time, role and conversation of each item."""
    items = block.items
    times = ((items["time_ns"] - START_NS) / 1e9).round(6).tolist()
    return list(zip(times, map(Role, items["role"].tolist()), items["conversation"].tolist(), strict=True))
