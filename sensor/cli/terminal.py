"""Standard output of all commands: no text reaches a terminal without having been escaped here."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import IO, Any

import click

from sensor.text import shown, to_json


def print_line(text: object = "", *, beginning: str = "", err: bool = False) -> None:
    """Print one line. What a terminal would execute is escaped, except in ``beginning``."""
    click.echo(beginning + shown(str(text)), err=err)


def print_lines(lines: Iterable[object], *, err: bool = False) -> None:
    """Print lines, all at once."""
    click.echo("\n".join(shown(str(line)) for line in lines), err=err)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON in printable ASCII."""
    click.echo(to_json(value, indent=indent))


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns, each as wide as its longest cell."""
    table = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def print_usage_error(error: click.ClickException) -> None:
    """Print what is wrong with the command line, on standard error. It may repeat names of files."""
    text = StringIO()
    error.show(text)
    print_lines(text.getvalue().removesuffix("\n").split("\n"), err=True)


def is_discarded(stream: IO[str]) -> bool:
    """Return True if a stream goes to /dev/null, so that nothing needs to be printed."""
    with suppress(OSError, ValueError):  # a stream without a file, as in tests
        status = os.fstat(stream.fileno())
        return stat.S_ISCHR(status.st_mode) and status.st_rdev == Path(os.devnull).stat().st_rdev
    return False


def print_escaped(text: str) -> None:
    """Print lines that are escaped already."""
    click.echo(text, nl=False)
