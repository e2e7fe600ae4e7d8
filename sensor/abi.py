"""numpy dtypes and enums of ``bpf/abi.h``; used by the capture rooms. Equality with the header is tested."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Counter(IntEnum):
    """Mirrors ``enum counter``: every frame ends in one bucket, ``SEEN`` counts them all."""

    SEEN = 0
    SUBMITTED = 1
    SUBMIT_FAILED = 2
    IGNORED_NO_PAYLOAD = 3
    IGNORED_NOT_IP = 4
    IGNORED_NO_TRANSPORT = 5
    IGNORED_PROTOCOL = 6
    IGNORED_PORT = 7
    IGNORED_PREFIX = 8


IGNORED = tuple(counter for counter in Counter if counter.name.startswith("IGNORED_"))

COUNTER_VALUE = np.dtype([("frames", "=u8"), ("bytes", "=u8")])

PLAN = np.dtype(
    [
        ("ignored_protocols", "=u8", (256 // 64,)),
        ("ignored_tcp_ports", "=u8", (65536 // 64,)),
        ("ignored_udp_ports", "=u8", (65536 // 64,)),
    ]
)

PLAN_COUNT = 2
"""A reload fills the plan that is not in use, then switches over."""

FRAME_META = np.dtype(
    [
        ("ktime_ns", "=u8"),
        ("wirelen", "=u4"),
        ("caplen", "=u4"),
        ("ifindex", "=u4"),
        ("l3_offset", "=u2"),
        ("l4_offset", "=u2"),
        ("payload_offset", "=u2"),
        ("payload_len", "=u2"),
        ("vlan_tci", "=u2", (2,)),
        ("vlan_count", "u1"),
        ("protocol", "u1"),
        ("status", "u1"),
        ("reserved", "u1", (5,)),
    ]
)
