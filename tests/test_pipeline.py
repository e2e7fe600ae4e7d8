"""The pipeline: which frames become evidence, by profile and by ``keep``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_of import evidence_of

from sensor.decode import decode
from sensor.files.capture_file import CaptureFile
from sensor.model import Evidence, FrameBatch, Rule
from sensor.pipeline import Keep, Pipeline
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import PROFILES
from sensor.rules.files.load import load_rules
from tests import frames

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
S = 1_000_000_000

SERVICE = Rule(1, "service", "Service", "Greeting", "^hello (\\w+)")
SECOND_SERVICE = Rule(2, "service", "Service", "Any greeting", "hello")
SYSTEM = Rule(3, "os", "Linux", "Debian", "debian")
THREAT = Rule(4, "threat", "Test", "Attack", "attack")
RULES = [SERVICE, SECOND_SERVICE, SYSTEM, THREAT]


def segment(payload: bytes, *, sport: int = 1000, dport: int = 80, tos: int = 0, back: bool = False) -> bytes:
    """Return a TCP frame of one flow, in either direction."""
    addresses = ("10.0.0.2", "10.0.0.1") if back else ("10.0.0.1", "10.0.0.2")
    ports = (dport, sport) if back else (sport, dport)
    packet = frames.tcp(payload, sport=ports[0], dport=ports[1])
    return frames.ethernet(
        frames.IPV4, frames.ipv4(frames.TCP, packet, tos=tos, source=addresses[0], destination=addresses[1])
    )


def batch(packets: Iterable[bytes], seconds: Iterable[float] | None = None) -> FrameBatch:
    """Return a batch with the packets' times, one second apart unless given."""
    plain = frames.batch_of(packets)
    times = range(len(plain)) if seconds is None else seconds
    return replace(plain, timestamp_ns=np.array([int(time * S) for time in times], np.int64))


def kept(
    packets: Iterable[bytes],
    profile: str,
    keep: Keep = "any",
    rules: Iterable[Rule] = RULES,
    seconds: Iterable[float] | None = None,
    **options: bool,
) -> list[tuple[int, list[int]]]:
    """Return the numbers of the packets that are kept, each with the rules that match it."""
    packets = list(packets)
    one = batch(packets, seconds)
    pipeline = Pipeline(Matcher(rules, PROFILES[profile].http), keep, profile, **options)
    found = evidence_of(pipeline, one)
    times = one.timestamp_ns.tolist()
    return [
        (times.index(item.timestamp_ns), [match.rule.rule_id for match in item.matches]) for item in found
    ]


def test_every_match_of_a_packet_is_kept() -> None:
    """The default profile keeps every match of every packet."""
    packets = [segment(b"hello world, attack debian"), segment(b"hello world")]
    assert kept(packets, "default") == [(0, [1, 2, 3, 4]), (1, [1, 2])]


def test_keep_threat() -> None:
    """Only packets with a threat are kept, with all their matches."""
    packets = [segment(b"hello world"), segment(b"hello attack"), segment(b"nothing")]
    assert kept(packets, "default", "threat") == [(1, [1, 2, 4])]


def test_keep_flow() -> None:
    """Only the first packet with payload and the first answer to it are kept."""
    packets = [
        segment(b""),
        segment(b"one"),
        segment(b"attack"),
        segment(b"answer", back=True),
        segment(b"attack", back=True),
        segment(b"other flow", sport=2000),
    ]
    for profile in ("default", "thorough"):
        assert kept(packets, profile, "flow") == [(1, []), (3, []), (5, [])]


def test_ly_probe_labels_a_flow_once_per_class() -> None:
    """The first matching rule of a class in file order labels the flow; later ones are ignored."""
    packets = [segment(b"hello world"), segment(b"hello attack"), segment(b"attack"), segment(b"debian")]
    assert kept(packets, "ly_probe") == [(0, [1]), (1, [4]), (3, [3])]
    assert kept(packets, "ly_probe", "threat") == [(1, [4])]


def test_ly_probe_counts_a_rules_system_as_a_label() -> None:
    """The ``os`` of a rule also labels the class os of the flow."""
    rules = [replace(SERVICE, os="Windows"), SYSTEM]
    assert kept([segment(b"hello debian"), segment(b"debian")], "ly_probe", rules=rules) == [(0, [1])]


def test_ly_probe_keeps_another_answer_after_a_match() -> None:
    """With ``keep`` flow, the first answer to the sender of the last match is kept; a threat renews this."""
    packets = [
        segment(b"one"),
        segment(b"attack", back=True),
        segment(b"two"),
        segment(b"three"),
    ]
    assert kept(packets, "ly_probe", "flow") == [(0, []), (1, [4]), (2, [])]


