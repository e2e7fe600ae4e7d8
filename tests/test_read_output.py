"""The lines of `sensor read`, which are formatted in C, against the functions of Python."""

from __future__ import annotations

import io
import ipaddress
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sensor.cli.read_output import MatchText
from sensor.cli.terminal import is_discarded
from sensor.evidence import payload_memo
from sensor.evidence.block import EvidenceBlock, block_of_objects
from sensor.evidence.payload_memo import PayloadMemo
from sensor.model import Evidence, FiveTuple, Match, Rule
from sensor.protocols import protocol_name
from sensor.rules.engine.http_payload import RFC9110, HttpReading
from sensor.text import INCOMPLETE, endpoint, printable, shown, utc_text

BANNER = Rule(7, "service", "ssh", "Größe", r"SSH-[\d.]+-(\S+)")
SECOND = Rule(8, "threat", "scan", "a name that is longer than forty characters", "SSH", version="1")
PAYLOAD = b"\0SSH-2.0-x\xfc\x1b\r\n"
MATCHES = (Match(BANNER, 9, 12, "x\\xfc\x1b"), Match(SECOND, 1, 4, "1"))


def item(
    five_tuple: FiveTuple, time_ns: int, matches: Sequence[Match] = MATCHES, *, incomplete: bool = False
) -> Evidence:
    """Return a frame that consists of a payload behind two other bytes."""
    frame = b"ab" + PAYLOAD
    place = (), 2, len(frame)
    return Evidence(frame, time_ns, len(frame), 1, 0, five_tuple, *place, tuple(matches), incomplete)


def expected(item: Evidence) -> list[str]:
    """Return the lines of an item."""
    five_tuple = item.five_tuple
    ends = [
        endpoint(str(ipaddress.ip_address(address)), port)
        for address, port in (five_tuple[1:3], five_tuple[3:5])
    ]
    lines = []
    for match in item.matches or (None,):
        label, text = "flow", ""
        if match:
            label = shown(f"{match.rule.rule_class} {match.rule.rule_id} {match.rule.name} {match.version}")
            text = printable(item.payload[match.start : match.end])
        time = utc_text(item.timestamp_ns // 1000, " ")
        line = f"{time}  {label:<40}  {protocol_name(five_tuple.protocol)} {' > '.join(ends)}  {text}"
        lines.append(f"{line}  [{INCOMPLETE}]" if item.incomplete else line)
    return lines


def addresses(number: int) -> tuple[bytes, bytes]:
    """Return two addresses of the same kind; IPv6 addresses have runs of zeros of every length."""
    chooser = random.Random(number)
    if number % 3 == 0:
        return chooser.randbytes(4), chooser.randbytes(4)
    words = [chooser.choice((0, 0, 1, 0x10, 0xAB0, 0xFFFF)).to_bytes(2, "big") for _ in range(16)]
    return b"".join(words[:8]), b"".join(words[8:])


def test_lines_are_those_of_the_python_functions() -> None:
    """Every protocol, both kinds of address, and all times that a file can have."""
    chooser = random.Random(1)
    items = []
    for number in range(3000):
        source, destination = addresses(number)
        ports = chooser.choice((0, 1, 80, 65535)), chooser.choice((0, 22, 50000))
        five_tuple = FiveTuple(number % 256, source, ports[0], destination, ports[1])
        time_ns = chooser.choice((-1, 0, 999, 1_767_225_599_999_999_999, -(1 << 63), (1 << 63) - 1))
        items.append(item(five_tuple, time_ns, MATCHES[: number % 3], incomplete=number % 7 == 0))
    text = MatchText().of(block_of_objects(items))
    assert text.splitlines() == [line for one in items for line in expected(one)]
    assert text.endswith("\n")


class _Counted:
    """A function for `PayloadMemo` that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Rule], bytes]] = []

    def __call__(self, rules: Sequence[Rule], payload: bytes, _: HttpReading) -> tuple[int, bytes]:
        self.calls.append((list(rules), payload))
        return len(rules), payload


def block(*payloads: bytes, matches: Sequence[Match] = MATCHES) -> EvidenceBlock:
    """Return a block of items that consist of payload alone."""
    five_tuple = FiveTuple(6, bytes(4), 1, bytes(4), 2)
    return block_of_objects(
        [Evidence(one, 0, len(one), 1, 0, five_tuple, (), 0, len(one), tuple(matches)) for one in payloads],
        RULES,
    )


RULES = [BANNER, SECOND]


def test_equal_payloads_are_worked_out_once() -> None:
    """Another payload, other rules, another rule set or another definition of HTTP are something else."""
    counted = _Counted()
    memo = PayloadMemo(counted)
    assert memo.of(block(b"a", b"b", b"a"), RFC9110) == [(2, b"a"), (2, b"b"), (2, b"a")]
    assert memo.of(block(b"b"), RFC9110) == [(2, b"b")]
    assert counted.calls == [(RULES, b"a"), (RULES, b"b")]
    assert memo.of(block(b"b", matches=MATCHES[:1]), RFC9110) == [(1, b"b")]
    assert memo.of(block(b"b", matches=()), RFC9110) == [(0, b"b")]
    assert memo.of(block(b"b"), HttpReading((b"b",))) == [(2, b"b")]
    others = block_of_objects([item(FiveTuple(6, bytes(4), 1, bytes(4), 2), 0)])
    assert memo.of(others, HttpReading((b"b",))) == [(2, PAYLOAD)]
    assert memo.of(block(b"b"), HttpReading((b"b",))) == [(2, b"b")]
    assert len(counted.calls) == 7


def test_a_payload_that_is_cut_ends_with_its_frame() -> None:
    """The range of a payload may reach behind the bytes that are kept."""
    cut = block(b"abc", b"def")
    cut.items["payload_start"], cut.items["payload_end"] = (1, 9), (100, 100)
    assert PayloadMemo(_Counted()).of(cut, RFC9110) == [(2, b"bc"), (2, b"")]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads that never repeat do not take up memory, and long ones are not kept."""
    counted = _Counted()
    memo = PayloadMemo(counted)
    long = bytes(payload_memo.LONGEST + 1)
    memo.of(block(long, long), RFC9110)
    assert len(counted.calls) == 2
    monkeypatch.setattr(payload_memo, "MOST_BYTES", 10_000)
    memo = PayloadMemo(counted)
    different = [number.to_bytes(2, "big") * 100 for number in range(1000)]
    memo.of(block(*different), RFC9110)
    assert 0 < sum(len(payload) for payload, _ in memo._known) < 10_000


def test_items_that_are_left_are_formatted() -> None:
    """After suppression, the lines are those of the items that are left."""
    items = [item(FiveTuple(6, bytes(4), 1, bytes(4), 2), 10**9 * number) for number in range(4)]
    whole = block_of_objects(items)
    assert MatchText().of(whole.select(np.array([False, True, False, True]))).splitlines() == [
        line for one in items[1::2] for line in expected(one)
    ]


def test_nothing_is_printed_to_the_null_device(tmp_path: Path) -> None:
    """A file, a pipe, another device and a stream without a file get what is printed."""
    with Path(os.devnull).open("w") as null:
        assert is_discarded(null)
    reader, writer = os.pipe()
    with (tmp_path / "file").open("w") as file, os.fdopen(writer, "w") as pipe:
        assert not (is_discarded(file) or is_discarded(pipe) or is_discarded(io.StringIO()))
    os.close(reader)
    with Path("/dev/full").open("w") as other:
        assert not is_discarded(other)
