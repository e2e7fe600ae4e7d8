"""Dissects one frame into layers and fields, each with its bytes, for display.

Runs in the API process and in ``sensor evidence show``. The hot path uses `sensor.decode`, which decodes
batches and only the fields that rules need.
"""

from __future__ import annotations

from collections.abc import Mapping

from sensor.dissect.frame_reader import CutShortError, FrameReader, Next, Step
from sensor.dissect.ip import IP_PROTOCOLS
from sensor.dissect.layer import HeaderField, HeaderLayer
from sensor.dissect.link import ETHERTYPES, LINKS
from sensor.dissect.transport import TRANSPORTS, datagram, stream

__all__ = ["HeaderField", "HeaderLayer", "dissect"]

LAYERS_MAX = 32
"""Most layers per frame, against nested tunnels; the rest is shown as data."""

_TABLES: Mapping[str, Mapping[int, Step]] = {
    "link": LINKS,
    "ethertype": ETHERTYPES,
    "protocol": IP_PROTOCOLS | TRANSPORTS,
    "tcp": {0: stream},
    "udp": {0: datagram},
}


def dissect(frame: bytes, linktype: int) -> list[HeaderLayer]:
    """Return the layers of a frame, outermost first; any bytes are accepted.

    Layers cover the whole frame without gaps: unknown content is a layer called ``Data``, bytes after the
    end of the packet are one called ``Padding``. A layer that is cut off ends with the frame.
    """
    reader = FrameReader(frame)
    following: Next | None = Next("link", linktype)
    try:
        while following and reader.left and len(reader.layers) < LAYERS_MAX:
            step = _TABLES[following.table].get(following.key)
            following = step(reader) if step else None
    except CutShortError:
        pass
    reader.close("Data")
    return reader.layers
