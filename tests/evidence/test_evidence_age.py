"""Age limits evidence only as far as the clock is believed, and never fast."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sensor.evidence import stored_files
from sensor.evidence.clock_trust import GAP_S, GRACE_S, ClockReading, ClockTrust, read_clock
from sensor.evidence.file_name import WINDOW_S, parse_name
from sensor.evidence.retention import AGED_FILES, DELETED_AT_ONCE, Limits, Retention

NOON_S = 1_687_089_600
"""2023-06-18 12:00:00 UTC: the start of a window."""
DAY_S = 86_400
BOOT_S = 5000.0


@pytest.fixture(autouse=True)
def _list_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_files, "LISTING_S", 0.0)
    monkeypatch.setattr(stored_files, "LISTING_SHARE", 0)


def files(directory: Path, newest_s: float, count: int, step_s: int = WINDOW_S) -> None:
    """Make evidence files without content, the last of which starts at a time."""
    for number in range(count):
        start = datetime.fromtimestamp(newest_s - number * step_s, UTC)
        (directory / f"{start:%Y%m%d%H%M}.pcap").write_bytes(b"x")


def count(directory: Path) -> int:
    """Return the number of evidence files."""
    return len(list(directory.glob("*.pcap")))


def reading(now_s: float, after_s: float = 0.0, *, synchronised: bool = False) -> ClockReading:
    """Return the reading of a clock, some time after the start of the sensor."""
    return ClockReading(now_s + after_s, BOOT_S + after_s, synchronised)


def enforce(kept: Retention, *readings: ClockReading) -> None:
    """Enforce the limits often enough at each reading to delete all that may be deleted."""
    for one in readings:
        for _ in range(2 * AGED_FILES // DELETED_AT_ONCE):
            kept.enforce(one)


def retention(directory: Path, days: int) -> Retention:
    """Return a retention that has only a limit of age."""
    return Retention(directory, Limits(days=days), len)


@pytest.mark.parametrize("synchronised", [True, False])
def test_a_clock_that_jumps_deletes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, synchronised: bool
) -> None:
    """Nothing is deleted by age while the clock is 400 days ahead, nor within an hour after a jump."""
    files(tmp_path, NOON_S - 3 * DAY_S, 60)
    kept = retention(tmp_path, 365)
    ahead = 400 * DAY_S
    enforce(
        kept,
        reading(NOON_S, synchronised=synchronised),
        reading(NOON_S + ahead, 2, synchronised=synchronised),
        reading(NOON_S + ahead, GRACE_S - 1, synchronised=synchronised),
        reading(NOON_S, GRACE_S, synchronised=synchronised),
    )
    assert count(tmp_path) == 60
    assert caplog.text.count("the clock jumped; nothing is deleted by age for an hour") == 1


def test_a_synchronised_clock_is_believed_an_hour_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is another clock that says so; each line in the log names the limit."""
    caplog.set_level("INFO")
    files(tmp_path, NOON_S - 3 * DAY_S, 3)
    kept = retention(tmp_path, 365)
    enforce(kept, reading(NOON_S), reading(NOON_S + 400 * DAY_S, 1, synchronised=True))
    assert count(tmp_path) == 3
    enforce(kept, reading(NOON_S + 400 * DAY_S, 1 + GRACE_S, synchronised=True))
    assert count(tmp_path) == 0
    assert caplog.text.count("(age: retain_days = 365)") == 3


