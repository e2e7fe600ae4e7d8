"""`sensor rules explain`: which rules match each packet of a capture file, and why others do not."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import Any

import dpkt
import pytest
from commands import sensor, write_rules

from sensor.bench.traffic import frames, mix
from sensor.bench.traffic.conversations import TcpConversation
from sensor.bench.traffic.frames import Frame, Host, write_capture

SQL_INJECT = Path(__file__).parents[3] / "shared" / "reference" / "pcap" / "sql_inject.pcap"
CLIENT = Host(b"\x02\0\0\0\0\x01", IPv4Address("10.0.0.1"))
SERVER = Host(b"\x02\0\0\0\0\x02", IPv4Address("10.0.0.2"))
ATTACK = b"GET /?id=1%20union%20select HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a few rules, and make them the setting."""
    monkeypatch.setenv("SENSOR_RULES", str(write_rules(tmp_path)))
    return tmp_path


def web(directory: Path, *payloads: bytes) -> Path:
    """Write a connection to port 80: a handshake of 3 packets, then the payloads from the client."""
    talk = TcpConversation(Random(1), 1_700_000_000_000_000, CLIENT, SERVER, 80)
    for payload in payloads:
        talk.send(CLIENT, payload)
    path = directory / "web.pcap"
    write_capture(path, talk.frames)
    return path


def test_a_packet_is_a_few_lines(rules: Path) -> None:
    """They show its addresses, each match and its span, and the number of other rules by outcome."""
    path = web(rules, ATTACK)
    lines = sensor("rules", "explain", path).out.splitlines()
    assert lines[2].endswith(" > 10.0.0.2:80  no rule is tried: no payload")
    assert lines[3].startswith("4  TCP 10.0.0.1:")
    assert lines[3].endswith(" > 10.0.0.2:80  49 bytes of HTTP")
    assert lines[4:] == [
        '    match: threat 51001 SQL injection, bytes 13-27 "union%20select"',
        "    no match: 3 rules; not tried: another transport 1, no body 1",
        "packets: 4, with rules tried: 1, matches: 1, rules that matched: 1",
    ]


def test_one_packet_rule_by_rule(rules: Path) -> None:
    """All rules are listed in order, each with its outcome."""
    path = web(rules, ATTACK)
    done = sensor("rules", "explain", path, "--packet", 4)
    assert done.out.splitlines()[1:] == [
        "    service 10001 SSH: no match",
        "    service 10002 DNS: another transport",
        "    midware 41001 nginx: no match",
        '    threat 51001 SQL injection: match, bytes 13-27 "union%20select"',
        "    threat 51002 SQL in a form: no body",
        "    threat 51003 Plain: no match",
    ]
    [found] = sensor("rules", "explain", path, "--packet", 4, "--json").objects
    outcomes = {rule["rule"]: rule["outcome"] for rule in found["rules"]}
    assert outcomes[51001] == "hit"
    assert outcomes[51002] == "no body"
    assert "5" in sensor("rules", "explain", path, "--packet", 5).err.splitlines()[-1]


def objects(path: Path, *options: object) -> list[dict[str, Any]]:
    """Explain a file; return one object per packet."""
    done = sensor("rules", "explain", path, "--json", *options)
    assert done.code == 0
    return done.objects


def test_matches_are_those_of_read(rules: Path) -> None:
    """`explain` and `read` give the same matches and spans with each profile."""
    path = rules / "mix.pcap"
    write_capture(path, mix.demo(seed=1).frames)
    for profile in ("default", "ly_probe", "thorough"):
        read = {
            (found["time_us"], found["rule"], found["start"], found["end"], found["version"])
            for found in sensor("read", path, "--json", "--profile", profile).objects
        }
        explained = {
            (packet["time_us"], hit["rule"], hit["start"], hit["end"], hit["version"])
            for packet in objects(path, "--profile", profile)
            for hit in packet["hits"]
            if hit["counted"]
        }
        assert explained == read
        assert len(read) > 5


def test_every_frame_is_explained(rules: Path) -> None:
    """Frames are numbered as in the file; if rules were tried, each rule has an outcome."""
    path = rules / "mix.pcap"
    sent = mix.demo(seed=1).frames
    write_capture(path, sent)
    found = objects(path)
    assert [packet["packet"] for packet in found] == list(range(1, len(sent) + 1))
    assert {packet["untried"] for packet in found} >= {None, "no payload", "not IP"}
    for packet in found:
        accounted = len(packet["hits"]) + sum(packet["outcomes"].values())
        assert accounted == (0 if packet["untried"] else 6)


