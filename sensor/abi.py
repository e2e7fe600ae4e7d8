"""Structures, enums and constants of ``bpf/abi.h``; a test compares them. Used by capture code."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Counter(IntEnum):
    """Mirrors ``enum counter``: every frame ends in one bucket, and ``SEEN`` counts all of them."""

    SEEN = 0
    SUBMITTED = 1
    SUBMIT_FAILED = 2
    IGNORED_NO_PAYLOAD = 3
    IGNORED_NOT_IP = 4
    IGNORED_NO_TRANSPORT = 5
    IGNORED_NETWORK = 6
    IGNORED_PROTOCOL = 7
    IGNORED_PORT = 8
    IGNORED_LENGTH = 9
    IGNORED_FLOW = 10
    IGNORED_PREFIX = 11


IGNORED = tuple(counter for counter in Counter if counter.name.startswith("IGNORED_"))

COUNTER_VALUE = np.dtype([("frames", "=u8"), ("bytes", "=u8")])


class FlowPlace(IntEnum):
    """Mirrors ``enum flow_place``: the place in the table that a new flow was given."""

    UNUSED = 0
    OWN = 1
    OVER = 2
    EVICTED = 3
    NOWHERE = 4


class Loss(IntEnum):
    """Mirrors ``enum loss``: the cause of a frame in ``SUBMIT_FAILED``."""

    RING_FULL = 0
    NO_RING = 1
    ERROR = 2


class HistoryFate(IntEnum):
    """Mirrors ``enum history_fate``: the fate of a frame that the history asked for."""

    KEPT = 0
    BEYOND = 1
    FAILED = 2


COUNTERS = np.dtype(
    [
        ("buckets", COUNTER_VALUE, (len(Counter),)),
        ("flows", "=u8", (len(FlowPlace),)),
        ("losses", "=u8", (len(Loss),)),
        ("history", "=u8", (len(HistoryFate),)),
        ("followed", "=u8"),
    ]
)


class Network(IntEnum):
    """Mirrors ``enum network``: the longest matching prefix decides the value of an address."""

    NONE = 0
    INCLUDED = 1
    EXCLUDED = 2
    OUTSIDE = 3


NETWORK4 = np.dtype([("prefix_len", "=u4"), ("address_be", ">u4")])

NETWORK6 = np.dtype([("prefix_len", "=u4"), ("address", "u1", (16,))])


class Verdict(IntEnum):
    """Mirrors ``enum verdict``: the decision of user space about a flow."""

    NONE = 0
    DONE = 1
    FOLLOW = 2


FLOW_KEY = np.dtype(
    [
        ("address_be", "V4", (8,)),
        ("port_be", ">u2", (2,)),
        ("vlan", "=u2", (2,)),
        ("protocol", "u1"),
        ("service", "u1"),
        ("ip_version", "u1"),
        ("reserved", "u1"),
    ]
)

VERSIONED = np.dtype([("number", "=u4"), ("version", "=u4")])

FLOW = np.dtype(
    [
        ("key", FLOW_KEY),
        ("version", "=u4"),
        ("packets", VERSIONED),
        ("born_jiffies", "=u8"),
        ("followed", VERSIONED),
        ("verdict", VERSIONED),
        ("follow_until_ns", "=u8"),
        ("follow_end", "=u4"),
        ("history_bytes", "=u4"),
    ]
)

FLOW_WAYS = 8

FLOW_SET = np.dtype(
    [
        ("tags", "u1", (FLOW_WAYS,)),
        ("writers", "=u8"),
        ("last_jiffies", "=u4", (FLOW_WAYS,)),
        ("last_written", "=u8"),
        ("reserved", "=u8"),
        ("flows", FLOW, (FLOW_WAYS,)),
    ]
)

STATE_PREFIX = 1 << 30
STATE_ROW = 1 << 31
STATE_MASK_SHIFT = 6
STATE_START_SHIFT = 14
STATE_ROW_UNIT = 16
PLAN_STEPS = 128

PLAN_PREFIX = np.dtype([("value", "=u8"), ("mask", "=u8"), ("length", "=u4"), ("otherwise", "=u4")])

FRAME_META = np.dtype(
    [
        ("ktime_ns", "=u8"),
        ("flow_born_jiffies", "=u8"),
        ("flow_packets", "=u4"),
        ("wirelen", "=u4"),
        ("caplen", "=u4"),
        ("ifindex", "=u4"),
        ("is_followed", "=u4"),
        ("reserved", "=u4"),
    ]
)

HISTORY_CHUNK_BYTES = 1 << 18
HISTORY_BUCKETS = 1 << 16

HISTORY_CHUNK = np.dtype(
    [("number", "=u8"), ("first_ktime_ns", "=u8"), ("records", "u1", (HISTORY_CHUNK_BYTES - 16,))]
)

HISTORY_RECORD = np.dtype(
    [
        ("previous", "=u8"),
        ("ktime_ns", "=u8"),
        ("hash", "=u4"),
        ("caplen", "=u4"),
        ("wirelen", "=u4"),
        ("ifindex", "=u4"),
    ]
)

HISTORY_HEADS = np.dtype([("position", "=u8"), ("heads", "=u8", (HISTORY_BUCKETS,))])
