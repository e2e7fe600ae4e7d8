"""The units restrict their services, as rated by ``systemd-analyze security``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "ansible" / "roles" / "sensor" / "files"


# Of sensor@, 4 tenths are for asking about the clock: adjtimex(2), and no ProtectClock=, which forbids that.
@pytest.mark.parametrize(
    ("unit", "most"), [("sensor@.service", 28), ("sensor-api.service", 12), ("sensor-hold@.service", 12)]
)
def test_exposure_is_low(unit: str, most: int) -> None:
    """The exposure, in tenths, stays below a limit; a service without restrictions has 96."""
    judge = ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", "--no-pager"]
    done = subprocess.run([*judge, str(UNITS / unit)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
