"""`sensor read` as a user runs it: files in, matches and evidence out."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import dpkt
import pytest
from live import SENSOR, on_terminal

from sensor.bench.traffic import mix
from sensor.bench.traffic.frames import write_capture

pytestmark = pytest.mark.usefixtures("use_few_rules")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "reference"
ENHANCED_PACKET = 6
NO_PRIVILEGES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def sensor(*arguments: str | Path, wrapper: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [*wrapper, *SENSOR, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Write a capture file of ordinary traffic with attacks and banners in it."""
    path = tmp_path / "capture.pcap"
    write_capture(path, mix.demo(seed=1).frames)
    return path


def test_json_is_one_object_per_match(capture: Path) -> None:
    """Every line of standard output is an object with the documented keys."""
    done = sensor("read", capture, "--json")
    assert done.returncode == 0
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {match["class"] for match in found} >= {"service", "threat"}
    keys = (
        "time_us class rule type name version vendor os protocol sip sport dip dport vlan interface start end"
    )
    assert all(list(match) == [*keys.split(), "text", "incomplete"] for match in found)


def test_lines_without_json(capture: Path) -> None:
    """Each match is a line with time, rule, addresses and the matched text."""
    done = sensor("read", capture)
    assert any("threat" in line and "jndi:ldap" in line for line in done.stdout.splitlines())


@pytest.mark.parametrize("keeps", [False, True])
def test_the_log_has_the_counters_that_apply(capture: Path, tmp_path: Path, keeps: bool) -> None:
    """The kernel and the rings have no part in reading a file; without a directory, nothing is written."""
    done = sensor("read", capture, *(["--evidence", tmp_path / "evidence"] if keeps else []))
    counters = json.loads(done.stderr.split("counters: ")[1])
    written = ["written", "write_failed"] if keeps else []
    assert list(counters) == ["read", "undecodable", "unmatched", "matched", "suppressed", *written, "cut"]
    assert counters["read"] == counters["undecodable"] + counters["unmatched"] + counters["matched"] > 0


