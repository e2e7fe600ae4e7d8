"""The law of the prefilter: the evidence is the same with and without it, byte for byte.

Without it means a program that submits every payload, with flows counted in user space. With it means the
program that ``sensor run`` loads for the rules and the profile. Both get the same frames, and their rings
are read and matched.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import dpkt
import pytest
from frames import DESTINATION, IPV6, TCP, corpus, ethernet, extended, ipv6, tcp
from law import HTTP, SMALLEST_FRAME, Bench, Wrapper, one_cpu
from live import PASS_ALL
from test_judge import FEW
from tunnels import tunnel_corpus

from sensor.bench.traffic import mix
from sensor.capture.program import Program, ProgramOptions
from sensor.config.settings import BUNDLED_RULES, Settings
from sensor.live.program_options import options_of, plan_of
from sensor.model import Rule
from sensor.pipeline import Pipeline
from sensor.rules.engine.matcher import Matcher
from sensor.rules.engine.profile import PROFILES
from sensor.rules.files.load import load_rules
from sensor.rules.prefilter.networks import Networks
from sensor.rules.prefilter.plan import Plan, demands
from sensor.rules.prefilter.tables import kernel_plan
from tests.rules.commands import write_rules
from tests.rules.samples import payloads, tricky_rules

pytestmark = pytest.mark.kernel(alone=False)

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
CHUNK = 5000
NETWORKS: dict[str, Any] = {
    "networks_include": "10.1.0.0/16, 10.2.128.0/18, 2001:db8:1::/48, 2001:db8:2:8000::/50, 192.0.2.0/24",
    "networks_exclude": "10.1.128.0/17, 2001:db8:1:8000::/49, 10.2.0.1/32",
}
THOROUGH = {"profile": "thorough", **NETWORKS}
PAYLOADS = 100_000
"""Number of payloads in the default profile."""
LONGEST_FRAME = 3400
Rules = tuple[Rule, ...]
Without = Callable[[int, bool], Bench]


@cache
def rules_in(directory: Path) -> Rules:
    """Load the rules of a directory; skip the test if there is none."""
    if not directory.is_dir():
        pytest.skip(f"{directory} is not here")
    return tuple(load_rules(directory, lenient=True))


@cache
def matcher_of(rules: Rules) -> Matcher:
    """Compile a matcher, once for all tests."""
    return Matcher(rules)


def pipeline_of(rules: Rules, settings: Settings) -> Pipeline:
    """Make the pipeline that gets the frames of the ring. It knows no flow yet."""
    networks = Networks(settings.networks_include, settings.networks_exclude)
    return Pipeline(matcher_of(rules), settings.keep, settings.profile, networks=networks)


@pytest.fixture(scope="module")
def cpu() -> Iterator[int]:
    """Run on one CPU, and return its number."""
    with one_cpu() as number:
        yield number


@pytest.fixture(scope="module")
def without(cpu: int) -> Iterator[Without]:
    """Return a function that loads the program without a prefilter, for a snaplen and kind of buffers."""
    with ExitStack() as stack:

        @cache
        def bench(snaplen: int, frags: bool) -> Bench:
            program = Program(PASS_ALL, ProgramOptions(depth=None, snaplen=snaplen, multi_buffer=frags))
            return stack.enter_context(closing(Bench(program, cpu)))

        yield bench


class Outcome(NamedTuple):
    """The counts of a comparison."""

    frames: int
    matched: int
    ignored: int
    """Number of frames ignored by the prefilter."""


def compare(
    rules: Rules,
    settings: Settings,
    frames: Iterable[bytes],
    without: Without,
    cpu: int,
    *,
    frags: bool = False,
) -> Outcome:
    """Run frames through both, some thousands at a time, and fail with the first difference."""
    rest, made, matched = iter(frames), 0, 0
    ours, theirs = pipeline_of(rules, settings), pipeline_of(rules, settings)
    http = PROFILES[settings.profile].http
    plan = plan_of(kernel_plan(Plan.of(demands(rules, http)), http), http, settings.keep)
    with closing(Bench(Program(plan, options_of(settings, frags=frags)), cpu)) as with_it:
        while chunk := [frame for frame in islice(rest, CHUNK) if len(frame) >= SMALLEST_FRAME]:
            kept = with_it.kept(chunk, ours, counted=True)
            expected = without(settings.snaplen, frags).kept(chunk, theirs, counted=False)
            made, matched = made + len(chunk), matched + len(expected)
            assert difference(kept, expected) is None
    return Outcome(made, matched, made - ours.read)


def difference(kept: Sequence[Any], expected: Sequence[Any]) -> object:
    """Return the first item that differs with and without the prefilter, or None."""
    if kept == expected:
        return None
    both = zip([*kept, None], [*expected, None], strict=False)
    return len(kept), len(expected), next(pair for pair in both if pair[0] != pair[1])


def drawn(rules: Rules, each: int, profile: str, seed: int) -> Iterator[bytes]:
    """Yield frames with ``each`` payloads per rule, at or near a match, and long flows of them."""
    rng = random.Random(seed)
    wrapper = Wrapper(rules, seed)
    few: list[tuple[bytes, Rule]] = []
    for number, (payload, rule) in enumerate(payloads(rules, PROFILES[profile].http, each, rng)):
        yield from wrapper.frames(payload[: LONGEST_FRAME - 400], rule)
        few.append((payload, rule))
        if number % 500 == 499:
            yield from wrapper.long_flow(few, rng.choice((20, 50, 100)))
            few.clear()


def traffic() -> list[bytes]:
    """Return the demo's traffic, and real captures if present. Frames too long for one buffer are cut."""
    frames = [frame.data for frame in mix.demo(seed=1).frames]
    for path in sorted((REFERENCE / "pcap").glob("*.pcap")):
        with path.open("rb") as file:
            frames += [data[:LONGEST_FRAME] for _, data in dpkt.pcap.Reader(file)]
    return frames


