"""`sensor read` keeps the conversation around a match: the frames of its flow before and after it."""

from __future__ import annotations

import json
import random
import sqlite3
import struct
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from captures import START_NS, Frame, interface, packet, pcap, read, section
from frames import IPV4, IPV6, MORE_FRAGMENTS, TCP, UDP, ethernet, ipv4, ipv6, tcp, udp
from tunnels import VXLAN_PORT, vxlan

from sensor.evidence.conversation import Ending, Missing
from sensor.evidence.conversation_search import ConversationSearch
from sensor.model import LinkType
from tests.rules.commands import Done, sensor

FIN, SYN, RST, PUSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
CLIENT, SERVER = "192.0.2.10", "198.51.100.20"
RULES: dict[str, dict[str, Any]] = {
    "service": {"1": {"type": "T", "name": "greeting", "regex": "greeting"}},
    "threat": {
        "50001": {"type": "T", "name": "attack", "regex": "attack"},
        "50002": {"type": "T", "name": "quiet", "regex": "quiet", "context": False},
    },
    "os": {"30001": {"type": "T", "name": "loud", "regex": "loud", "context": True}},
}


class Conversation(NamedTuple):
    """A conversation as the index describes it."""

    number: int
    client_port: int
    ended: Ending
    missing: Missing
    packets: int


