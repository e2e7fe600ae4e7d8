"""Community ID 1.0: a name for a flow that is the same in all programs.

https://github.com/corelight/community-id-spec

Runs in the event sender, the API process and the commands.
"""

from __future__ import annotations

import logging
from functools import lru_cache

from communityid import LOG, CommunityID, FlowTuple

from sensor.model import FiveTuple

ICMP_PROTOCOLS = (1, 58)
_PORTS = (6, 17, 132)
_WITH_SEED_0 = CommunityID()
LOG.setLevel(logging.WARNING)  # at the level INFO, the package logs the bytes of each flow


@lru_cache(maxsize=1 << 12)  # the packets of a flow follow each other
def community_id(five_tuple: FiveTuple, icmp: tuple[int, int] | None = None) -> str | None:
    """Return the identifier of a packet's flow, with seed 0; None if it has none.

    ``icmp`` is type and code of an ICMP or ICMPv6 message, which stand for the ports. Fragments that are not
    the first are without ports, and without an identifier. So are frames without a packet.
    """
    protocol, source, sport, destination, dport = five_tuple
    if protocol in ICMP_PROTOCOLS:
        sport, dport = icmp or (0, 0)
        if icmp is None:
            return None
    elif protocol in _PORTS:
        if not sport and not dport:
            return None
    elif not protocol:
        return None
    ports = (sport, dport) if protocol in (*_PORTS, *ICMP_PROTOCOLS) else (None, None)
    found: str | None = _WITH_SEED_0.calc(FlowTuple(protocol, source, destination, *ports))
    return found


def icmp_message(five_tuple: FiveTuple, frame: bytes, payload_start: int) -> tuple[int, int] | None:
    """Return type and code of an ICMP or ICMPv6 message whose payload starts there; None of other packets."""
    start = payload_start - 8  # the header
    if five_tuple.protocol not in ICMP_PROTOCOLS or start < 0 or payload_start > len(frame):
        return None
    return frame[start], frame[start + 1]
