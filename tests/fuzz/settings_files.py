"""Settings: whatever file and environment hold, faults are lines of text and no other error is raised."""

from __future__ import annotations

import os
import random
from pathlib import Path
from unittest.mock import patch

from sensor.config.definitions import toml
from sensor.config.loading import load_settings, variable_of
from sensor.config.settings import Settings
from sensor.config.template import template
from sensor.doctor.setting_faults import find_faults, misspelt_variables
from sensor.errors import SettingsError
from tests.fuzz.random_captures import damaged
from tests.fuzz.rounds import Round

FILES = 400
_NAMES = [*Settings.model_fields, "evidence_", "", "a.b", "networks", "SENSOR", "ünï"]
_WORDS = [
    *(
        "",
        " ",
        "eth1",
        "eth1,eth2",
        ",",
        "any",
        "threat",
        "native",
        "default",
        "/",
        "/dev/null",
        "nobody",
        "root",
    ),
    *(
        "127.0.0.1:1",
        "[::1]:8321",
        ":1",
        "::1:1",
        "1:65536",
        "[1.2.3.4]:-1",
        "localhost:1",
        "[fe80::1%eth0]:1",
    ),
    *(
        "10.0.0.0/8",
        "10.0.0.1/8",
        "fd00::/8",
        "0.0.0.0/33",
        "::/0",
        "10.0.0.0/8,::/0",
        "1",
        "0x10",
        "1_0",
    ),
    *(
        "file:/tmp/x",
        "file:",
        "unix:/x",
        "unix:relative",
        "syslog+udp://h:1",
        "syslog+tls://[::1]:99999?ca=/x",
    ),
    *(
        "syslog+udp://h:1?a=%00",
        "http://x",
        "syslog+tcp://[",
        "file:/x?y=1&y=2",
        "syslog+tcp://h:x",
        "file:\0",
    ),
    *(
        "true",
        "1e999",
        "nan",
        "-1",
        "9" * 5000,
        "\0",
        "\x1b[31m",
        "\u202e",
        "a\nb",
        "x" * 300,
        "/" + "x" * 300,
    ),
]
_LITERALS = [
    *("true", "false", "0", "1", "-1", "64", "1024", "9223372036854775808", "1e400", "nan", "-inf", "0.5"),
    *("[]", "[[]]", "{}", "{a = 1}", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "0xff", "[1, 'x']"),
    *("''", '"\\u0000"', '"\\uD800"', "[" * 500 + "]" * 500, "'''\n'''"),
]


def fuzz(one: Round) -> None:
    """Load random settings files, beside random variables."""
    path = one.directory / "sensor.toml"
    for _ in range(FILES):
        content = _random_file(one.rng)
        path.write_bytes(content)
        variables = _random_variables(one.rng)
        inputs = {"sensor_toml": content, "variables_txt": repr(variables)}
        with patch.dict(os.environ, variables):
            with one.no_other_error(SettingsError, **inputs):
                _show(load_settings({}, path))
            with one.no_other_error(SettingsError, **inputs):
                for line in (*find_faults(path), *misspelt_variables()):
                    assert "\n" not in line, line
                    line.encode()
        one.comparisons += 2


def _show(settings: Settings) -> None:
    """Use every value as commands do: a list of them as TOML, and as JSON for other processes."""
    for value in settings.model_dump(mode="json").values():
        toml(value)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert settings.listen_port in range(65536)
    assert all(isinstance(one, Path) and one.is_absolute() for one in (settings.rules, settings.evidence))


def _random_file(rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return damaged(template().replace("# ", "", rng.randrange(40)).encode(), rng)[0]
    lines = []
    for name in rng.sample(_NAMES, rng.choice((1, 1, 2, 3, 8))):
        if rng.random() < 0.1:
            lines.append(f"[{rng.choice((name, 'networks', 'retain', 'events'))}]")
        lines.append(f"{name.replace('_', rng.choice('_-'))} = {_random_value(rng)}")
    text = "\n".join(lines).encode(errors="surrogatepass")
    return damaged(text, rng)[0] if rng.random() < 0.1 else text


def _random_value(rng: random.Random) -> str:
    match rng.randrange(4):
        case 0:
            return rng.choice(_LITERALS)
        case 1:
            return f"[{', '.join(_quoted(rng) for _ in range(rng.randrange(4)))}]"
        case _:
            return _quoted(rng)


def _quoted(rng: random.Random) -> str:
    return toml(rng.choice(_WORDS))


def _random_variables(rng: random.Random) -> dict[str, str]:
    names = rng.sample(_NAMES, rng.choice((0, 0, 1, 2)))
    words = [word for word in _WORDS if "\0" not in word]
    return {variable_of(name): rng.choice((*words, "\udcff")) for name in names if name}