@pytest.mark.parametrize(
    ("settings", "count", "seed"),
    [
        ({}, PAYLOADS // 2, 1),
        ({}, PAYLOADS // 2, 2),
        ({"profile": "ly_probe"}, 10_000, 3),
        ({"profile": "thorough", "keep": "threat"}, 10_000, 4),
        ({**NETWORKS, "snaplen": 256}, 10_000, 5),
    ],
    ids=str,
)
def test_bundled_rules(without: Without, cpu: int, settings: dict[str, Any], count: int, seed: int) -> None:
    """Frames are real traffic, and payloads for every rule in all kinds of headers and long flows."""
    chosen = Settings(**settings)
    rules = rules_in(BUNDLED_RULES)
    each = -(-count // len(rules))
    frames = chain(traffic(), drawn(rules, each, chosen.profile, seed))
    outcome = compare(rules, chosen, frames, without, cpu)
    assert outcome.frames >= count
    assert outcome.matched > 0.1 * outcome.frames
    assert outcome.ignored > 0.1 * outcome.frames


RULE_SETS = {
    "ly_probe's": lambda _: rules_in(REFERENCE / "fp-patterns"),
    "tricky": lambda _: tuple(tricky_rules()),
    "few on ports": lambda _: tuple(FEW),
    "few of every kind": lambda directory: tuple(load_rules(write_rules(directory))),
}


@pytest.mark.parametrize("settings", [{}, {"profile": "ly_probe"}, THOROUGH], ids=str)
@pytest.mark.parametrize("name", RULE_SETS)
def test_other_rules(without: Without, cpu: int, tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    """Rules are with and without ports, anchors and protocols."""
    chosen = Settings(**settings)
    rules = RULE_SETS[name](tmp_path)
    outcome = compare(rules, chosen, drawn(rules, 2000 // len(rules), chosen.profile, 2), without, cpu)
    assert outcome.matched > 0.1 * outcome.frames


CORPORA = {
    "headers": lambda: [frame for _, frame in corpus()],
    "tunnels": lambda: [frame for _, frame in tunnel_corpus()],
}
ON_WEB = (Rule(1, "service", "Web", "request", "^GET /"), *FEW)
"""A rule that matches the payload of all header combinations, and rules that can match few of them."""


@pytest.mark.parametrize("settings", [{}, {"profile": "ly_probe"}, {"keep": "flow"}, THOROUGH], ids=str)
@pytest.mark.parametrize("name", CORPORA)
def test_every_combination_of_headers(
    without: Without, cpu: int, name: str, settings: dict[str, Any]
) -> None:
    """Every frame of the corpora gives the same evidence."""
    outcome = compare(ON_WEB, Settings(**settings), CORPORA[name](), without, cpu)
    assert outcome.matched


def frames_across_buffers(rng: random.Random) -> Iterator[bytes]:
    """Yield long flows of large packets whose payloads begin near the end of the first buffer."""
    for size in range(3392, 3488, 8):
        headers = [(DESTINATION, b"", 1696), (DESTINATION, b"", size - 1696)]
        for options in (b"", b"\1" * 4, b"\1" * 8):
            for _ in range(40):
                payload = rng.choice((b"", b"x", b"POST /")) + HTTP + bytes(rng.choice((0, 2000)))
                segment = tcp(payload, sport=size, dport=len(options) + 1, options=options)
                yield ethernet(IPV6, ipv6(*extended(headers, TCP, segment)))


@pytest.mark.parametrize("settings", [{}, {"profile": "ly_probe"}, {"profile": "thorough"}], ids=str)
def test_headers_and_payload_in_different_buffers(
    without: Without, cpu: int, settings: dict[str, Any]
) -> None:
    """Payloads that the program cannot see go to user space, even beyond the depth of a flow."""
    frames = list(frames_across_buffers(random.Random(4)))
    outcome = compare(ON_WEB, Settings(**settings), frames, without, cpu, frags=True)
    assert outcome.matched
    assert outcome.ignored