def test_a_host_that_starts_in_the_future(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without synchronisation no evidence leads from the old files to now, also after another start."""
    files(tmp_path, NOON_S, 60)
    ahead = NOON_S + 400 * DAY_S
    enforce(retention(tmp_path, 365), reading(ahead), reading(ahead, 3 * GRACE_S))
    files(tmp_path, ahead, 2)
    enforce(retention(tmp_path, 365), reading(ahead, DAY_S), reading(ahead, DAY_S + 3 * GRACE_S))
    assert count(tmp_path) == 62
    assert "60 files seem too old" in caplog.text


def test_a_clock_that_is_consistent_is_believed(tmp_path: Path) -> None:
    """A host that is never synchronised still deletes evidence by age, also after days without power."""
    files(tmp_path, NOON_S, 40, step_s=DAY_S)
    enforce(retention(tmp_path, 30), reading(NOON_S + GAP_S - DAY_S))
    assert count(tmp_path) == 40 - 15


def test_a_quiet_time_without_a_jump_is_no_gap() -> None:
    """The time that the sensor has watched the clock is believed, with or without evidence."""
    trust = ClockTrust()
    for hour in range(30 * 24):
        trust.note(reading(NOON_S, hour * 3600))
    now = reading(NOON_S, 30 * DAY_S)
    assert trust.believed_from_s(np.array([NOON_S - 60.0]), now) == -np.inf
    assert trust.believed_from_s(np.array([NOON_S - 2 * GAP_S, NOON_S - 60]), now) == NOON_S - 60
    assert trust.believed_from_s(np.array([]), now) == -np.inf


def test_a_clock_that_is_slewed_does_not_jump() -> None:
    """500 ppm are 43 seconds a day."""
    trust = ClockTrust()
    for hour in range(30 * 24):
        trust.note(reading(NOON_S + hour * 1.8, hour * 3600))
    assert trust.is_settled(reading(NOON_S, 30 * DAY_S))


def test_deletions_by_age_are_capped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A limit that becomes shorter deletes some files at once, and then some every hour."""
    files(tmp_path, NOON_S, 3 * AGED_FILES)
    kept = retention(tmp_path, 1)
    now_s = NOON_S + 2 * DAY_S
    for hours in range(3):
        enforce(kept, reading(now_s, hours * 3600, synchronised=True))
        assert count(tmp_path) == (2 - hours) * AGED_FILES
    assert f"180 files are too old; {AGED_FILES} per hour are deleted by age" in caplog.text


def test_other_limits_do_not_ask_the_clock(tmp_path: Path) -> None:
    """A full disk is full at any time."""
    files(tmp_path, NOON_S, 60)
    kept = Retention(tmp_path, Limits(days=365, gib=10 / 2**30), len)
    enforce(kept, reading(NOON_S), reading(NOON_S + 400 * DAY_S, 1))
    assert count(tmp_path) == 10
    assert kept.deleted["age"] == (0, 0)


@pytest.mark.parametrize(
    "name",
    [
        "010120251530.pcap",
        "202313011200.pcap",
        "202302301200.pcap",
        "202306182400.pcap",
        "202306181260.pcap",
        "202306181201.pcap",
        "000006181200.pcap",
        "999906181200.pcap",
        "202306181200-linktype1234567.pcap",
        "٢٠٢٣٠٦١٨١٢٠٠.pcap",
    ],
)
def test_names_that_are_no_times(tmp_path: Path, name: str) -> None:
    """They are foreign: no limit ends at them, none deletes them."""
    assert parse_name(name) is None
    (tmp_path / name).write_bytes(b"foreign")
    files(tmp_path, NOON_S, 3)
    kept = Retention(tmp_path, Limits(1, 1e-9, 100.0), len)
    enforce(kept, reading(NOON_S + 9 * DAY_S, synchronised=True))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert kept.failures == 0


def test_directories_with_the_names_of_files(tmp_path: Path) -> None:
    """They are not evidence, and not in the way of what is."""
    for day in range(1, 2 * DELETED_AT_ONCE):
        (tmp_path / f"2022{day % 12 + 1:02}{day % 28 + 1:02}1200.pcap").mkdir()
    files(tmp_path, NOON_S, 2)
    kept = Retention(tmp_path, Limits(gib=1e-12), len)
    enforce(kept, reading(NOON_S))
    assert not any(path.is_file() for path in tmp_path.iterdir())
    assert kept.failures == 0


def test_the_clock_of_this_host() -> None:
    """The reading is of this moment."""
    before = time.time()
    now = read_clock()
    assert before <= now.wall_s <= time.time()
    assert now.boot_s <= time.clock_gettime(time.CLOCK_BOOTTIME)
