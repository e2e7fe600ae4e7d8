"""Fixtures for all tests: the kernel, a private network, and the skips that are failures in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sensor.capture.lab import private_network, veth_pair
from sensor.capture.program import Program, check_privileges
from sensor.errors import SensorError
from sensor.rules.plan import pass_all


def _why_no_kernel() -> str | None:
    """Load the program once; why this machine cannot, or None."""
    try:
        check_privileges()
        Program(pass_all()).close()
    except SensorError as error:
        return str(error)
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of tests that load eBPF."""
    config.addinivalue_line("markers", "kernel: loads the XDP program; skips where eBPF cannot be loaded")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip kernel tests with the reason, or fail the run where SENSOR_REQUIRE_KERNEL forbids skipping."""
    marked = [item for item in items if item.get_closest_marker("kernel")]
    if not marked:
        return
    reason = _why_no_kernel()
    if reason is None:
        return
    if os.environ.get("SENSOR_REQUIRE_KERNEL") == "1":
        pytest.exit(f"SENSOR_REQUIRE_KERNEL=1, and the kernel cannot be used: {reason}", returncode=1)
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=f"no eBPF here: {reason}"))


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """Move the test into a network of its own with a silent veth pair; the names of its two ends."""
    with private_network():
        veth_pair("mirror", "source")
        yield "mirror", "source"
