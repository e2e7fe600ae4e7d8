"""Rule files: whatever is in them, loading ends soon, in bounded memory, with rules or with faults by name.

Files are damaged as JSON, in their fields and byte by byte. Expressions are random, and some are short and
stand for much: nested repeats, long lookarounds, thousands of branches or groups.
"""

from __future__ import annotations

import json
import random
import resource
import time
from pathlib import Path
from typing import Any

from sensor.model import RULE_CLASSES
from sensor.rules.files.describe import conditions, fault_object, rule_object
from sensor.rules.files.load import load_rules
from sensor.rules.files.rule_fault import FaultyRulesError
from tests.fuzz.random_captures import damaged
from tests.fuzz.random_rules import random_regex
from tests.fuzz.rounds import Round

DIRECTORIES = 40
COSTLY = 40
"""Costly expressions per round, each in a directory of its own."""
MOST_CPU_S = 30.0
"""CPU time for one directory, also on slow machines."""
MOST_GROWTH_KIB = 1 << 20
"""Memory that a round may need."""
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        80,
        65_536,
        1.0,
        1.5,
        1e400,
        1 << 70,
        "",
        "tcp",
        "UDP",
        "any",
        "url",
        "head",
    ),
    *("x", "\ud800", "\0", "\u202e", "a" * 5000, [], [1], {}, {"a": {}}, {"rules": {}}),
)
_NAMES = (
    *("type", "name", "regex", "protocol", "port", "is_http", "part", "decode", "version", "vendor", "os"),
    *("desc", "context", "deleted", "id", "Regex", "", "rules", "ü"),
)
_IDS = ("1", "2", "50001", "0", "-1", "01", "1.5", "999999999", "1000000000", "x", "", "\u0661")
_REPEATS = ("{0,32}", "{99}", "{1000}", "*", "+", "?", "{0,99}", "{2,}", "{32,}", "*?", "{1,65535}")
_LOOKS = ("(?=%s)", "(?!%s)", "(?<=%s)", "(?<!%s)")
_PIECES = (
    "a",
    ".",
    "[ab]",
    r"\w",
    "(?:a|b|cd)",
    "(?:)",
    "a{0}",
    "a?",
    r"\b",
    "^",
    "$",
    "(a|b)",
    "(?i:x)",
    r"[^\n]",
)


def fuzz(one: Round) -> None:
    """Load random directories, strictly and leniently."""
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(DIRECTORIES + COSTLY):
        directory = one.directory / str(number)
        directory.mkdir()
        files = _random_files(one.rng) if number < DIRECTORIES else [_file([costly_regex(one.rng)])]
        for rule_class, content in zip(one.rng.sample(RULE_CLASSES, len(files)), files, strict=True):
            (directory / f"{rule_class}.json").write_bytes(content)
        for lenient in (False, True):
            started_s = time.process_time()
            with one.no_other_error(rules_json=files[0]):
                _load(directory, lenient=lenient)
            took_s = time.process_time() - started_s
            if took_s > MOST_CPU_S:
                one.fault(f"took {took_s:.1f} s: {files[0][:300]!r}", rules_json=files[0])
            one.comparisons += 1
    growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    if growth_kib > MOST_GROWTH_KIB:
        one.fault(f"needed {growth_kib >> 10} MiB")


def _load(directory: Path, *, lenient: bool) -> None:
    """Load a directory, and describe what is in it as the commands and the API do."""
    try:
        rules = load_rules(directory, lenient=lenient)
    except FaultyRulesError as error:
        faults = error.faults
        assert faults
        assert not lenient or not any(fault.rule_id for fault in faults)
    else:
        faults = rules.faults
        assert lenient or not faults
        for rule in rules:
            json.dumps(rule_object(rule))
            assert conditions(rule)
    for fault in faults:
        assert "\n" not in str(fault), fault
        json.dumps(fault_object(fault))


def costly_regex(rng: random.Random) -> str:
    """Return a short expression that stands for much."""
    match rng.randrange(6):
        case 0:
            regex = _nested(rng)
        case 1:
            regex = rng.choice(_LOOKS) % _nested(rng) + "a"
        case 2:
            regex = "|".join(f"{rng.choice(_PIECES)}{number}" for number in range(rng.choice((9, 300, 5000))))
        case 3:
            depth = rng.choice((50, 500, 5000))
            regex = "(?:" * depth + "ab" + (")" + rng.choice(("", "?", "{2}"))) * depth
        case 4:
            regex = (
                "".join(rng.choice(_LOOKS) % rng.choice(_PIECES) for _ in range(rng.choice((2, 9, 99)))) + "a"
            )
        case _:
            regex = "".join(
                f"{rng.choice(_PIECES)}{rng.choice(_REPEATS)}" for _ in range(rng.choice((3, 9, 40)))
            )
    return rng.choice(("", "^", "x")) + regex + rng.choice(("", "b", "$"))


def _nested(rng: random.Random) -> str:
    """Return repeats of repeats."""
    regex = rng.choice(_PIECES)
    for _ in range(rng.randint(1, 5)):
        other = rng.choice(("", "", rng.choice(_PIECES)))
        regex = f"(?:{regex}{other}){rng.choice(_REPEATS)}"
    return regex


def _file(regexes: list[str]) -> bytes:
    rules = {
        str(number): {"type": "t", "name": "n", "regex": regex} for number, regex in enumerate(regexes, 1)
    }
    return json.dumps({"threat": {"rules": rules}}).encode()


def _random_files(rng: random.Random) -> list[bytes]:
    return [_random_file(rng) for _ in range(rng.choice((1, 1, 2, 5)))]


def _random_file(rng: random.Random) -> bytes:
    rules = {}
    for rule_id in rng.sample(_IDS, rng.randint(1, 4)):
        fields: dict[str, Any] = {"type": "t", "name": "n", "regex": random_regex(rng)}
        for _ in range(rng.choice((0, 0, 1, 3))):
            fields[rng.choice(_NAMES)] = rng.choice(_VALUES)
        rules[rule_id] = rng.choice(_VALUES) if rng.random() < 0.05 else fields
    body: Any = {"priority": rng.choice(_VALUES), "rules": rules} if rng.random() < 0.1 else {"rules": rules}
    document: Any = rng.choice(_VALUES) if rng.random() < 0.05 else {"threat": body}
    text = json.dumps(document, indent=rng.choice((None, 1)))
    if rng.random() < 0.1:  # a key that occurs twice
        text = text.replace('"name"', '"type"', 1).replace('"2"', '"1"')
    if rng.random() < 0.05:
        text = text.replace(
            '"n"', rng.choice(("[" * 5000, "9" * 5000, "NaN", "'", '"\\ud800"', "{" * 100_000)), 1
        )
    content = text.encode(errors="surrogatepass")
    return damaged(content, rng)[0] if rng.random() < 0.2 else content
