"""The enums of ``bpf/abi.h`` and their Python mirrors are equal."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from sensor.abi import Counter, FlowPlace
from sensor.model import PacketStatus

HEADER = (Path(__file__).parents[1] / "bpf" / "abi.h").read_text()


def enumerators(name: str) -> list[str]:
    """Return the names in a C enum of the header, in order. No name may have an explicit value."""
    found = re.search(rf"enum {name} \{{(.*?)\}};", HEADER, re.DOTALL)
    assert found
    without_comments = re.sub(r"/\*.*?\*/", "", found[1], flags=re.DOTALL)
    assert "=" not in without_comments
    return [part.strip() for part in without_comments.split(",") if part.strip()]


@pytest.mark.parametrize(
    ("c_name", "prefix", "mirror"),
    [
        ("packet_status", "PACKET_", PacketStatus),
        ("counter", "COUNTER_", Counter),
        ("flow_place", "FLOW_PLACE_", FlowPlace),
    ],
)
def test_enums_are_mirrored(c_name: str, prefix: str, mirror: type[IntEnum]) -> None:
    """A mirror has the same names in the same order."""
    expected = [e.removeprefix(prefix) for e in enumerators(c_name) if e != f"{prefix}COUNT"]
    assert [member.name for member in mirror] == expected
    assert [member.value for member in mirror] == list(range(len(expected)))