@pytest.mark.parametrize(("before", "found"), [(9, [9]), (10, [])])
def test_ly_probe_matches_ten_packets(before: int, found: list[int]) -> None:
    """Ten packets per flow, in both directions, are matched; empty and long ones are not counted."""
    packets = [segment(b"x", back=bool(number % 2)) for number in range(before)]
    uncounted = [segment(b""), segment(b"x" * 1500)]
    numbers = [number for number, _ in kept([*packets, segment(b"attack"), *uncounted], "ly_probe")]
    assert numbers == found
    numbers = [number - 2 for number, _ in kept([*uncounted, *packets, segment(b"attack")], "ly_probe")]
    assert numbers == found


@pytest.mark.parametrize(("length", "found"), [(1499, 1), (1500, 0)])
def test_ly_probe_matches_payloads_up_to_1499_bytes(length: int, found: int) -> None:
    """Longer payloads are matched in the default profile, but not in ly_probe."""
    packet = segment(b"attack".ljust(length))
    assert len(kept([packet], "ly_probe")) == found
    assert len(kept([packet], "default")) == 1


@pytest.mark.parametrize(("before", "found"), [(31, 1), (32, 0)])
def test_the_default_profile_matches_32_packets(before: int, found: int) -> None:
    """After them it matches only what looks like HTTP; the thorough profile matches everything."""
    packets = [segment(b"x")] * before + [segment(b"attack")]
    assert len(kept(packets, "default")) == found
    assert len(kept(packets, "thorough")) == 1


@pytest.mark.parametrize("request_line", [b"GET /", b"PUT /x", b"GET http://a.example/", b"PATCH /"])
def test_a_threat_in_the_fiftieth_request_is_found(request_line: bytes) -> None:
    """A kept-alive connection is matched to its end, for any method and target."""
    rule = replace(THREAT, is_http=True, part="head")
    packets = [segment(b"GET / HTTP/1.1\r\n\r\n")] * 49 + [
        segment(request_line + b"?attack HTTP/1.1\r\n\r\n")
    ]
    assert len(kept(packets, "default", rules=[rule])) == 1
    assert kept(packets, "ly_probe", rules=[rule]) == []


def test_flows_end_by_the_packets_time() -> None:
    """In ly_probe, a live flow ends after 30 s idle or after 120 s; in a file it never ends."""
    packets, seconds = [segment(b"attack")] * 3, [0, 31, 62]
    assert len(kept(packets, "ly_probe", seconds=seconds)) == 3
    assert len(kept(packets, "ly_probe", seconds=seconds, live=False)) == 1
    packets, seconds = [segment(b"x")] * 32 + [segment(b"attack")], [*([0] * 32), 31]
    assert len(kept(packets, "default", seconds=seconds, live=False)) == 1


def test_type_of_service_separates_flows_in_ly_probe() -> None:
    """With a type of service each direction is a flow; without one, both are one flow."""
    for tos, flows in ((0, 1), (0x10, 2)):
        packets = [segment(b"attack", tos=tos), segment(b"attack", tos=tos, back=True)]
        assert len(kept(packets, "ly_probe")) == flows


def test_later_fragments_have_no_ports() -> None:
    """Rules with a port do not apply to later fragments; other rules do."""
    fragment = frames.ethernet(frames.IPV4, frames.ipv4(frames.TCP, b"an attack", fragment=100))
    rules = [THREAT, replace(THREAT, rule_id=5, port=80)]
    assert kept([fragment], "default", rules=rules) == [(0, [4])]


def test_icmp_payloads_are_matched() -> None:
    """Rules without a protocol are matched against the bytes after the ICMP header."""
    packet = frames.ethernet(frames.IPV4, frames.ipv4(frames.ICMP, frames.icmp(b"attack")))
    assert kept([packet], "default", rules=[THREAT, replace(THREAT, rule_id=5, protocol=6)]) == [(0, [4])]


def test_evidence_describes_the_frame() -> None:
    """Evidence has the bytes, time, addresses and tags of the frame, and the range of its payload."""
    frame = frames.ethernet(
        frames.IPV4, frames.ipv4(frames.TCP, frames.tcp(b"an attack", sport=1000, dport=80)), (0x88A8, 0x8100)
    )
    one = replace(batch([frame], [5]), wirelen=np.array([9000]), interface=np.array([7]))
    [item] = evidence_of(Pipeline(Matcher(RULES), "any"), one)
    assert (item.frame, item.payload, item.wirelen, item.timestamp_ns) == (
        frame,
        b"an attack",
        9000,
        5 * S,
    )
    assert (item.interface, item.linktype) == (7, one.linktype)
    assert [tag & 0xFFF for tag in item.vlan] == [101, 102]
    assert item.five_tuple.source_text == "192.0.2.10"
    assert (item.five_tuple.protocol, item.five_tuple.sport, item.five_tuple.dport) == (6, 1000, 80)


