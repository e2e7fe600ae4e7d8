"""The one loop: batch to packets, to matches, to evidence.

Runs in every capture worker and in ``sensor read``. A pipeline belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sensor.decode import decode
from sensor.model import Evidence, FiveTuple, FrameBatch, Match, PacketBatch, PacketStatus, Rule
from sensor.rules.flows import NO_FLOW, Flow, FlowHash, FlowTable
from sensor.rules.matcher import Matcher
from sensor.rules.profile import PROFILES

Keep = Literal["threat", "any", "flow"]


class Pipeline:
    """Rules, a profile and what is known of the flows; every frame is counted in one of the buckets.

    ``read = undecodable + unmatched + matched``; ``matched`` are the frames that became evidence.
    """

    def __init__(
        self, rules: Iterable[Rule], keep: Keep, profile: str = "default", *, live: bool = True
    ) -> None:
        """``keep`` names what makes a frame evidence.

        ``threat``: a hit of a threat rule; ``any``: a hit of any rule; ``flow``: it is the first
        packet with payload of its flow, or the first sent to where that one came from.
        ``profile`` names one of `sensor.rules.profile.PROFILES`; ``live`` is False for capture files.
        """
        self.read = 0
        self.undecodable = 0
        self.unmatched = 0
        self.matched = 0
        self._keep = keep
        self._profile = chosen = PROFILES[profile]
        self.matcher = Matcher(rules, chosen.http)
        ends = live or chosen.ends_in_files
        self._flows = FlowTable(chosen.idle_s if ends else inf, chosen.life_s if ends else inf)
        self._flow_hash = FlowHash(chosen.flow_has_tos)
        self._needs_flows = keep == "flow" or chosen.once or chosen.depth is not None

    def process(self, batch: FrameBatch) -> list[Evidence]:
        """Match every frame of the batch, in order; the evidence owns its bytes."""
        packets = decode(batch)
        undecodable = int(np.isin(packets.status, (PacketStatus.UNKNOWN, PacketStatus.MALFORMED)).sum())
        evidence = list(self._evidence(batch, packets, self._candidates(packets)))
        self.read += len(batch)
        self.undecodable += undecodable
        self.matched += len(evidence)
        self.unmatched += len(batch) - undecodable - len(evidence)
        return evidence

    def _candidates(self, packets: PacketBatch) -> NDArray[np.intp]:
        """Positions of the packets whose payload is matched as far as their flow allows."""
        length = packets.payload_end - packets.payload_start
        chosen = (packets.status == PacketStatus.PAYLOAD) | (packets.status == PacketStatus.FRAGMENT)
        chosen &= length > 0
        if self._profile.longest is not None:
            chosen &= length <= self._profile.longest
        return np.flatnonzero(chosen)

    def _evidence(
        self, batch: FrameBatch, packets: PacketBatch, chosen: NDArray[np.intp]
    ) -> Iterator[Evidence]:
        """Match the chosen packets; the loop runs once for each of them, so it stays short."""
        frames = np.frombuffer(batch.buffer, np.uint8)
        start, end = packets.payload_start[chosen], packets.payload_end[chosen]
        columns = zip(
            chosen.tolist(),
            start.tolist(),
            end.tolist(),
            packets.protocol[chosen].tolist(),
            packets.sport[chosen].tolist(),
            packets.dport[chosen].tolist(),
            self._profile.http.matches_each(frames, start, end).tolist(),
            self._keys(frames, packets, chosen),
            batch.timestamp_ns[chosen].tolist(),
            strict=True,
        )
        buffer, search, count = batch.buffer, self.matcher.search, self._flows.count
        depth = inf if self._profile.depth is None else self._profile.depth
        deep_http, by_flow = self._profile.http_at_any_depth, self._keep == "flow"
        flow = NO_FLOW
        for index, start_, end_, protocol, sport, dport, is_http, key, now_ns in columns:
            if key is not None:
                flow = count(key, now_ns)
                if flow.packets > depth and not (is_http and deep_http):
                    continue
            matches = search(buffer[start_:end_], protocol, sport, dport, is_http)
            if matches or by_flow:
                source, destination = addresses(buffer, packets, index)
                kept, matches = self._judge(matches, flow, source, destination)
                if kept:
                    five_tuple = FiveTuple(protocol, source, sport, destination, dport)
                    yield _evidence(batch, packets, index, start_, end_, five_tuple, matches)

    def _keys(
        self, frames: NDArray[np.uint8], packets: PacketBatch, chosen: NDArray[np.intp]
    ) -> list[int] | list[None]:
        """Number the packets' flows, where anything depends on flows."""
        if not self._needs_flows:
            return [None] * len(chosen)
        keys: list[int] = self._flow_hash.keys(frames, packets, chosen).tolist()
        return keys

    def _judge(
        self, matches: tuple[Match, ...], flow: Flow, source: bytes, destination: bytes
    ) -> tuple[bool, tuple[Match, ...]]:
        """Whether the packet is kept, and the matches that count."""
        opens = self._keep == "flow" and flow.opens(source, destination)
        if self._profile.once:
            matches = flow.label(matches, source)
        if self._keep == "flow":
            return opens, matches
        if self._keep == "any":
            return bool(matches), matches
        return any(match.rule.rule_class == "threat" for match in matches), matches


def addresses(buffer: memoryview, packets: PacketBatch, index: int) -> tuple[bytes, bytes]:
    """Return the packed source and destination address of a packet that has an IP header."""
    start = packets.source_offset.item(index)
    width = 4 if packets.ip_version.item(index) == 4 else 16
    both = bytes(buffer[start : start + 2 * width])
    return both[:width], both[width:]


def _evidence(
    batch: FrameBatch,
    packets: PacketBatch,
    index: int,
    payload_start: int,
    payload_end: int,
    five_tuple: FiveTuple,
    matches: tuple[Match, ...],
) -> Evidence:
    start = batch.start.item(index)
    tags = packets.vlan_count.item(index)
    return Evidence(
        bytes(batch.buffer[start : start + batch.caplen.item(index)]),
        batch.timestamp_ns.item(index),
        batch.wirelen.item(index),
        batch.linktype,
        batch.interface.item(index),
        five_tuple,
        tuple(packets.vlan_tci[index, :tags].tolist()) if tags else (),
        payload_start - start,
        payload_end - start,
        matches,
    )
