"""Writes the tables of settings in the documents: ``python -m sensor.config``, run by ``make settings``.

Needs a checkout of the repository.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

from sensor.config.table import role_options, settings_table

_ROOT = Path(__file__).parents[2]
PAGE = _ROOT / "docs" / "settings.md"
ROLE = _ROOT / "ansible" / "roles" / "sensor" / "meta" / "argument_specs.yml"
_BEGIN, _END = "written by make settings", "end of what make settings writes"


def with_block(text: str, block: str) -> str:
    """Return the text with the block between the two lines that mark it."""
    lines = text.splitlines(keepends=True)
    begin = next(number for number, line in enumerate(lines) if _BEGIN in line)
    end = next(number for number, line in enumerate(lines) if _END in line)
    return "".join([*lines[: begin + 1], f"{block}\n", *lines[end:]])


def main() -> None:
    """Write the table of ``docs/settings.md`` and the settings of the Ansible role."""
    for path, block in ((PAGE, settings_table()), (ROLE, indent(role_options(), " " * 10))):
        path.write_text(with_block(path.read_text(encoding="utf-8"), block), encoding="utf-8")


if __name__ == "__main__":
    main()
