"""Blocks that a `ConversationTracker` works on, and their frames one by one. Runs where that does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.open_conversation import OpenConversation, endpoints_of
from sensor.model import Role

Items = NDArray[np.void]
Mask = NDArray[np.bool_]


class TrackedFrame(NamedTuple):
    """The facts that decide about an item."""

    position: int
    flow: int
    time_ns: int
    caplen: int
    wirelen: int
    flags: int
    endpoint: int
    is_context: bool
    is_known: bool
    """True if the frame is kept already."""


def tracked_frames(
    positions: NDArray[np.intp], items: Items, times_ns: NDArray[np.int64], is_known: Mask
) -> Iterator[TrackedFrame]:
    """Yield what decides about each of these items of a block, which are at ``positions``."""
    columns = (
        positions,
        items["flow"],
        times_ns,
        items["caplen"],
        items["wirelen"],
        items["tcp_flags"],
        endpoints_of(items),
        items["role"] != Role.HIT,
        is_known,
    )
    return map(TrackedFrame._make, zip(*(column.tolist() for column in columns), strict=True))


class TrackedBlock:
    """A block that is being worked on."""

    def __init__(self, items: Items, keep: Mask, block: EvidenceBlock, wanted: Mask) -> None:
        self.items, self.keep = items, keep
        self.opened: list[OpenConversation] = []
        self.is_done = np.zeros(len(items), np.bool_)
        """True for each item that needs no more attention."""
        self.openers = np.zeros(len(items), np.bool_)
        """True for each item that may open a conversation."""
        self.paid: set[int] = set()
        """Flows that may open one conversation."""
        self.refused: set[int] = set()
        """Flows that may open no other one."""
        self._item_of_match = block.item_of_match[wanted]
        self._rule_ids = block.rule_ids[wanted]
        self.openers[self._item_of_match] = True

    def wanted_rules(self, positions: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Return the rules that want context of these items: each one's place among them, and its id."""
        place = np.full(len(self.items), -1)
        place[positions] = np.arange(len(positions))
        places = place[self._item_of_match]
        chosen = np.flatnonzero(places >= 0)
        chosen = chosen[np.argsort(places[chosen], kind="stable")]
        return places[chosen], self._rule_ids[chosen]


class FlowColumns(NamedTuple):
    """The flows of conversations as columns, by flow."""

    flows: NDArray[np.uint64]
    numbers: NDArray[np.uint64]
    until_ns: NDArray[np.int64]
    is_limited: Mask
    """True for a conversation that has reached a limit, so that only its matches belong to it."""

    @classmethod
    def of(cls, by_flow: Mapping[int, OpenConversation]) -> FlowColumns:
        """Return the columns of a table."""
        flows = np.fromiter(by_flow, np.uint64, len(by_flow))
        order = np.argsort(flows)
        rows = [(one.number, one.until_ns, bool(one.ended)) for one in by_flow.values()]
        columns = np.array(rows, np.int64).reshape(-1, 3)[order]
        return cls(flows[order], columns[:, 0].astype(np.uint64), columns[:, 1], columns[:, 2] != 0)

    def find(self, flows: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Return the row of each flow; -1 if it has none."""
        if not len(self.flows):
            return np.full(len(flows), -1)
        rows = np.minimum(np.searchsorted(self.flows, flows), len(self.flows) - 1)
        return np.where(self.flows[rows] == flows, rows, -1)
