"""Fixtures for all tests: a private network, a few rules, and skipping tests without eBPF."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import PASS_ALL

from sensor.bench.private_network import private_network, veth_pair
from sensor.capture.program import Program, check_privileges
from sensor.config.settings import BUNDLED_RULES
from sensor.errors import SensorError
from sensor.rules.engine import budget, locate

FEW = {11001, 11031, 11061, 11064, 21002, 31001, 41001, 41111, 51001, 51008, 51401, 51601, 51607}


def _why_no_kernel() -> str | None:
    """Load the program once; return the reason if this machine cannot, or None."""
    try:
        check_privileges()
        Program(PASS_ALL).close()
    except SensorError as error:
        return str(error)
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare how long the storm of kills lasts, and which moments it chooses."""
    parser.addoption("--kill-rounds", type=int, default=1, help="rounds of test_kill_storm, ten kills each")
    parser.addoption("--kill-seed", type=int, default=1, help="its first round; others follow")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each round of the storm of kills its seed."""
    if "kill_seed" in metafunc.fixturenames:
        first, rounds = (metafunc.config.getoption(name) for name in ("kill_seed", "kill_rounds"))
        metafunc.parametrize("kill_seed", range(first, first + rounds))


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of tests that load eBPF."""
    config.addinivalue_line(
        "markers",
        "kernel(alone): loads the XDP program; skipped if eBPF cannot be loaded. Runs beside other such "
        "tests only with alone=False, if its result does not depend on how soon it gets a CPU",
    )
    config.addinivalue_line(
        "markers", "deploy: boots a Debian host in a container; `make test-deploy` runs these"
    )


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip kernel tests without eBPF, with the reason; end the run if SENSOR_REQUIRE_KERNEL forbids that."""
    marked = [item for item in items if item.get_closest_marker("kernel")]
    if not marked:
        return
    for item in marked:
        if all(marker.kwargs.get("alone", True) for marker in item.iter_markers("kernel")):
            item.add_marker(pytest.mark.xdist_group("kernel"))  # one at a time: they share CPUs
    reason = _why_no_kernel()
    if reason is None:
        return
    if os.environ.get("SENSOR_REQUIRE_KERNEL") == "1":
        pytest.exit(f"SENSOR_REQUIRE_KERNEL=1, and the kernel cannot be used: {reason}", returncode=1)
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=f"no eBPF here: {reason}"))


@pytest.fixture(autouse=True)
def _no_foreign_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the tests' own variable, which is no setting, from the commands they run."""
    monkeypatch.delenv("SENSOR_REQUIRE_KERNEL", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _compiled_rules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Cache compiled rules for the session, so that each test can use those of an earlier one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def few_rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a dozen of our own rules; compiling all of them takes seconds."""
    directory = tmp_path_factory.mktemp("few-rules")
    for file in BUNDLED_RULES.glob("*.json"):
        [(key, content)] = json.loads(file.read_text()).items()
        chosen = {rule_id: rule for rule_id, rule in content["rules"].items() if int(rule_id) in FEW}
        (directory / file.name).write_text(json.dumps({key: {"rules": chosen}}))
    return directory


@pytest.fixture
def enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every search come to its end; on a busy host one in a million is cut."""
    for module in (budget, locate):
        monkeypatch.setattr(module, "PAYLOAD_NS", 10**12)


@pytest.fixture
def use_few_rules(few_rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sensors that the test starts use `few_rules`, unless flags name others."""
    monkeypatch.setenv("SENSOR_RULES", str(few_rules))


@pytest.fixture
def without_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sensors that the test starts keep matches alone, as it is about these."""
    monkeypatch.setenv("SENSOR_CONTEXT", "off")


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """Run the test in its own network namespace with a silent veth pair; yield the names of its ends."""
    with private_network():
        veth_pair("mirror", "source")
        yield "mirror", "source"
