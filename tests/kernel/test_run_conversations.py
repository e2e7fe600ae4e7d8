"""Conversations of `sensor run`: what was sent around an attack is on disk, each frame once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import dpkt
import pytest
from live import Run, replay, running, wait_until_received
from test_run import Network, assert_law

from sensor.bench.traffic import mix, notable, ordinary
from sensor.bench.traffic.conversations import Conversation
from sensor.bench.traffic.frames import Frame, write_capture
from sensor.bench.traffic.notable import ATTACKS
from sensor.bench.traffic.ordinary import Builder
from sensor.config.settings import BUNDLED_RULES

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("use_few_rules")]

START_US = 1_767_607_200_000_000
SQL_INJECTION = ATTACKS[0]


def attacks(count: int, seed: int = 1) -> list[Conversation]:
    """Return conversations with an attack in each, by different clients."""
    rng = Random(seed)
    return [notable.exchange(rng, START_US + rng.randrange(10**6), SQL_INJECTION) for _ in range(count)]


def office(count: int, seed: int = 2) -> list[Frame]:
    """Return ordinary traffic, in which nothing is a threat."""
    builders: list[Builder] = [ordinary.browsing, ordinary.tls, ordinary.dns, ordinary.ssh_session]
    return mix.mix(Random(seed), builders * count, START_US, 10**6).frames


def send(network: Network, directory: Path, frames: list[Frame], pps: int = 20_000) -> int:
    """Send frames in order of their times; return their number."""
    path = directory / "sent.pcap"
    write_capture(path, sorted(frames))
    replay(network[1], path, pps)
    return len(frames)


def kept(run: Run, suffix: str = "") -> Counter[bytes]:
    """Return the frames in the evidence files whose names end like this."""
    frames: Counter[bytes] = Counter()
    for path in run.files:
        if path.stem.endswith(suffix):
            with path.open("rb") as file:
                frames.update(data for _, data in dpkt.pcap.Reader(file))
    return frames


def whole(conversations: list[Conversation], frames: Counter[bytes]) -> list[bool]:
    """Return True for each conversation of which every frame is there, exactly once."""
    return [all(frames[frame.data] == 1 for frame in one.frames) for one in conversations]


def test_conversations_are_whole(network: Network, tmp_path: Path) -> None:
    """From handshake to FIN, in both directions, among other traffic; nothing of that is kept."""
    talks, others = attacks(60), office(40)
    frames = [frame for talk in talks for frame in talk.frames]
    with running(network[0], tmp_path / "evidence", "--keep", "threat") as run:
        wait_until_received(network[0], send(network, tmp_path, frames + others))
        assert run.stop() == 0
    counters = assert_law(run)
    assert whole(talks, kept(run)) == [True] * len(talks)
    assert sum(kept(run).values()) == len(frames), "nothing else"
    assert counters.written == sum(kept(run, "-threat").values()) > 0
    assert counters.context_written == sum(kept(run, "-context").values())


def test_without_a_history_what_follows_is_kept(network: Network, tmp_path: Path) -> None:
    """The match, the response and the end of the connection."""
    [talk] = attacks(1)
    with running(network[0], tmp_path / "evidence", "--keep", "threat", "--history-mib", "0") as run:
        wait_until_received(network[0], send(network, tmp_path, talk.frames, pps=5))
        assert run.stop() == 0
    counters = assert_law(run)
    assert counters.recalled == counters.remembered == 0
    hit = next(i for i, frame in enumerate(talk.frames) if b"union%20select" in frame.data)
    assert kept(run) == Counter(frame.data for frame in talk.frames[hit:])


def test_context_is_off(network: Network, tmp_path: Path) -> None:
    """Only matches are kept, and the kernel remembers nothing."""
    [talk] = attacks(1)
    with running(network[0], tmp_path / "evidence", "--keep", "threat", "--context", "off") as run:
        wait_until_received(network[0], send(network, tmp_path, talk.frames))
        assert run.stop() == 0
    counters = assert_law(run)
    assert (counters.context, counters.recalled, counters.remembered) == (0, 0, 0)
    assert sum(kept(run).values()) == counters.written == 1


def test_rules_decide_whose_context_is_kept(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``context = any``, a match of any rule keeps its conversation."""
    monkeypatch.setenv("SENSOR_RULES", str(BUNDLED_RULES))
    talk = notable.exchange(Random(3), START_US, notable.BANNERS[0])
    for setting, context in (("threat", False), ("any", True)):
        directory = tmp_path / setting
        with running(network[0], directory, "--keep", "any", "--context", setting) as run:
            wait_until_received(network[0], send(network, tmp_path, talk.frames) * (1 + context))
            assert run.stop() == 0
        assert_law(run)
        assert whole([talk], kept(run)) == [context]


def test_a_scan_cannot_buy_the_disk(network: Network, tmp_path: Path) -> None:
    """All attacks of a scan are matched, and few conversations kept; those of other sources are whole."""
    scanner, victims = notable.desk(Random(9)), attacks(20)
    scan = [
        notable.TcpConversation(Random(i), START_US + 50 * i, scanner, notable.server(80 + i % 20), 80)
        for i in range(1000)
    ]
    for talk in scan:
        talk.send(talk.client, SQL_INJECTION.request)
        talk.send(talk.server, SQL_INJECTION.response)
        talk.close()
    frames = [frame for talk in (*scan, *victims) for frame in talk.frames]
    with running(network[0], tmp_path / "evidence", "--keep", "threat") as run:
        wait_until_received(network[0], send(network, tmp_path, frames))
        assert run.stop() == 0
    counters = assert_law(run)
    assert counters.matched == len(scan) + len(victims)
    assert whole(victims, kept(run)) == [True] * len(victims)
    assert sum(whole(scan, kept(run))) <= 60