class Site:
    """A capture file, rules, and a directory for evidence."""

    def __init__(self, directory: Path) -> None:
        self.capture, self.evidence = directory / "capture.pcap", directory / "evidence"
        self._rules = directory / "rules"
        self._rules.mkdir()
        for name, rules in RULES.items():
            (self._rules / f"{name}.json").write_text(json.dumps({name: {"rules": rules}}))

    def read(self, frames: Iterable[tuple[float, bytes]], *flags: object) -> Done:
        """Read frames, given with their times in seconds, from a capture file."""
        records = [
            struct.pack("<IIII", *divmod(START_NS + round(time_s * 1e9), 10**9), len(data), len(data)) + data
            for time_s, data in frames
        ]
        self.capture.write_bytes(b"".join([pcap([]), *records]))
        return self.keep(*flags)

    def keep(self, *flags: object) -> Done:
        """Read the capture file."""
        done = sensor(
            "read", self.capture, "--rules", self._rules, "--evidence", self.evidence, *flags, "--json"
        )
        assert done.code == 0, done.err
        return done

    def kept(self, kind: str = "") -> list[bytes]:
        """Return the frames of evidence files, of all or of one kind, in the order of time."""
        paths = self.evidence.glob(f"3/*{kind}.pcap")
        frames = [frame for path in paths for frame in read(path)[0]]
        return [frame.data for frame in sorted(frames, key=lambda frame: frame.timestamp_ns)]

    def conversations(self) -> list[Conversation]:
        """Return the conversations in the index."""
        found: list[Conversation] = []
        for path in self.evidence.glob("3/*.sqlite"):
            with closing(sqlite3.connect(path)) as database:
                rows = database.execute(
                    "SELECT conversation, sport, ended, missing, packets FROM conversation"
                )
                found += [Conversation(n, port, Ending(e), Missing(m), p) for n, port, e, m, p in rows]
        return sorted(found)

    def roles(self) -> list[tuple[int, int | None]]:
        """Return the role and the conversation of each item, in the order of time."""
        rows: list[tuple[int, int | None]] = []
        for path in sorted(self.evidence.glob("3/*.sqlite")):
            with closing(sqlite3.connect(path)) as database:
                rows += database.execute("SELECT role, conversation FROM evidence ORDER BY id")
        return rows


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a site without evidence."""
    return Site(tmp_path)


def segment(
    payload: bytes = b"",
    flags: int = ACK,
    *,
    is_answer: bool = False,
    port: int = 40000,
    client: str = CLIENT,
) -> bytes:
    """Build a TCP segment between a client and a web server."""
    ends = (80, port, SERVER, client) if is_answer else (port, 80, client, SERVER)
    sport, dport, source, destination = ends
    part = bytearray(tcp(payload, sport=sport, dport=dport))
    part[13] = flags
    return ethernet(IPV4, ipv4(TCP, bytes(part), source=source, destination=destination))


def connection(
    *requests: bytes, answer: bytes = b"answer", start_s: float = 0.0, **ends: Any
) -> list[tuple[float, bytes]]:
    """Return a whole TCP connection: handshake, requests and their answers, and the end."""
    frames = [
        segment(b"", SYN, **ends),
        segment(b"", SYN | ACK, is_answer=True, **ends),
        segment(b"", ACK, **ends),
    ]
    for number, request in enumerate(requests):
        frames += [
            segment(request, PUSH | ACK, **ends),
            segment(answer + b" %d" % number, PUSH | ACK, is_answer=True, **ends),
        ]
    frames += [
        segment(b"", FIN | ACK, **ends),
        segment(b"", FIN | ACK, is_answer=True, **ends),
        segment(b"", ACK, **ends),
    ]
    return [(start_s + number / 1000, frame) for number, frame in enumerate(frames)]


def others(count: int, start_s: float = 0.0) -> list[tuple[float, bytes]]:
    """Return frames of other connections, without matches."""
    rng = random.Random(count)
    return [
        (start_s + rng.random(), segment(rng.randbytes(200), port=50000 + rng.randrange(500)))
        for _ in range(count)
    ]


def test_a_whole_conversation_is_kept(site: Site) -> None:
    """Each frame from the handshake to the last acknowledgement is kept once, and no other frame."""
    sent = connection(b"hello", b"attack", b"more")
    site.read(sorted(sent + others(300)))
    assert site.kept() == [frame for _, frame in sent]
    assert len(site.kept("-threat")) == 1
    [conversation] = site.conversations()
    assert conversation == (site.roles()[5][1], 40000, Ending.FIN, Missing(0), len(sent))
    assert [role for role, _ in site.roles()] == [1] * 5 + [0] + [2] * 6
    assert {number for _, number in site.roles()} == {conversation.number}


def test_matches_are_kept_as_without_context(site: Site, tmp_path: Path) -> None:
    """Context changes no file but its own, and nothing that is printed."""
    frames = sorted(connection(b"attack") + connection(b"greeting", port=40001) + others(100))
    printed = site.read(frames).out
    (tmp_path / "off").mkdir()
    without = Site(tmp_path / "off")
    assert without.read(frames, "--context", "off").out == printed
    names = {path.name for path in site.evidence.glob("3/*.pcap")}
    assert {name for name in names if "context" not in name} == {
        path.name for path in without.evidence.glob("3/*.pcap")
    }
    for path in without.evidence.glob("3/*.pcap"):
        assert path.read_bytes() == (site.evidence / "3" / path.name).read_bytes()
    assert without.conversations() == []


def test_rules_and_settings_choose(site: Site) -> None:
    """By default threats keep their conversation; the field of a rule decides before the setting."""
    frames = [
        frame
        for port, request in enumerate((b"attack", b"quiet", b"greeting", b"loud"), 40000)
        for frame in connection(request, port=port)
    ]
    site.read(frames)
    assert [one.client_port for one in site.conversations()] == [40000, 40003]
    assert len(site.kept("-context")) == 2 * 7
    for flags, ports in ((("--context", "any"), [40000, 40002, 40003]), (("--context", "off"), [])):
        other = Site(_directory(site, flags[1]))
        other.read(frames, *flags)
        assert [one.client_port for one in other.conversations()] == ports


def _directory(site: Site, name: str) -> Path:
    directory = site.capture.parent / name
    directory.mkdir()
    return directory


def test_earlier_matches_are_kept_once(site: Site) -> None:
    """A frame before the match that is evidence already is not kept again, but is in the conversation."""
    sent = connection(b"greeting", b"attack")
    site.read(sent)
    assert site.kept() == [frame for _, frame in sent]
    assert len(site.kept("-context")) == len(sent) - 2
    number = site.conversations()[0].number
    [found] = ConversationSearch(site.evidence).find(str(number))
    assert [len(frame) for _, frame in sent] == [packet.caplen for packet in found.packets]
    assert found.is_complete


@pytest.mark.parametrize("flag", ["--context-packets", "--context-kib", "--context-seconds"])
def test_limits(site: Site, flag: str) -> None:
    """Frames after the match are kept up to the limit, whichever it is."""
    requests = [b"attack", *([b"more"] * 60)]
    sent = [(number / 20, frame) for number, (_, frame) in enumerate(connection(*requests, answer=bytes(80)))]
    site.read(sent, flag, 2)
    match = 3
    after = site.kept()[match + 1 :]
    assert after == [frame for _, frame in sent[match + 1 :][: len(after)]]
    assert site.conversations()[0].ended == Ending.LIMIT
    size = sum(map(len, after))
    next_size = len(sent[match + 1 + len(after)][1])
    reached = {
        "packets": len(after) == 2,
        "kib": size <= 2048 < size + next_size,
        "seconds": len(after) == 40,
    }
    assert reached[flag.removeprefix("--context-")]


def test_the_cut_off_of_the_history(site: Site) -> None:
    """Frames beyond it are missing before the match, which is said; those after the match are kept."""
    sent = connection(*[b"%d" % number + bytes(1400) for number in range(15)], b"attack")
    site.read(sent)
    match = next(place for place, (_, frame) in enumerate(sent) if b"attack" in frame)
    kept = site.kept()
    after = len(sent) - match
    assert kept[-after:] == [frame for _, frame in sent[match:]]
    assert kept[:-after] == [frame for _, frame in sent[: len(kept) - after]]
    assert 20 << 10 <= sum(map(len, kept[:-after])) < 22 << 10
    [conversation] = site.conversations()
    assert (conversation.ended, conversation.missing) == (Ending.FIN, Missing.CUT_OFF)
    larger = Site(_directory(site, "larger"))
    larger.read(sent, "--history-flow-kib", 30)
    assert larger.kept() == [frame for _, frame in sent]
    assert larger.conversations()[0].missing == Missing(0)


def test_without_a_history(site: Site) -> None:
    """Only the match and what follows is kept, and the conversation says why."""
    sent = connection(b"attack")
    site.read(sent, "--history-mib", 0)
    assert site.kept() == [frame for _, frame in sent[3:]]
    assert Missing.HISTORY_OFF in site.conversations()[0].missing


def test_an_overwritten_history(site: Site) -> None:
    """A conversation whose beginning is no longer remembered says so."""
    sent = connection(b"hello", b"attack")
    filling = [(10 + n / 1e4, segment(bytes(1400), port=n)) for n in range(1, 1500)]
    late = [(time_s + 20, frame) for time_s, frame in sent[5:]]
    site.read([*sent[:5], *filling, *late], "--history-mib", 1)
    assert site.kept() == [frame for _, frame in sent[5:]]
    assert site.conversations()[0].missing == Missing.BEGINNING


def test_a_scan_is_bounded_and_others_are_complete(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """One source has 35 of its 10,000 attacks kept with context; the conversation of another is whole."""
    scan = [
        frame
        for number in range(10_000)
        for frame in connection(
            b"attack", port=1024 + number, client="203.0.113.9", start_s=number / 1000, answer=bytes(500)
        )
    ]
    other = connection(b"hello", b"attack", start_s=5)
    site.read(sorted(scan + other))
    assert len(site.kept("-threat")) == 10_001
    opened = len(site.conversations()) - 1
    assert 30 <= opened <= 30 + 5  # in ten seconds, a source gets room for five others
    assert len(site.kept("-context")) == 7 * opened + len(other) - 1
    assert f"the context of {10_000 - opened} conversations was not kept" in caplog.text
    [found] = [one for one in site.conversations() if one.client_port == 40000]
    assert (found.ended, found.missing, found.packets) == (Ending.FIN, Missing(0), len(other))


def test_datagrams(site: Site) -> None:
    """Without TCP, a conversation ends by silence."""
    ask = ethernet(IPV6, ipv6(UDP, udp(b"attack", sport=5000, dport=53)))
    tell = ethernet(
        IPV6,
        ipv6(UDP, udp(b"told", sport=53, dport=5000), source="2001:db8:1::20", destination="2001:db8::10"),
    )
    site.read([(0, ask), (0.1, tell), (50, tell), (51, segment())])
    assert site.kept() == [ask, tell]
    [conversation] = site.conversations()
    assert (conversation.ended, conversation.missing) == (Ending.SILENCE, Missing(0))


def test_fragments_are_in(site: Site) -> None:
    """Later fragments, which have no ports, belong to the conversation of the same addresses."""
    answer = udp(b"told" + bytes(2000), sport=53, dport=5000)
    ends = {"source": SERVER, "destination": CLIENT}
    ask = ethernet(IPV4, ipv4(UDP, udp(b"attack", sport=5000, dport=53)))
    parts = [
        ethernet(IPV4, ipv4(UDP, answer[:1480], fragment=MORE_FRAGMENTS, **ends)),
        ethernet(IPV4, ipv4(UDP, answer[1480:], fragment=185, **ends)),
    ]
    sent = [*parts, ask, *parts]
    site.read(list(enumerate(sent)))
    assert site.kept() == sent


def test_tunnels_are_in(site: Site) -> None:
    """Frames of the inner flow are kept, whole, and no others of the tunnel."""

    def tunnelled(frame: bytes) -> bytes:
        return ethernet(IPV4, ipv4(UDP, udp(vxlan(frame), sport=1, dport=VXLAN_PORT)))

    sent = [(time_s, tunnelled(frame)) for time_s, frame in connection(b"hello", b"attack")]
    site.read(sorted(sent + [(time_s, tunnelled(frame)) for time_s, frame in others(100)]))
    assert site.kept() == [frame for _, frame in sent]
    assert site.conversations()[0].packets == len(sent)


def test_a_conversation_over_many_batches(site: Site) -> None:
    """A conversation goes on from batch to batch."""
    sent = connection(b"hello", b"attack")
    spread = [(min(number * 5, 30) + time_s, frame) for number, (time_s, frame) in enumerate(sent)]
    between = [(number / 2000, segment(bytes(60), port=60000)) for number in range(90_000)]
    site.read(sorted(spread + between))
    assert site.kept() == [frame for _, frame in sent]


def test_interfaces_and_link_types(site: Site) -> None:
    """A conversation may come from several interfaces of a pcapng file, with and without Ethernet headers."""
    sent = connection(b"hello", b"attack")
    frames = [
        Frame(frame[14:], START_NS + round(time_s * 1e9), len(frame) - 14, LinkType.RAW, 2)
        if number % 3 == 2
        else Frame(frame, START_NS + round(time_s * 1e9), len(frame), interface=number % 3)
        for number, (time_s, frame) in enumerate(sent)
    ]
    interfaces = interface(), interface(), interface(LinkType.RAW)
    packets = [packet(frame, frame.timestamp_ns // 1000, frame.interface) for frame in frames]
    site.capture.write_bytes(b"".join([section(), *interfaces, *packets]))
    site.keep()
    assert sorted(site.kept()) == sorted(frame.data for frame in frames)
    listed = sensor("evidence", "list", "--evidence", site.evidence, "--json").objects
    assert [one["interface"] for one in reversed(listed)] == [str(frame.interface) for frame in frames]
    assert len({one["conversation"] for one in listed}) == 1


def test_reading_again_adds_nothing(site: Site) -> None:
    """Neither frames nor conversations, also if some context was deleted, which comes back."""
    sent = connection(b"attack")
    site.read(sent)
    before = site.kept(), site.conversations()
    site.read(sent)
    assert (site.kept(), site.conversations()) == before
    for path in site.evidence.glob("3/*-context.pcap"):
        path.unlink()
    site.read(sent)
    assert site.kept() == [frame for _, frame in sent]


def test_cut_frames(site: Site) -> None:
    """A capture with a small snaplen is incomplete."""
    sent = connection(b"attack")
    site.read(sent)
    content = bytearray(site.capture.read_bytes())
    content[36:40] = struct.pack("<I", 1000)  # the length of the first frame on the wire
    site.capture.write_bytes(bytes(content))
    other = Site(_directory(site, "cut"))
    sensor("read", site.capture, "--rules", site.capture.parent / "rules", "--evidence", other.evidence)
    assert other.conversations()[0].missing == Missing.SNAPLEN
