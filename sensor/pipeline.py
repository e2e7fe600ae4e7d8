"""The one loop: batch to packets, to matches, to evidence.

Runs in every capture worker and in ``sensor read``. A pipeline belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sensor.decode import decode
from sensor.model import Evidence, FiveTuple, FrameBatch, Match, PacketBatch, PacketStatus, Rule
from sensor.rules.flows import Flow, FlowHash, FlowTable
from sensor.rules.load import RuleSet
from sensor.rules.matcher import Matcher
from sensor.rules.profile import PROFILES

Keep = Literal["threat", "any", "flow"]


class Pipeline:
    """Rules, a profile and what is known of the flows; every frame is counted in one of the buckets.

    ``read = undecodable + unmatched + matched``; ``matched`` are the frames that became evidence.
    """

    def __init__(
        self, rules: RuleSet | Iterable[Rule], keep: Keep, profile: str = "default", *, live: bool = True
    ) -> None:
        """``keep`` names what makes a frame evidence.

        ``threat``: a hit of a threat rule; ``any``: a hit of any rule; ``flow``: it is the first
        packet with payload of its flow, or the first sent to where that one came from.
        ``live`` is False for capture files.
        """
        self.read = 0
        self.undecodable = 0
        self.unmatched = 0
        self.matched = 0
        self._keep = keep
        self._profile = chosen = PROFILES[profile]
        self._matcher = Matcher(rules, chosen.http)
        ends = live or chosen.ends_in_files
        self._flows = FlowTable(chosen.idle_s if ends else inf, chosen.life_s if ends else inf)
        self._flow_hash = FlowHash(chosen.flow_has_tos)
        self._knows_flows = keep == "flow" or chosen.once or chosen.depth is not None

    def process(self, batch: FrameBatch) -> list[Evidence]:
        """Match every frame of the batch, in order; the evidence owns its bytes."""
        packets = decode(batch)
        status = packets.status
        undecodable = int(np.isin(status, (PacketStatus.UNKNOWN, PacketStatus.MALFORMED)).sum())
        evidence = self._search(batch, packets, self._candidates(packets))
        self.read += len(batch)
        self.undecodable += undecodable
        self.matched += len(evidence)
        self.unmatched += len(batch) - undecodable - len(evidence)
        return evidence

    def _candidates(self, packets: PacketBatch) -> NDArray[np.intp]:
        """Positions of the packets whose payload is matched as far as their flow allows."""
        length = packets.payload_end - packets.payload_start
        chosen = np.isin(packets.status, (PacketStatus.PAYLOAD, PacketStatus.FRAGMENT)) & (length > 0)
        if self._profile.longest is not None:
            chosen &= length <= self._profile.longest
        return np.flatnonzero(chosen)

    def _search(self, batch: FrameBatch, packets: PacketBatch, chosen: NDArray[np.intp]) -> list[Evidence]:
        frames = np.frombuffer(batch.buffer, np.uint8)
        start, end = packets.payload_start[chosen], packets.payload_end[chosen]
        is_http = self._profile.http.matches_each(frames, start, end)
        keys = (
            self._flow_hash.keys(frames, packets, chosen).tolist() if self._knows_flows else [0] * len(chosen)
        )
        columns = zip(
            chosen.tolist(),
            start.tolist(),
            end.tolist(),
            packets.protocol[chosen].tolist(),
            packets.sport[chosen].tolist(),
            packets.dport[chosen].tolist(),
            is_http.tolist(),
            keys,
            batch.timestamp_ns[chosen].tolist(),
            strict=True,
        )
        buffer, search = batch.buffer, self._matcher.search
        evidence = []
        for index, start_, end_, protocol, sport, dport, http, key, now_ns in columns:
            flow = None
            if self._knows_flows:
                flow = self._flows.find(key, now_ns)
                flow.packets += 1
                if self._is_done(flow, http):
                    continue
            matches = search(buffer[start_:end_], protocol, sport, dport, http)
            if not matches and self._keep != "flow":
                continue
            if flow is not None and self._profile.once:
                matches = _first_of_class(matches, flow)
            if self._is_kept(matches, flow, batch, packets, index):
                evidence.append(_evidence(batch, packets, index, matches))
        return evidence

    def _is_done(self, flow: Flow, is_http: bool) -> bool:
        """Whether nothing more is matched in this flow's packet."""
        profile = self._profile
        if profile.depth is not None and flow.packets > profile.depth:
            return not (is_http and profile.http_at_any_depth)
        return len(flow.labelled) == 5

    def _is_kept(
        self,
        matches: tuple[Match, ...],
        flow: Flow | None,
        batch: FrameBatch,
        packets: PacketBatch,
        index: int,
    ) -> bool:
        if self._keep == "any":
            return bool(matches)
        if self._keep == "threat":
            return any(match.rule.rule_class == "threat" for match in matches)
        source, destination = _addresses(batch, packets, index)
        return flow is not None and _opens(flow, source, destination)


def _opens(flow: Flow, source: bytes, destination: bytes) -> bool:
    """Whether this packet is the first of its flow, or the first answer to that."""
    if flow.source is None:
        flow.source = source
        return True
    if flow.answered or destination != flow.source:
        return False
    flow.answered = True
    return True


def _first_of_class(matches: tuple[Match, ...], flow: Flow) -> tuple[Match, ...]:
    """Keep the matches that label the flow: the first of each class that has named none yet."""
    labels = []
    for match in matches:
        if match.rule.rule_class not in flow.labelled:
            labels.append(match)
            flow.labelled.add(match.rule.rule_class)
            if match.rule.os:
                flow.labelled.add("os")
    return tuple(labels)


def _addresses(batch: FrameBatch, packets: PacketBatch, index: int) -> tuple[bytes, bytes]:
    start = int(packets.source_offset[index])
    width = 4 if packets.ip_version[index] == 4 else 16
    return bytes(batch.buffer[start : start + width]), bytes(batch.buffer[start + width : start + 2 * width])


def _evidence(batch: FrameBatch, packets: PacketBatch, index: int, matches: tuple[Match, ...]) -> Evidence:
    start = int(batch.start[index])
    source, destination = _addresses(batch, packets, index)
    return Evidence(
        frame=bytes(batch.buffer[start : start + int(batch.caplen[index])]),
        timestamp_ns=int(batch.timestamp_ns[index]),
        wirelen=int(batch.wirelen[index]),
        linktype=batch.linktype,
        interface=int(batch.interface[index]),
        five_tuple=FiveTuple(
            int(packets.protocol[index]),
            source,
            int(packets.sport[index]),
            destination,
            int(packets.dport[index]),
        ),
        vlan=tuple(packets.vlan_tci[index, : packets.vlan_count[index]].tolist()),
        payload_start=int(packets.payload_start[index]) - start,
        payload_end=int(packets.payload_end[index]) - start,
        matches=matches,
    )