def test_five_tuples_of_any_ip_version() -> None:
    """IPv4 and IPv6 packets have their addresses and ports; a frame without IP has zeros."""
    tcp = frames.tcp(b"x", sport=1000, dport=80)
    packets = [
        frames.ethernet(frames.IPV6, frames.ipv6(frames.TCP, tcp)),
        frames.ethernet(0x88CC, b"no IP"),
        segment(b"x"),
    ]
    one = batch(packets)
    v6, none, v4 = decode(one).five_tuples(one.buffer, np.arange(3))
    assert (len(v6.source), len(v6.destination), v6.sport, v6.dport) == (16, 16, 1000, 80)
    assert none == (0, bytes(4), 0, bytes(4), 0)
    assert v4 == (6, bytes([10, 0, 0, 1]), 1000, bytes([10, 0, 0, 2]), 80)


def test_the_counters_add_up() -> None:
    """Every frame of a corpus of header combinations, cut at every byte, is counted in exactly one bucket."""
    corpus = [frame for _, frame in frames.truncations(frames.corpus())]
    pipeline = Pipeline(Matcher([Rule(1, "service", "T", "N", "GET /")]), "any")
    evidence = evidence_of(pipeline, frames.batch_of(corpus))
    assert pipeline.read == len(corpus)
    assert pipeline.read == pipeline.undecodable + pipeline.unmatched + pipeline.matched
    assert pipeline.matched == len(evidence) > 0
    assert pipeline.undecodable > 0


def test_batches_may_be_cut_anywhere() -> None:
    """The evidence does not depend on how frames are divided into batches."""
    packets = [
        segment(b"attack" if number % 7 == 0 else b"x", sport=1000 + number % 3) for number in range(100)
    ]

    def evidence(size: int) -> list[Evidence]:
        pipeline = Pipeline(Matcher(RULES, PROFILES["ly_probe"].http), "flow", "ly_probe")
        parts = [range(start, min(start + size, 100)) for start in range(0, 100, size)]
        return [
            item for part in parts for item in evidence_of(pipeline, batch([packets[n] for n in part], part))
        ]

    assert evidence(1) == evidence(7) == evidence(100)


def lyprobe_kept() -> dict[str, Any]:
    """Return what ly_probe itself keeps of its sample captures, by file name."""
    path = REFERENCE / "lyprobe_kept.json"
    kept_by_file: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return {name: value for name, value in kept_by_file.items() if name.endswith(".pcap")}


@cache
def ly_probes_rules(profile: str) -> Matcher:
    """Return a matcher for ly_probe's rules, created once per profile."""
    return Matcher(load_rules(REFERENCE / "fp-patterns"), PROFILES[profile].http)


def read(name: str, keep: Keep, profile: str) -> list[Evidence]:
    """Return the evidence of one of ly_probe's captures with ly_probe's rules."""
    pipeline = Pipeline(ly_probes_rules(profile), keep, profile, live=False)
    with CaptureFile(REFERENCE / "pcap" / name) as file:
        return [item for one in file.batches() for item in evidence_of(pipeline, one)]


def label(item: Evidence) -> list[Any]:
    """Return the time and the labels of an item, in the form of ly_probe's record."""
    labels = [
        f"{rule.rule_class} {rule.rule_id}:{rule.type}:{rule.name}({version or ''})"
        for rule, _, _, version in item.matches
    ]
    return [item.timestamp_ns // 1000, labels]


@pytest.mark.skipif(not lyprobe_kept(), reason="ly_probe's captures are missing")
@pytest.mark.parametrize("name", lyprobe_kept())
def test_ly_probes_profile_keeps_what_ly_probe_keeps(name: str) -> None:
    """The ly_probe profile keeps the same packets as ly_probe at all three levels, with the same labels."""
    expected = lyprobe_kept()[name]
    levels: tuple[tuple[str, Keep], ...] = (("k1", "threat"), ("k2", "any"), ("k3", "flow"))
    for level, keep in levels:
        assert [item.timestamp_ns // 1000 for item in read(name, keep, "ly_probe")] == expected[level], level
    assert [label(item) for item in read(name, "any", "ly_probe")] == expected["matches_k2"]


@pytest.mark.skipif(not lyprobe_kept(), reason="ly_probe's captures are missing")
@pytest.mark.parametrize("name", lyprobe_kept())
def test_the_default_profile_keeps_no_less(name: str) -> None:
    """The default profile keeps every packet that ly_probe keeps."""
    times = {item.timestamp_ns // 1000 for item in read(name, "any", "default")}
    assert times >= set(lyprobe_kept()[name]["k2"])
