"""Tables on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns, each as wide as its longest cell."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
