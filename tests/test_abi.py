"""The definitions of ``bpf/abi.h`` and their Python mirrors are equal."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from sensor import abi
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


@pytest.mark.parametrize(
    "name", sorted(name for name in vars(abi) if name.startswith(("STATE_", "PLAN_STEPS")))
)
def test_constants_are_mirrored(name: str) -> None:
    """A constant has the same value."""
    found = re.search(rf"^#define {name} (?:(\d+)|\(1U << (\d+)\))$", HEADER, re.MULTILINE)
    assert found
    assert getattr(abi, name) == (int(found[1]) if found[1] else 1 << int(found[2]))


def test_prefixes_of_the_plan_are_mirrored() -> None:
    """The members have the same names, order and sizes, without gaps."""
    found = re.search(r"struct plan_prefix \{(.*?)\};", HEADER, re.DOTALL)
    assert found
    members = re.findall(r"__u(\d+) (\w+);", found[1])
    assert [name for _, name in members] == list(abi.PLAN_PREFIX.names or ())
    assert [int(bits) for bits, _ in members] == [
        8 * abi.PLAN_PREFIX[name].itemsize for name in abi.PLAN_PREFIX.names or ()
    ]
    assert abi.PLAN_PREFIX.itemsize == sum(int(bits) for bits, _ in members) // 8
