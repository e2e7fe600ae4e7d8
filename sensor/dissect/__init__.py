"""One frame, layer by layer and field by field, each with the bytes it stands in: for people who look at it.

Runs in the process of the API and in ``sensor evidence show``, on a single frame at a time:
`sensor.decode` does batches, and far less, for the hot path.
"""

from __future__ import annotations

from collections.abc import Mapping

from sensor.dissect.ip import IP_PROTOCOLS
from sensor.dissect.layer import CutShortError, FrameReader, HeaderField, HeaderLayer, Next, Step
from sensor.dissect.link import ETHERTYPES, LINKS
from sensor.dissect.transport import TRANSPORTS, datagram, stream

__all__ = ["HeaderField", "HeaderLayer", "dissect"]

LAYERS_MAX = 32
"""Tunnels in tunnels end somewhere; what is behind is shown as data."""

_TABLES: Mapping[str, Mapping[int, Step]] = {
    "link": LINKS,
    "ethertype": ETHERTYPES,
    "protocol": IP_PROTOCOLS | TRANSPORTS,
    "tcp": {0: stream},
    "udp": {0: datagram},
}


def dissect(frame: bytes, linktype: int) -> list[HeaderLayer]:
    """Return the layers of a frame, outermost first; any bytes are accepted.

    Layers follow each other without a gap and cover the whole frame: what is not understood is a layer
    called ``Data``, what lies behind the end of the packet one called ``Padding``. A layer of which the
    frame has not all ends where the frame does.
    """
    cursor = FrameReader(frame)
    following: Next | None = Next("link", linktype)
    try:
        while following and cursor.left and len(cursor.layers) < LAYERS_MAX:
            step = _TABLES[following.table].get(following.key)
            following = step(cursor) if step else None
    except CutShortError:
        pass
    cursor.close("Data")
    return cursor.layers
