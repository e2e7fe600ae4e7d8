"""Conversations: the frames of a flow that are kept because of a match.

Used where evidence is written or read. The number of a conversation is the time of its first match, in
microseconds since the epoch; it is raised until no other conversation has it. Numbers therefore sort by time,
and tell the day.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from sensor.model import FiveTuple

CONVERSATION_MAX = (1 << 52) - 1
"""The highest number: in the year 2112. JSON can represent it in all programs."""


class Ending(IntEnum):
    """The reason why no more frames of a flow are kept."""

    OPEN = 0
    """More frames are kept."""
    FIN = 1
    """Both sides closed the TCP connection."""
    RST = 2
    """A side reset the TCP connection."""
    SILENCE = 3
    """The flow sent nothing for a while."""
    LIMIT = 4
    """The conversation reached the number of packets, bytes or seconds that are kept at most."""
    INTERRUPTED = 5
    """The sensor stopped, or lost track of the conversation."""


class Missing(IntFlag):
    """The parts that a conversation lacks, by their reason."""

    BEGINNING = 1
    """The flow began before the history or the capture."""
    CUT_OFF = 2
    """Frames before the match are beyond the cut-off of the history."""
    SPACE = 4
    """Matches were above a limit, or there was no room on the disk for some of the context."""
    LOST = 8
    """Frames were lost in the ring or the network card while the conversation ran."""
    HISTORY_OFF = 16
    """The history is off, or the kernel cannot keep one."""
    SNAPLEN = 32
    """Frames were captured in part."""


class ConversationNote(NamedTuple):
    """The facts about a conversation beside its frames; sent when it is opened, and again when it ends."""

    conversation: int
    """Its number, greater than 0."""
    five_tuple: FiveTuple
    """From the client to the server: of its first frame that is known."""
    vlan: tuple[int, ...]
    """Tag control information of each VLAN tag of that frame, outer tag first."""
    ended: Ending = Ending.OPEN
    missing: Missing = Missing(0)
    lost: int = 0
    """Frames that ring and network card lost while it ran, of whatever flow."""
    packets: int = 0
    """Frames that were kept of it, matches included, once it has ended; with fewer, some were deleted."""
