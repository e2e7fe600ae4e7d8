"""The conversations in capture files: their frames before a match, and after it. Runs in ``sensor read``.

The history is the file: recent frames of each flow are remembered in memory of fixed size, as the kernel does
it live (``bpf/history.h``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.decode import decode
from sensor.evidence.block import EvidenceBlock, block_of_packets, in_order, joined
from sensor.evidence.conversation import ConversationNote, Missing
from sensor.evidence.conversation_tracker import ConversationTracker
from sensor.evidence.open_conversation import OpenConversation
from sensor.model import FrameBatch, PacketBatch, Role
from sensor.native.frame_history import CheckedFrames, FileHistory, HistoryColumns, HistoryEnd, HistoryFrames
from sensor.rules.engine.flows import FlowHash
from sensor.rules.prefilter.networks import Networks

_IS_HIT = 1 << 31
"""Marks a frame in the history that is evidence because of what is in it."""


class Kept(NamedTuple):
    """The evidence of a batch to write."""

    blocks: list[EvidenceBlock]
    """Matches with the context after them, and before that the context before them."""
    notes: list[ConversationNote]


class _Decoded(NamedTuple):
    """A batch, and those of its packets that may be context."""

    batch: FrameBatch
    frames: NDArray[np.uint8]
    packets: PacketBatch
    chosen: NDArray[np.intp]
    """Their positions."""
    flows: NDArray[np.uint64]

    @classmethod
    def of(cls, batch: FrameBatch, flow_hash: FlowHash, networks: Networks) -> _Decoded:
        """Decode a batch."""
        frames, packets = np.frombuffer(batch.buffer, np.uint8), decode(batch)
        chosen = networks.watched(frames, packets, np.flatnonzero(packets.ip_version))
        return cls(batch, frames, packets, chosen, flow_hash.keys(frames, packets, chosen))

    def block(self, context: NDArray[np.bool_], role: Role, like: EvidenceBlock) -> EvidenceBlock:
        """Return the context among the chosen packets, as a block with the rules of another."""
        return block_of_packets(
            self.batch,
            self.packets,
            self.chosen[context],
            self.flows[context],
            np.zeros(int(np.count_nonzero(context)), np.int64),
            np.empty(0, np.uint32),
            like.rule_set,
            like.http,
            like.digest,
            roles=role,
        )


class FileContext:
    """Follows conversations through the batches of capture files, in their order."""

    def __init__(
        self,
        tracker: ConversationTracker,
        flow_hash: FlowHash,
        networks: Networks,
        history: FileHistory | None,
    ) -> None:
        """``flow_hash`` is that of the items; only frames of watched ``networks`` become context."""
        self.tracker = tracker
        self._flow_hash, self._networks, self._history = flow_hash, networks, history
        self._origins: dict[tuple[int, int], int] = {}
        """Link type and interface of the frames in the history, with their numbers there."""
        self._origin_rows = np.empty((0, 2), np.int64)
        """The same by number."""

    def add(self, batch: FrameBatch, hits: EvidenceBlock, positions: NDArray[np.intp]) -> Kept:
        """Return what is kept of a batch: its matches, the context around them, and earlier context.

        Args:
            batch: The frames.
            hits: The evidence among them, in order.
            positions: The position of each hit's frame in the batch.
        """
        decoded = _Decoded.of(batch, self._flow_hash, self._networks)
        is_hit = np.zeros(len(batch), np.bool_)
        is_hit[positions] = True
        block, order = hits, positions
        wanted = self.tracker.flows_for(hits)
        if len(wanted):
            is_context = np.isin(decoded.flows, wanted) & ~is_hit[decoded.chosen]
            both = joined([hits, decoded.block(is_context, Role.AFTER, hits)])
            order = np.concatenate([positions, decoded.chosen[is_context]])
            in_file = np.argsort(order, kind="stable")
            block, order = in_order(both, in_file), order[in_file]
        admission = self.tracker.admit(block)
        earlier = self._remember(decoded, is_hit, admission.opened, order, hits)
        ended = admission.ended
        if len(batch):
            ended = ended + self.tracker.tick(int(batch.timestamp_ns.max()))
        notes = list(map(self.tracker.note, [*admission.opened, *ended]))
        return Kept([*earlier, admission.block], notes)

    def close(self) -> list[ConversationNote]:
        """Close all conversations, because there are no more frames; return what is known of them."""
        return list(map(self.tracker.note, self.tracker.close()))

    def _remember(
        self,
        decoded: _Decoded,
        is_hit: NDArray[np.bool_],
        opened: list[OpenConversation],
        order: NDArray[np.intp],
        like: EvidenceBlock,
    ) -> list[EvidenceBlock]:
        """Add a batch to the history; return the frames before the matches of conversations opened in it."""
        if self._history is None:
            for conversation in opened:
                self.tracker.add_before(conversation, like.part(0, 0), Missing.HISTORY_OFF)
            return []
        frames, done = CheckedFrames(self._history_columns(decoded, is_hit)), 0
        blocks: list[EvidenceBlock] = []
        for conversation in opened:
            match = int(np.searchsorted(decoded.chosen, order[conversation.opener]))
            self._history.write(frames, done, match)
            done = max(done, match)
            blocks.append(self._before(self._history, conversation, like))
        self._history.write(frames, done, len(decoded.chosen))
        return [block for block in blocks if len(block)]

    def _history_columns(self, decoded: _Decoded, is_hit: NDArray[np.bool_]) -> HistoryColumns:
        batch, chosen = decoded.batch, decoded.chosen
        numbers = np.zeros(len(chosen), np.uint32)
        interfaces = batch.interface[chosen]
        for interface in np.unique(interfaces).tolist():
            origin = batch.linktype, interface
            numbers[interfaces == interface] = self._origins.setdefault(origin, len(self._origins))
        return HistoryColumns(
            decoded.frames,
            batch.start[chosen],
            batch.caplen[chosen],
            batch.wirelen[chosen],
            batch.timestamp_ns[chosen],
            numbers | np.where(is_hit[chosen], np.uint32(_IS_HIT), np.uint32(0)),
            decoded.flows,
            decoded.packets.tcp_flags[chosen],
        )

    def _before(
        self, history: FileHistory, conversation: OpenConversation, like: EvidenceBlock
    ) -> EvidenceBlock:
        """Return the remembered frames of a conversation."""
        missing = Missing.CUT_OFF if history.is_cut_off(conversation.flow) else Missing(0)
        blocks, is_hit = [like.part(0, 0)], [np.zeros(0, np.bool_)]
        for flow in dict.fromkeys((conversation.flow, conversation.fragments)):
            found = history.collect(flow)
            if flow == conversation.flow and found.end >= HistoryEnd.OVERWRITTEN:
                missing |= Missing.BEGINNING
            for batch, is_hit_of_batch in self._batches(found):
                decoded = _Decoded.of(batch, self._flow_hash, self._networks)
                is_own = decoded.flows == flow
                blocks.append(decoded.block(is_own, Role.BEFORE, like))
                is_hit.append(is_hit_of_batch[decoded.chosen[is_own]])
        return self.tracker.add_before(conversation, joined(blocks), missing, np.concatenate(is_hit))

    def _batches(self, found: HistoryFrames) -> Iterator[tuple[FrameBatch, NDArray[np.bool_]]]:
        """Yield the frames that were found, by link type, and True for each one that is evidence already."""
        if not len(found.records):
            return
        numbers = found.records["ifindex"]
        if len(self._origin_rows) < len(self._origins):
            self._origin_rows = np.array(list(self._origins), np.int64)
        origins = self._origin_rows[(numbers & (_IS_HIT - 1)).astype(np.intp)]
        for linktype in np.unique(origins[:, 0]).tolist():
            chosen = origins[:, 0] == linktype
            batch = found._replace(records=found.records[chosen]).batch(linktype)
            yield replace(batch, interface=origins[chosen, 1]), numbers[chosen] >= _IS_HIT
