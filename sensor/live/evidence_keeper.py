"""The way of evidence from a report to the disk: limits, conversations, files. Runs in the supervisor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from sensor.events.sender import EventSender
from sensor.evidence.block import EvidenceBlock, in_order, joined
from sensor.evidence.budgets import Budgets
from sensor.evidence.suppression import Suppressor
from sensor.evidence.writer import EvidenceWriter
from sensor.live.followed_conversations import FollowedConversations, FoundContext
from sensor.live.indexer_process import IndexerProcess


class EvidenceKeeper:
    """Writes matches and their context, as far as they are within all limits."""

    def __init__(
        self,
        suppressor: Suppressor,
        budgets: Budgets,
        conversations: FollowedConversations,
        writer: EvidenceWriter,
        indexer: IndexerProcess,
        events: EventSender,
    ) -> None:
        self.recalled = 0
        """Frames found in the history."""
        self._suppressor, self._budgets, self._conversations = suppressor, budgets, conversations
        self._writer, self._indexer, self._events = writer, indexer, events

    def keep(self, block: EvidenceBlock) -> None:
        """Write the evidence of a report, and offer its matches as events."""
        has_context = bool(block.is_context.any())
        hits = block.select(~block.is_context) if has_context else block
        reported = hits
        hits = self._budgets.admit(self._suppressor.admit(hits))
        if len(hits) < len(reported):
            is_refused = ~np.isin(reported.items["ktime_ns"], hits.items["ktime_ns"])
            self._conversations.note_refused(np.unique(reported.items["flow"][is_refused]).tolist())
        if has_context:
            both = joined([hits, block.select(block.is_context)])
            both = in_order(both, np.argsort(both.items["ktime_ns"], kind="stable"))
            both = self._conversations.assign(both)
            hits = both.select(~both.is_context)
            self._write_context(both.select(both.is_context))
        else:
            hits = self._conversations.assign(hits)
        self._events.offer(self._writer.write(hits))
        self._send_notes()

    def keep_found(self, found: Iterable[FoundContext]) -> None:
        """Write context that was found in the history, in one piece as far as the rules are the same."""
        blocks: list[EvidenceBlock] = []
        for context in found:
            self.recalled += context.found
            if blocks and not blocks[0].has_rules_of(context.kept):
                self._write_context(joined(blocks))
                blocks = []
            blocks.append(context.kept)
        if blocks:
            self._write_context(joined(blocks))
        self._send_notes()

    def _write_context(self, context: EvidenceBlock) -> None:
        """Write context if there is room for it; its conversations say so if there is none."""
        chunks = self._writer.write(self._budgets.admit(context))
        written = Counter(
            number
            for chunk in chunks
            if chunk.path is not None
            for number in chunk.block.items["conversation"].tolist()
        )
        if written.total() < len(context):
            self._conversations.note_unwritten(Counter(context.items["conversation"].tolist()) - written)

    def _send_notes(self) -> None:
        for note in self._conversations.pop_notes():
            self._indexer.note(note)
