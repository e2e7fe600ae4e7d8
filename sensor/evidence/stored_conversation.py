"""A stored conversation: its packets in order, what it lacks, and why.

Runs in the API process and in ``sensor evidence``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from sensor.evidence.community_id import community_id
from sensor.evidence.conversation import ConversationNote, Ending, Missing
from sensor.evidence.stored import Stored
from sensor.model import FiveTuple, Role, Rule
from sensor.protocols import protocol_name

_TCP = 6

ENDINGS = {
    Ending.OPEN: "still open",
    Ending.FIN: "closed by FIN",
    Ending.RST: "reset",
    Ending.SILENCE: "silent",
    Ending.LIMIT: "cut off at the limit of packets, bytes or seconds",
    Ending.INTERRUPTED: "interrupted: the sensor stopped",
}
"""Each ending in words."""
MISSING = {
    Missing.BEGINNING: "its beginning was not captured, or no longer remembered",
    Missing.CUT_OFF: "frames before the match are beyond the cut-off of the history",
    Missing.SPACE: "some of its packets were above a limit, or there was no room for them",
    Missing.LOST: "frames were lost while it ran",
    Missing.HISTORY_OFF: "there is no history of frames before the match",
    Missing.SNAPLEN: "frames were captured in part",
}
"""Each thing that a conversation may lack, in words."""
DELETED = "packets were deleted since"
UNKNOWN = "not known, because the index was rebuilt from the files"


class PacketPlace(NamedTuple):
    """A packet and its place in a conversation."""

    stored: Stored
    is_to_server: bool
    after_us: int
    """Time since the packet before, in microseconds; 0 for the first."""


class Direction(NamedTuple):
    """Totals of one direction."""

    packets: int
    bytes: int
    """Bytes of the frames on the wire."""


class StoredConversation:
    """A conversation of one device, with its packets as the index describes them."""

    def __init__(
        self,
        number: int,
        packets: Sequence[Stored],
        note: ConversationNote | None,
        seen_ending: Ending | None = None,
        icmp: tuple[int, int] | None = None,
    ) -> None:
        """Describe it; there is at least one packet.

        If the index was rebuilt, there is no note, and the ending is what can be seen from the packets.
        ``icmp`` is type and code of the first packet, if it is of ICMP or ICMPv6.
        """
        self.number = number
        self._seen_ending, self._icmp = seen_ending, icmp
        self.packets = sorted(packets, key=lambda one: (one.time_us, one.path.name, one.offset))
        """All that are still stored, in the order of time."""
        self.note = note

    @property
    def devid(self) -> int:
        """The device that captured it."""
        return self.packets[0].devid

    @property
    def five_tuple(self) -> FiveTuple:
        """From the client to the server: that of the first packet."""
        return self.note.five_tuple if self.note else self.packets[0].five_tuple

    @property
    def vlan_ids(self) -> list[int]:
        """The VLAN id of each tag, outer tag first."""
        return self.packets[0].vlan_ids

    @property
    def first_us(self) -> int:
        """Time of the first packet, microseconds since the epoch."""
        return self.packets[0].time_us

    @property
    def last_us(self) -> int:
        """Time of the last packet."""
        return self.packets[-1].time_us

    @property
    def community_id(self) -> str | None:
        """The Community ID of its flow; None if it has none."""
        return community_id(self.five_tuple, self._icmp)

    @cached_property
    def rules(self) -> list[Rule]:
        """The rules that matched, in the order in which they first did."""
        return list(dict.fromkeys(rule for one in self.packets for rule in one.rules))

    @property
    def hits(self) -> list[Stored]:
        """The packets that matched."""
        return [one for one in self.packets if one.role == Role.HIT]

    def is_to_server(self, stored: Stored) -> bool:
        """Return True for a packet of the client."""
        _, source, sport, _, _ = self.five_tuple
        return (stored.five_tuple.source, stored.five_tuple.sport) == (source, sport)

    def places(self) -> Iterator[PacketPlace]:
        """Yield the packets in order."""
        times_us = [one.time_us for one in self.packets]
        gaps_us = [0, *(later - earlier for earlier, later in pairwise(times_us))]
        for one, gap_us in zip(self.packets, gaps_us, strict=True):
            yield PacketPlace(one, self.is_to_server(one), gap_us)

    def direction(self, *, to_server: bool) -> Direction:
        """Return the totals of one direction."""
        sizes = [one.wirelen for one in self.packets if self.is_to_server(one) == to_server]
        return Direction(len(sizes), sum(sizes))

    @property
    def ended(self) -> Ending | None:
        """The reason why no more packets were kept; None if it is not known."""
        return self.note.ended if self.note else self._seen_ending

    @property
    def has_deleted(self) -> bool:
        """True if packets that were kept are no longer there."""
        own = sum(one.conversation == self.number for one in self.packets)
        return self.note is not None and own < self.note.packets

    @property
    def is_complete(self) -> bool | None:
        """True if it has all frames of the flow; None if that is not known."""
        if self.note is None:
            return None
        is_tcp = self.five_tuple.protocol == _TCP
        ends = (Ending.FIN, Ending.RST) if is_tcp else (Ending.SILENCE,)
        return self.note.ended in ends and not self.note.missing and not self.has_deleted

    @property
    def why_incomplete(self) -> list[str]:
        """The reasons in words why it is not complete, or not known to be."""
        if self.note is None:
            return [UNKNOWN]
        if self.is_complete:
            return []
        reasons = [words for part, words in MISSING.items() if part in self.note.missing]
        if self.has_deleted:
            reasons.append(DELETED)
        if self.note.ended not in (Ending.FIN, Ending.RST):
            reasons.append(ENDINGS[self.note.ended])
        return reasons

    @property
    def transport(self) -> str:
        """The name of its protocol."""
        return protocol_name(self.five_tuple.protocol)
