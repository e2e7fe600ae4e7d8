"""`sensor run` indexes the evidence it writes, and rebuilds a lost index."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
from live import ask_until, replay, running, wait_until_received

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture
from sensor.evidence.pcap import FILE_HEADER_BYTES
from sensor.evidence.search import EvidenceSearch, Query
from sensor.evidence.stored import StoredRecords
from sensor.evidence.verify import verify
from sensor.metrics import catalogue as c
from sensor.model import Role

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]

TIMEOUT_S = 60


def send(source: str, mirror: str, path: Path, frames: int) -> None:
    """Send a capture file and wait until all frames have arrived."""
    replay(source, path)
    wait_until_received(mirror, frames)


def test_evidence_is_found_with_its_interface(network: tuple[str, str], tmp_path: Path) -> None:
    """Every written item has a row with the same values as in `--json`, already during the run."""
    mirror, source = network
    frames = mix.demo(seed=1).frames
    write_capture(tmp_path / "traffic.pcap", frames)
    evidence = tmp_path / "evidence"
    index = EvidenceSearch(evidence)
    with running(mirror, evidence) as run:
        send(source, mirror, tmp_path / "traffic.pcap", len(frames))
        deadline_s = time.monotonic() + TIMEOUT_S
        while not index.search(Query(rule_class="threat"), 1).items:
            assert time.monotonic() < deadline_s
        assert run.stop() == 0
    stored = [one for one in index.iterate(Query()) if one.role == Role.HIT]
    assert len(stored) == run.counters["written"] > 100
    assert {one.interface for one in stored} == {mirror}
    printed = sorted((match["time_us"], match["rule"], match["start"], match["end"]) for match in run.matches)
    with closing(StoredRecords()) as records:
        found = sorted(
            (one.time_us, match.rule_id, match.start, match.end)
            for one in stored
            for match in one.matches(records.read(one).frame)
        )
    assert found == printed
    assert not [verdict.fault for verdict in verify(evidence / "3", 3) if verdict.fault]


def test_lost_index_comes_back_while_capturing(network: tuple[str, str], tmp_path: Path) -> None:
    """The next run rebuilds the index in the background, and logs that."""
    mirror, source = network
    frames = mix.demo(seed=1).frames
    write_capture(tmp_path / "traffic.pcap", frames)
    evidence = tmp_path / "evidence"
    index = EvidenceSearch(evidence)
    with running(mirror, evidence) as run:
        send(source, mirror, tmp_path / "traffic.pcap", len(frames))
        assert run.stop() == 0
    before = [(one.key, one.rules) for one in index.iterate(Query())]
    for path in (evidence / "3").glob("*.sqlite"):
        path.unlink()
    with running(mirror, evidence) as run:
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(list(index.iterate(Query()))) < len(before) or index.status()["index"]["state"] != "ok":
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        figures = ask_until(lambda one: one.total(c.INDEX_COMPLETE))
        assert run.stop() == 0
    file_bytes = sum(path.stat().st_size - FILE_HEADER_BYTES for path in run.files)
    assert (figures.total(c.REINDEX_DONE), figures.total(c.REINDEX_REMAINING)) == (file_bytes, 0)
    assert figures.total(c.INDEX_ROWS) == len(before)
    assert [(one.key, one.rules) for one in index.iterate(Query())] == before
    assert any("rebuilding the index" in line for line in run.log)
