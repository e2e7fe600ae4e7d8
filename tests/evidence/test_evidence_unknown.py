"""Unknown things are said to be unknown: items whose search was cut, and matches without a position."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from sensor.api.schemas import Item
from sensor.bench import probe_frames
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.config.settings import Settings
from sensor.events import eve
from sensor.evidence import search
from sensor.evidence.block import block_of_objects
from sensor.evidence.explain_block import explained
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.writer import Chunk
from sensor.files.capture_file import CaptureFile
from sensor.pipeline import Pipeline
from sensor.protocols import TCP
from sensor.reindex import reindex
from sensor.rules.engine import budget, locate
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.scan import SLICE
from sensor.rules.files.load import load_rules
from sensor.text import INCOMPLETE, UNKNOWN_POSITION
from tests.rules.commands import sensor

TIME_US = 1_767_607_200_000_000
RULES = {
    "51001": {"type": "T", "name": "Early", "regex": "early"},
    "51002": {"type": "T", "name": "Late", "regex": "late"},
}
CUT = b"early".ljust(3 * SLICE, b".") + b"late"
WHOLE = b"early and late"
WITHOUT_MATCH = b".".ljust(3 * SLICE, b".") + b"late"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings with two rules, and no CPU time for searches."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "threat.json").write_text(json.dumps({"threat": {"rules": RULES}}))
    monkeypatch.setattr(budget, "PAYLOAD_NS", 0)
    return Settings(rules=tmp_path / "rules", evidence=tmp_path / "evidence")


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Write a capture of a payload that is cut, one that is not, and one that is cut before it matches."""
    path = tmp_path / "capture.pcap"
    segments = [probe_frames.tcp(payload, 80, sport=40_000) for payload in (CUT, WHOLE, WITHOUT_MATCH)]
    frames = [Frame(TIME_US + at, probe_frames.ipv4(TCP, segment)) for at, segment in enumerate(segments)]
    write_capture(path, frames)
    return path


@pytest.fixture
def evidence(settings: Settings, capture: Path) -> Path:
    """Return the evidence of the capture."""
    flags = ("--rules", settings.rules, "--evidence", settings.evidence)
    assert sensor("read", capture, *flags, "--context", "off").code == 0
    return settings.evidence


def marks(evidence: Path) -> dict[int, bool]:
    """Return by time whether the index says that an item is incomplete."""
    return {one.time_us - TIME_US: one.incomplete for one in EvidenceSearch(evidence).iterate(Query())}


