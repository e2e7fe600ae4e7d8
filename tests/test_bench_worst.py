"""``sensor bench match``: the search for the packet that costs a worker most."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from sensor.bench import worst_payload
from sensor.bench.costly_texts import beginnings, costly_texts
from sensor.bench.payload_search import PayloadSearch, Recipe
from sensor.cli import cli
from sensor.decode import decode
from sensor.files.capture_file import CaptureFile
from sensor.model import Rule
from sensor.protocols import TCP, UDP
from sensor.rules.engine.http_payload import RFC9110
from sensor.rules.engine.matcher import Matcher

TEXTS = [b"%d;" % number for number in range(300)] + [b"dear", b"dearer!"]


def rule(regex: str, rule_id: int = 1, **fields: object) -> Rule:
    """Return a rule with this regex."""
    return Rule(rule_id, "threat", "Type", "Name", regex, **fields)  # type: ignore[arg-type]


def cost(payload: bytes) -> float:
    """Return the cost of a payload in a world where some words cost much, and next to each other most."""
    return payload.count(b"dear") + 5.0 * payload.count(b"dearer") + 20.0 * payload.count(b"deardearer")


def search(seed: int, trials: int = 2000) -> Recipe:
    """Return the dearest recipe that a search finds."""
    return PayloadSearch(cost, 500, TEXTS, [b"", b"x"], Random(seed)).run(trials)


def test_a_recipe_fills_a_payload_of_any_size() -> None:
    """Its texts are repeated, and the last one is cut off."""
    recipe = Recipe(b"GET /", (b"ab", b"c"))
    assert recipe.payload(10) == b"GET /abcab"
    assert {len(recipe.payload(size)) for size in range(5, 400)} == set(range(5, 400))


@pytest.mark.parametrize("seed", range(5))
def test_the_search_combines_what_is_dear(seed: int) -> None:
    """It finds a payload dearer than that of any text alone, by putting the right texts beside each other."""
    alone = max(cost(Recipe(b"", (text,)).payload(500)) for text in TEXTS)
    assert cost(search(seed).payload(500)) > 1.5 * alone


def test_the_same_seed_gives_the_same_payload() -> None:
    """The proposals are random, but not different from run to run."""
    assert search(3) == search(3)


def test_the_search_goes_on_from_what_is_known() -> None:
    """A known recipe is part of the search, and its result is at least as dear."""
    known = Recipe(b"", (b"deardearer",))
    found = PayloadSearch(cost, 500, TEXTS, [b""], Random(1)).run(10, [known])
    assert cost(found.payload(500)) >= cost(known.payload(500))


def test_texts_are_those_of_the_rules_that_can_match() -> None:
    """They are what a rule looks for, the same with a byte missing or changed, and encoded in HTTP."""
    rules = [rule("needle", 1), rule("datagram", 2, protocol=UDP), rule("request", 3, is_http=True)]
    plain = costly_texts(rules, TCP, Random(1), is_http=False)
    http = costly_texts(rules, TCP, Random(1), is_http=True)
    lower = [{text.lower() for text in texts} for texts in (plain, http)]
    assert all({b"needle", b"needl", b"eedle"} <= texts for texts in lower)
    assert [b"request" in texts for texts in lower] == [False, True]
    assert not any(b"datagram" in text for texts in lower for text in texts)
    assert any(b"%25" in text for text in http if text not in plain)
    assert len(set(plain)) == len(plain)


def test_the_number_of_texts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of many rules are chosen."""
    monkeypatch.setattr("sensor.bench.costly_texts.RULES", 5)
    rules = [rule(f"word{number:03}") for number in range(100)]
    texts = costly_texts(rules, TCP, Random(1), is_http=False)
    assert len({text.lower() for text in texts if len(text) == 7 and b"\0" not in text}) == 5


def test_beginnings_are_decoded_twice() -> None:
    """Beginnings of HTTP have an escape that is left after one decoding; others are empty."""
    assert beginnings(RFC9110, is_http=False) == [b""]
    for beginning in beginnings(RFC9110, is_http=True):
        assert RFC9110.matches(beginning)
        assert b"%2525" in beginning


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    """Return a matcher of a few rules."""
    regexes = [r"\b(?:nc|ncat) [^\r\n&]*-e\s*sh\b", "needle=(\\d+)", "(?:a|b)*a(a|b){9}c"]
    return Matcher([rule(regex, number) for number, regex in enumerate(regexes, 1)])


def measured(matcher: Matcher, **options: object) -> list[dict[str, object]]:
    """Return the result of a short search."""
    return worst_payload.measure(matcher, trials=20, seed=1, step=lambda _: None, **options)  # type: ignore[arg-type]


def test_the_worst_packets_can_be_reproduced(matcher: Matcher, tmp_path: Path) -> None:
    """The capture has one frame of each size, with as many matches as the result says."""
    found = measured(matcher, capture=tmp_path / "worst.pcap")
    with CaptureFile(tmp_path / "worst.pcap") as file:
        [batch] = file.batches()
    packets = decode(batch)
    sizes = (packets.payload_end - packets.payload_start).tolist()
    assert sizes == [one["payload_bytes"] for one in found] == list(worst_payload.LIMITS_US)
    for number, one in enumerate(found):
        payload = bytes(batch.buffer[packets.payload_start[number] : packets.payload_end[number]])
        ports = int(packets.sport[number]), int(packets.dport[number])
        matches = matcher.match(payload, int(packets.protocol[number]), *ports)
        assert len(matches) == one["matches"] or one["incomplete"]
        assert one["is_met"] == (one["cost_us"] <= one["limit_us"])  # type: ignore[operator]
        assert not one["dearest_rules"] or not one["is_met"]


def test_the_dearest_rules_are_named_if_the_limit_is_not_met(
    matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user learns which rules to change."""
    monkeypatch.setattr(worst_payload, "LIMITS_US", {1500: 1e-6})
    [found] = measured(matcher)
    assert found["is_met"] is False
    costs = [one["cost_us"] for one in found["dearest_rules"]]  # type: ignore[attr-defined]
    assert len(costs) == 3
    assert costs == sorted(costs, reverse=True)


@pytest.mark.usefixtures("use_few_rules")
def test_the_command(tmp_path: Path) -> None:
    """Text and JSON state the limit and whether it is met; the same packets are in the capture."""
    flags = ["bench", "match", "--quick", "--trials", "10", "--capture", str(tmp_path / "worst.pcap")]
    done = CliRunner().invoke(cli, flags)
    assert done.exit_code == 0, done.output
    for size in ("1,500", "65,400"):
        assert f"worst packet with {size} bytes of payload: " in done.output
    assert done.output.count(" us: met") + done.output.count(" us: NOT MET") == 2
    found = json.loads(CliRunner().invoke(cli, [*flags, "--json"]).stdout)["worst"]
    assert [(one["payload_bytes"], one["limit_us"]) for one in found] == [(1500, 150), (65400, 1500)]
    explained = CliRunner().invoke(cli, ["rules", "explain", str(tmp_path / "worst.pcap"), "--json"])
    assert explained.exit_code == 0, explained.output


@pytest.mark.usefixtures("use_few_rules")
def test_a_capture_that_cannot_be_written() -> None:
    """The error is a line that names the file."""
    done = CliRunner().invoke(cli, ["bench", "match", "--quick", "--trials", "10", "--capture", "/nowhere/a"])
    assert "/nowhere/a cannot be written: No such file or directory" in str(done.exception or done.output)
