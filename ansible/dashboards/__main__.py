"""Write the dashboards' JSON into the files of the monitoring role."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import evidence, fleet, throughput

FILES = Path(__file__).parents[1] / "roles" / "monitoring" / "files" / "dashboards"
DASHBOARDS = {"throughput": throughput.make, "evidence": evidence.make, "fleet": fleet.make}


def write(directory: Path) -> None:
    """Write ``<name>.json`` for each dashboard."""
    for name, make in DASHBOARDS.items():
        text = JSONEncoder(sort_keys=True, indent=2).encode(make().build())
        (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FILES)