def test_what_sensor_read_prints(settings: Settings, capture: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only what was found before the cut is a match; the payload without a match is counted."""
    caplog.set_level("INFO")
    done = sensor("read", capture, "--json", "--rules", settings.rules)
    found = [(one["time_us"] - TIME_US, one["rule"], one["incomplete"]) for one in done.objects]
    assert found == [(0, 51001, True), (1, 51001, False), (1, 51002, False)]
    assert json.loads(caplog.text.split("counters: ")[1].splitlines()[0])["cut"] == 2
    lines = sensor("read", capture, "--rules", settings.rules).out.splitlines()
    assert [line.endswith(f"[{INCOMPLETE}]") for line in lines] == [True, False, False]


def test_lists_and_packets(evidence: Path) -> None:
    """The commands and the API's answers carry the mark."""
    assert marks(evidence) == {0: True, 1: False}
    shown = sensor("evidence", "list", "--evidence", evidence, "--json").objects
    assert [one["incomplete"] for one in shown] == [False, True]
    lines = sensor("evidence", "list", "--evidence", evidence).out.splitlines()
    assert [line.endswith(f"[{INCOMPLETE}]") for line in lines] == [False, True]
    for time_us, mark in ((TIME_US, True), (TIME_US + 1, False)):
        assert (INCOMPLETE in sensor("evidence", "show", time_us, "--evidence", evidence).out) is mark
        [packet] = sensor("evidence", "show", time_us, "--evidence", evidence, "--json").objects
        assert packet["incomplete"] is mark
    search = EvidenceSearch(evidence)
    items = list(search.iterate(Query()))
    assert [Item.of(*one).incomplete for one in zip(items, search.matches(items), strict=True)] == [
        True,
        False,
    ]


def test_exported_comments(evidence: Path, tmp_path: Path) -> None:
    """The comment of the packet in a pcapng file says it."""
    done = sensor("evidence", "export", tmp_path / "out.pcapng", "--evidence", evidence)
    assert done.code == 0, done.err
    content = (tmp_path / "out.pcapng").read_bytes()
    cut, whole = f"threat 51001 Early; {INCOMPLETE}".encode(), b"threat 51001 Early; threat 51002 Late"
    for comment in (cut, whole):
        assert struct.pack("<HH", 1, len(comment)) + comment in content


def events(settings: Settings, capture: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the object ``sensor`` of each alert, and the objects of ``--json``."""
    pipeline = Pipeline(Matcher(load_rules(settings.rules)), "any", live=False)
    with CaptureFile(capture) as file:
        [batch] = file.batches()
        block = pipeline.process(batch)
    packets = eve.packets(Chunk(None, 0, block), pipeline.matcher.http)
    options = eve.EventOptions("host", 3, 0, None)
    alerts = [json.loads(event.line)["sensor"] for event in eve.alerts(packets, options)]
    return alerts, [json.loads(event.line) for event in eve.objects(packets)]


def test_events(settings: Settings, capture: Path) -> None:
    """Alerts have the mark only if it is set; the objects of --json always have it."""
    alerts, objects = events(settings, capture)
    assert [alert.get("incomplete") for alert in alerts] == [True, None, None]
    assert [one["incomplete"] for one in objects] == [True, False, False]


def test_blocks_keep_the_mark(settings: Settings, capture: Path) -> None:
    """Selecting, and turning items into objects and back, changes no mark."""
    pipeline = Pipeline(Matcher(load_rules(settings.rules)), "flow", live=False)
    with CaptureFile(capture) as file:
        [batch] = file.batches()
        block = pipeline.process(batch)
    assert block.items["incomplete"].tolist() == [1]
    again = block_of_objects(list(explained(block, pipeline.matcher.http)))
    assert again.items["incomplete"].tolist() == [1]
    assert block.select(block.items["matches"] == 0).items["incomplete"].tolist() == []


def test_a_rebuilt_index_says_it_of_its_own_search(
    evidence: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as little time the same items are incomplete; with enough time none is, and more rules match."""
    reindex(settings, lambda *_: None)
    assert marks(evidence) == {0: True, 1: False}
    monkeypatch.setattr(budget, "PAYLOAD_NS", 10**12)
    reindex(settings, lambda *_: None)
    assert marks(evidence) == {0: False, 1: False}
    rules = [[rule.rule_id for rule in one.rules] for one in EvidenceSearch(evidence).iterate(Query())]
    assert rules == [[51001, 51002]] * 2


@pytest.fixture
def unlocated(evidence: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the same evidence, while there is no time to locate a match."""
    monkeypatch.setattr(search, "LOCATE_NS", -1)
    monkeypatch.setattr(locate, "PAYLOAD_NS", -1)
    return evidence


def test_unknown_positions_in_evidence(unlocated: Path, tmp_path: Path) -> None:
    """Lists, packets and the API say that the position is unknown; no bytes are marked."""
    for item in sensor("evidence", "list", "--evidence", unlocated, "--json").objects:
        assert {(match["start"], match["end"]) for match in item["matches"]} == {(None, None)}
    shown = sensor("evidence", "show", TIME_US + 1, "--evidence", unlocated).out
    assert shown.count(UNKNOWN_POSITION) == 2
    assert "^" not in shown
    index = EvidenceSearch(unlocated)
    items = list(index.iterate(Query()))
    for item, matches in zip(items, index.matches(items), strict=True):
        assert {(match.start, match.end) for match in Item.of(item, matches).matches} == {(None, None)}
    assert sensor("evidence", "export", tmp_path / "out.pcapng", "--evidence", unlocated).code == 0


def test_a_page_is_located_in_bounded_time(evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is that of all items of a page together."""
    index = EvidenceSearch(evidence)
    items = list(index.iterate(Query())) * 500
    assert all(match.start is not None for matches in index.matches(items) for match in matches)
    monkeypatch.setattr(search, "LOCATE_NS", 2_000_000)
    known = [match.start is not None for matches in index.matches(items) for match in matches]
    assert known[0]
    assert not known[-1]


@pytest.mark.usefixtures("unlocated")
def test_unknown_positions_in_what_sensor_read_prints(settings: Settings, capture: Path) -> None:
    """Objects have nulls, and no text; lines have it in words."""
    found = sensor("read", capture, "--json", "--rules", settings.rules).objects
    assert [(one["start"], one["end"], one["text"]) for one in found] == [(None, None, None)] * 3
    lines = sensor("read", capture, "--rules", settings.rules).out.splitlines()
    assert [f":80  ({UNKNOWN_POSITION})" in line for line in lines] == [True] * 3


@pytest.mark.usefixtures("unlocated")
def test_unknown_positions_in_events(settings: Settings, capture: Path) -> None:
    """Alerts leave them out, like all that is unknown."""
    alerts, _ = events(settings, capture)
    assert all("start" not in alert and "end" not in alert for alert in alerts)


@pytest.mark.usefixtures("unlocated")
def test_unknown_positions_in_explanations(settings: Settings, capture: Path) -> None:
    """Both outputs of `rules explain` say it, and which search was cut."""
    done = sensor("rules", "explain", capture, "--rules", settings.rules, "--json")
    packets = [one for one in done.objects if "packet" in one]
    assert [one["incomplete"] for one in packets] == [True, False, True]
    assert {(match["start"], match["text"]) for one in packets for match in one["hits"]} == {(None, None)}
    shown = sensor("rules", "explain", capture, "--rules", settings.rules).out
    assert (shown.count(UNKNOWN_POSITION), shown.count(INCOMPLETE)) == (3, 2)