def test_packets_deep_in_a_flow(rules: Path) -> None:
    """Packets after the profile's limit are not tried unless they are HTTP; `thorough` has no limit."""
    path = web(rules, *[b"SSH-2.0-x"] * 33, ATTACK)
    untried = [packet["untried"] for packet in objects(path)][3:]
    assert untried == [None] * 32 + ["after the first 32 packets of its flow, and not HTTP", None]
    assert [packet["untried"] for packet in objects(path, "--profile", "thorough")][3:] == [None] * 34
    limit = "after the first 10 packets of its flow, or every class has matched in it"
    untried = [packet["untried"] for packet in objects(path, "--profile", "ly_probe")][3:]
    assert untried == [None] * 10 + [limit] * 24


def test_flows_end_by_time_as_for_read(rules: Path) -> None:
    """Half a minute without a packet ends a flow, except in a file with ly_probe's profile."""
    path = web(rules, *[b"SSH-2.0-x"] * 40)
    with path.open("rb") as file:
        data = [data for _, data in dpkt.pcap.Reader(file)]
    write_capture(path, [Frame(number * 31_000_000, frame) for number, frame in enumerate(data)])
    assert all(packet["untried"] in (None, "no payload") for packet in objects(path))
    assert objects(path, "--profile", "ly_probe")[3 + 10]["untried"]


def test_matches_that_the_profile_does_not_count(rules: Path) -> None:
    """With ly_probe's profile, a class counts once per flow, but the second match is still shown."""
    path = web(rules, b"SSH-2.0-x", b"SSH-1.5-x")
    hits = [hit for packet in objects(path, "--profile", "ly_probe") for hit in packet["hits"]]
    assert [(hit["version"], hit["counted"]) for hit in hits] == [("2.0", True), ("1.5", False)]
    done = sensor("rules", "explain", path, "--profile", "ly_probe")
    assert "(not counted: its class has matched in this flow)" in done.out.splitlines()[-3]
    assert done.out.endswith("matches: 2, 1 of them not counted, rules that matched: 1\n")


def test_payloads_too_long_for_the_profile(rules: Path) -> None:
    """ly_probe matches no payload above 1499 bytes."""
    path = rules / "long.pcap"
    lengths = (1499, 1500)
    datagrams = [frames.udp(CLIENT.address, 53, SERVER.address, 53, bytes(length)) for length in lengths]
    packets = [
        frames.packets(CLIENT, SERVER, frames.UDP, datagram, identification=1, mtu=9000)[0]
        for datagram in datagrams
    ]
    write_capture(
        path,
        [
            Frame(0, frames.ethernet(CLIENT.mac, SERVER.mac, frames.ETHERTYPE_IPV4, packet))
            for packet in packets
        ],
    )
    untried = [packet["untried"] for packet in objects(path, "--profile", "ly_probe")]
    assert untried == [None, "longer than 1499 bytes"]
    assert [packet["untried"] for packet in objects(path)] == [None, None]


def test_frames_that_cannot_be_read(rules: Path) -> None:
    """An undecodable frame is explained as such."""
    path = web(rules, ATTACK)
    content = bytearray(path.read_bytes())
    content[24 + 16 + 12 : 24 + 16 + 14] = b"\x12\x34"  # the first frame's EtherType
    path.write_bytes(content)
    assert objects(path)[0]["untried"] == "an unknown header, or too many headers"


def test_the_blind_injection(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a real attack, our rules match the request that makes the database sleep."""
    if not SQL_INJECT.exists():
        pytest.skip(f"{SQL_INJECT} is not here")
    monkeypatch.delenv("SENSOR_RULES", raising=False)
    packets = objects(SQL_INJECT)
    hits = [hit for packet in packets for hit in packet["hits"] if hit["class"] == "threat"]
    assert any("sleep" in hit["text"].lower() and "SQL" in hit["name"] for hit in hits)
    rules = int(sensor("rules", "check").out.split()[0])
    for packet in packets:
        if not packet["untried"]:
            assert len(packet["hits"]) + sum(packet["outcomes"].values()) == rules


def test_a_file_that_is_not_a_capture(rules: Path) -> None:
    """As for `read`, the error is one line and the exit code is 7."""
    done = sensor("rules", "explain", rules / "threat.json")
    assert (done.code, done.out) == (7, "")
    assert done.err.startswith(f"sensor: {rules / 'threat.json'}: ")