def test_evidence_is_the_matched_frames(capture: Path, tmp_path: Path) -> None:
    """The files hold each matched frame once, with its own time; their names come from these times."""
    done = sensor("read", capture, "--json", "--evidence", tmp_path / "evidence")
    times = {json.loads(line)["time_us"] for line in done.stdout.splitlines()}
    files = sorted(
        path for path in (tmp_path / "evidence" / "3").glob("*.pcap") if "-context" not in path.name
    )
    kept = []
    for file in files:
        with file.open("rb") as content:
            kept += [round(time_s * 1_000_000) for time_s, _ in dpkt.pcap.Reader(content)]
    assert set(kept) == times
    first_s = min(times) // 1_000_000 // 300 * 300
    assert (
        files[0].stem.removesuffix("-threat")
        == subprocess.run(
            ["date", "-u", "-d", f"@{first_s}", "+%Y%m%d%H%M"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )


def test_needs_neither_root_nor_bcc(capture: Path) -> None:
    """The command works without any capability, in a Python that cannot import BCC."""
    program = "import sys; sys.modules['bcc'] = None; from sensor.cli import main; main()"
    done = subprocess.run(
        [*NO_PRIVILEGES, sys.executable, "-c", program, "read", str(capture)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "threat" in done.stdout


def test_pcapng_and_pcap_give_the_same_matches(capture: Path, tmp_path: Path) -> None:
    """The file format makes no difference."""
    pcapng = tmp_path / "capture.pcapng"
    subprocess.run(["editcap", "-F", "pcapng", str(capture), str(pcapng)], check=True)
    assert sensor("read", pcapng, "--json").stdout == sensor("read", capture, "--json").stdout


def test_a_truncated_file(capture: Path, tmp_path: Path) -> None:
    """Whole frames are matched and kept; then one line says where the file ends."""
    torn = tmp_path / "torn.pcap"
    torn.write_bytes(capture.read_bytes()[:-7])
    whole = sensor("read", capture, "--json").stdout
    done = sensor("read", torn, "--json", "--evidence", tmp_path / "evidence")
    assert done.returncode == 7
    assert done.stderr.splitlines()[-1].startswith(f"sensor: {torn}: ")
    assert done.stdout
    assert whole.startswith(done.stdout)
    assert list((tmp_path / "evidence" / "3").glob("*.pcap"))


def test_standard_input(capture: Path, tmp_path: Path) -> None:
    """It is read like a file, through a pipe; the error says where it is torn."""
    command = [*SENSOR, "read", "-", "--json", "--evidence", str(tmp_path / "evidence")]
    whole = sensor("read", capture, "--json").stdout
    done = subprocess.run(command, input=capture.read_bytes(), capture_output=True, check=True, timeout=100)
    assert done.stdout.decode() == whole != ""
    assert list((tmp_path / "evidence" / "3").glob("*-threat.pcap"))
    done = subprocess.run(command, input=capture.read_bytes()[:-7], capture_output=True, timeout=100)
    assert done.returncode == 7
    assert done.stderr.decode().splitlines()[-1].startswith("sensor: -: ends inside the record at byte ")


def test_a_damaged_block(capture: Path, tmp_path: Path) -> None:
    """Reading goes on after it: all other packets are matched and kept, and one line says what was lost."""
    pcapng = tmp_path / "capture.pcapng"
    subprocess.run(["editcap", "-F", "pcapng", str(capture), str(pcapng)], check=True)
    whole = sensor("read", pcapng, "--json").stdout.splitlines()
    content = pcapng.read_bytes()
    places = [place for place, kind in blocks(content) if kind == ENHANCED_PACKET]
    middle = places[len(places) // 2]
    claim = struct.pack("<I", 1 << 20)
    pcapng.write_bytes(content[: middle + 20] + claim + content[middle + 24 :])
    done = sensor("read", pcapng, "--json", "--evidence", tmp_path / "evidence")
    assert done.returncode == 7
    assert len(done.stdout.splitlines()) >= len(whole) - 5
    assert done.stdout.splitlines()[0] == whole[0]
    assert done.stdout.splitlines()[-1] == whole[-1]
    last = done.stderr.splitlines()[-1]
    assert f"the block at byte {middle} is damaged" in last
    assert "packets lost to damage: 1; all others were read" in last
    assert f'"read": {len(places) - 1}, ' in done.stderr


def blocks(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield place and kind of each block of a pcapng file in little-endian order."""
    place = 0
    while place < len(content):
        kind, length = struct.unpack_from("<II", content, place)
        yield place, kind
        place += length


@pytest.mark.parametrize("content", [b"", b"{}", b"\x1f\x8b\x08" + bytes(40), b"\x7fELF" + bytes(60)])
def test_a_foreign_file_is_refused_before_anything_is_read(
    capture: Path, tmp_path: Path, content: bytes
) -> None:
    """The command ends with one line and exit code 7; the file before it is not matched either."""
    foreign = tmp_path / "foreign"
    foreign.write_bytes(content)
    done = sensor("read", capture, foreign, "--evidence", tmp_path / "evidence")
    assert (done.returncode, done.stdout) == (7, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"sensor: {foreign}: ")
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nosuch.pcap"], 7, "nosuch.pcap"),
        ([".", "--keep", "all"], 2, "--keep"),
        ([".", "--config", "nosuch.toml"], 2, "nosuch.toml: cannot be read"),
        (["--rules", "nosuch", os.devnull], 7, os.devnull),
        ([], 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], code: int, message: str) -> None:
    """There is no traceback, and the exit code tells the kind of error."""
    done = sensor("read", *arguments)
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_output_closed_early(capture: Path) -> None:
    """A closed pipe ends the command without a traceback."""
    command = f"{sys.executable} -m sensor read {capture} {capture} {capture} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_progress_bar_on_a_terminal(capture: Path) -> None:
    """Progress is drawn if standard error is a terminal, and only then."""
    shown = on_terminal([*SENSOR, "read", str(capture)])
    assert "reading" in shown
    assert "reading" not in sensor("read", capture).stderr


def test_lenient_skips_faulty_rules_and_says_which(capture: Path, tmp_path: Path, few_rules: Path) -> None:
    """Without --lenient the set is refused; with it the others match, and the log names the faulty rule."""
    shutil.copytree(few_rules, tmp_path / "rules")
    (tmp_path / "rules" / "device.json").write_text(
        '{"device": {"rules": {"1": {"type": "T", "name": "N"}}}}'
    )
    arguments = ("read", capture, "--json", "--rules", tmp_path / "rules")
    strict, lenient = sensor(*arguments), sensor(*arguments, "--lenient")
    assert (strict.returncode, strict.stdout) == (2, "")
    assert lenient.returncode == 0
    assert "threat" in lenient.stdout
    assert "rule skipped: " in lenient.stderr
    assert "rule 1: regex: missing" in lenient.stderr


def test_our_rules_name_the_blind_injection() -> None:
    """Our rules match the time-based SQL injection that ly_probe's own rules miss."""
    path = SHARED / "pcap" / "sql_inject.pcap"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    done = sensor("read", path, "--json", "--keep", "threat")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert any("sql" in match["name"].lower() and "sleep" in match["text"].lower() for match in found)


@pytest.mark.parametrize("name", ["sql_inject", "mining_common", "dnstun_cobalt_strike"])
def test_with_their_rules_we_keep_all_that_ly_probe_keeps(name: str) -> None:
    """With ly_probe's rules we keep every packet that ly_probe keeps."""
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not here")
    kept = json.loads((SHARED / "lyprobe_kept.json").read_text())[f"{name}.pcap"]["k2"]
    path = SHARED / "pcap" / f"{name}.pcap"
    done = sensor("read", path, "--json", "--rules", SHARED / "fp-patterns", "--keep", "any")
    ours = {json.loads(line)["time_us"] for line in done.stdout.splitlines()}
    assert ours >= set(kept)


def test_networks(capture: Path) -> None:
    """Only packets of included networks are matched, and none of an excluded network inside them."""

    def addresses(*flags: str) -> set[frozenset[str]]:
        found = map(json.loads, sensor("read", capture, "--json", *flags).stdout.splitlines())
        return {frozenset((match["sip"], match["dip"])) for match in found}

    everywhere = addresses()
    one = min(map(min, everywhere))
    only = addresses("--networks-include", one)
    assert only == {pair for pair in everywhere if one in pair}
    assert addresses("--networks-exclude", one) == everywhere - only != everywhere
    assert addresses("--networks-include", "0.0.0.0/0", "--networks-exclude", one) == {
        pair for pair in everywhere - only if not any(":" in address for address in pair)
    }
