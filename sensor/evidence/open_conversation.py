"""One conversation under way: how many frames it has, how far its flow is, and when it is over.

Runs in the supervisor and in ``sensor read``. Times are those of the frames: the kernel's monotonic ones, or
those of a capture file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.conversation import ConversationNote, Ending, Missing
from sensor.model import FiveTuple

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
TCP = 6

SILENCE_NS = 30_000_000_000
"""A flow that sent nothing for this long is over."""
LINGER_RST_NS = 5_000_000_000
"""How long frames are kept after a RST, which anybody can forge: the server may answer nevertheless."""
_LATEST_NS = (1 << 63) - 1
LINGER_NS = 500_000_000
"""How long frames are kept after a TCP connection ended: the last acknowledgement, and repeated frames."""
REACH_NS = 3_600_000_000_000
"""A conversation has no frames that are so much older than its match."""


class ContextLimits(NamedTuple):
    """The settings that limit a conversation after its first match."""

    packets: int
    size_bytes: int
    seconds: float


@dataclass(eq=False)
class OpenConversation:
    """A conversation from its first match on."""

    number: int
    flow: int
    """The number of `sensor.rules.engine.flows.FlowHash`."""
    fragments: int
    """The flow of later IP fragments between the same addresses, which have no ports."""
    five_tuple: FiveTuple
    """From the client to the server, as far as known."""
    vlan: tuple[int, ...]
    opened_ns: int
    """Time of the first match."""
    limits: ContextLimits
    lost_before: int
    """Frames that ring and network card had lost when it was opened."""
    last_ns: int = 0
    """Time of its newest frame."""
    packets: int = 0
    """Frames after the first match."""
    size_bytes: int = 0
    kept: int = 1
    """All its frames, the first match and those before it included."""
    missing: Missing = field(default=Missing(0))
    ended: Ending = Ending.OPEN
    opener: int = 0
    """Position of the first match in the block that it came in."""
    is_sought: bool = False
    """True as long as frames of it are looked for in the history for the first time."""
    has_beginning: bool = False
    """True if a frame that opens its TCP connection is known."""
    closing: Ending = Ending.OPEN
    """FIN or RST once the TCP connection has ended; for a moment more frames may come."""
    _closing_ns: int = 0
    _fins: int = 0
    """The endpoints that have closed the connection: 1, 2, or both."""
    _is_learnt: bool = False

    def over_at(self, time_ns: int, *, opens: bool = False) -> Ending:
        """Return why the conversation is over before a frame of this time; OPEN if it is not.

        ``opens`` says that the frame opens a TCP connection.
        """
        linger_ns = LINGER_RST_NS if self.closing == Ending.RST else LINGER_NS
        if self.closing and (opens or time_ns > self._closing_ns + linger_ns):
            return self.closing
        silent_ns, until_ns = self.last_ns + SILENCE_NS, self.until_ns
        if time_ns > min(silent_ns, until_ns):
            return Ending.SILENCE if silent_ns < until_ns else Ending.LIMIT
        return Ending.OPEN

    @property
    def until_ns(self) -> int:
        """Time at which the conversation is over in any case."""
        return min(self.opened_ns + int(self.limits.seconds * 1e9), _LATEST_NS)

    def end(self, ending: Ending) -> None:
        """Keep no more frames; the first reason counts."""
        if self.ended == Ending.OPEN:
            self.ended = ending

    def has_room(self, caplen: int) -> bool:
        """Return True if another frame is within the limits."""
        return self.packets < self.limits.packets and self.size_bytes + caplen <= self.limits.size_bytes

    def add(self, time_ns: int, caplen: int, flags: int, endpoint: int) -> None:
        """Count a frame after the first match; ``endpoint`` is from `endpoints_of`."""
        self.packets += 1
        self.kept += 1
        self.size_bytes += caplen
        self.see(time_ns, flags, endpoint)

    def see(self, time_ns: int, flags: int, endpoint: int) -> None:
        """Follow the flow with one of its frames."""
        self.last_ns = max(self.last_ns, time_ns)
        if self.five_tuple.protocol != TCP or self.closing:
            return
        if flags & FIN:
            self._fins |= endpoint
        if flags & RST:
            self.closing, self._closing_ns = Ending.RST, time_ns
        elif self._fins == 3:
            self.closing, self._closing_ns = Ending.FIN, time_ns

    def learn_beginning(self, items: NDArray[np.void], clock: NDArray[np.int64], missing: Missing) -> None:
        """Learn from earlier frames who is the client, and whether the beginning is there.

        ``missing`` says what else the history lacks. Only the first call can find the beginning.
        """
        if self._is_learnt:
            self.missing |= missing & ~Missing.BEGINNING
            return
        self._is_learnt = True
        early = np.flatnonzero((clock <= self.opened_ns) & (items["flow"] == self.flow))
        if len(early):
            first = items[early[np.argmin(clock[early])]]
            self.five_tuple = five_tuple_of(first)
            self.vlan = tuple(first["vlan_tci"][: first["vlan_count"]].tolist())
            if first["tcp_flags"] & (SYN | ACK) == SYN | ACK:
                protocol, source, sport, destination, dport = self.five_tuple
                self.five_tuple = FiveTuple(protocol, destination, dport, source, sport)
            self.has_beginning |= opens_connection(int(first["tcp_flags"]))
        if self.five_tuple.protocol == TCP:
            missing &= ~Missing.BEGINNING
            missing |= Missing(0) if self.has_beginning else Missing.BEGINNING
        self.missing |= missing

    def note(self, lost: int) -> ConversationNote:
        """Return what is known now; ``lost`` is the number of frames that ring and card have lost."""
        lost -= self.lost_before
        missing = self.missing | (Missing.LOST if lost else Missing(0))
        if self.is_sought:
            missing |= Missing.BEGINNING
        packets = self.kept if self.ended else 0
        return ConversationNote(self.number, self.five_tuple, self.vlan, self.ended, missing, lost, packets)


def opens_connection(flags: int) -> bool:
    """Return True for the flags of the first packet of a TCP connection."""
    return flags & (SYN | ACK) == SYN


def endpoints_of(items: NDArray[np.void]) -> NDArray[np.uint8]:
    """Return a number for the sender of each item: 1 or 2 for the two endpoints of a flow."""
    sender, receiver = (
        _endpoint_words(items, *end) for end in (("source", "sport"), ("destination", "dport"))
    )
    is_first = np.zeros(len(items), np.bool_)
    is_equal = np.ones(len(items), np.bool_)
    for one, other in zip(sender, receiver, strict=True):
        is_first |= is_equal & (one < other)
        is_equal &= one == other
    return np.where(is_first, 1, 2).astype(np.uint8)


def _endpoint_words(items: NDArray[np.void], address: str, port: str) -> tuple[NDArray[np.integer[Any]], ...]:
    words = np.ascontiguousarray(items[address]).view(np.uint64)
    return words[:, 0], words[:, 1], items[port]


def five_tuple_of(item: np.void) -> FiveTuple:
    """Return the five-tuple of an item."""
    width = 16 if item["ip_version"] == 6 else 4
    source, destination = (item[name][:width].tobytes() for name in ("source", "destination"))
    return FiveTuple(int(item["protocol"]), source, int(item["sport"]), destination, int(item["dport"]))


def connection_start(
    items: NDArray[np.void], clock: NDArray[np.int64], conversation: OpenConversation
) -> int:
    """Return the time at which the connection began that a conversation is about.

    Earlier frames belong to other connections between the same endpoints. A TCP connection begins with a SYN,
    which may be repeated; others begin after a silence.
    """
    earliest_ns = conversation.opened_ns - REACH_NS
    is_own = items["flow"] == conversation.flow
    early = np.flatnonzero(is_own & (clock <= conversation.opened_ns) & (clock >= earliest_ns))
    if not len(early):
        return earliest_ns
    early = early[np.argsort(clock[early], kind="stable")]
    times_ns, flags = clock[early], items["tcp_flags"][early]
    if conversation.five_tuple.protocol == TCP:
        # A SYN in the middle of a connection may be forged: the one before must have ended, or be silent.
        is_new = np.append(True, np.diff(times_ns) > SILENCE_NS)
        is_new[1:] |= np.maximum.accumulate(flags[:-1] & (FIN | RST)) != 0
        begins = ((flags & (SYN | ACK)) == SYN) & is_new
        begins[1:] &= (flags[:-1] & SYN) == 0
    else:
        begins = np.diff(times_ns, prepend=times_ns[0]) > SILENCE_NS
    return int(times_ns[np.flatnonzero(begins)[-1]]) if begins.any() else earliest_ns
