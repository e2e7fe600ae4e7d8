"""Writes packets of evidence to a capture file, for the commands of ``sensor evidence``."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from sensor.cli.output_file import STANDARD_OUTPUT, output_file
from sensor.cli.terminal import print_line
from sensor.errors import EvidenceError
from sensor.evidence.export import Container
from sensor.text import count_of

_CONTAINERS: dict[str, Container] = {".pcap": "pcap", ".pcapng": "pcapng"}


def container_of(file: Path, chosen: Container | None = None) -> Container:
    """Return the format that was chosen, or else that of the file's name; ``-`` stands for standard output.

    Raises:
        click.ClickException: the name tells no format, or standard output is a terminal.
    """
    is_file = file != STANDARD_OUTPUT
    container = chosen or (_CONTAINERS.get(file.suffix) if is_file else "pcap")
    if container is None:
        raise click.BadParameter(f"{file} does not end in .pcap or .pcapng", param_hint="FILE")
    if not is_file and sys.stdout.isatty():
        raise click.UsageError("standard output is a terminal; redirect it, or name a file")
    return container


def write_capture(file: Path, chunks: Iterator[bytes]) -> None:
    """Write what `sensor.evidence.export.encoded` yields, and say how many packets there are.

    Raises:
        EvidenceError: the file cannot be written.
    """
    packets = -1  # the first chunk has none
    try:
        with output_file(file) as output:
            for chunk in chunks:
                output.write(chunk)
                packets += 1
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has enough
            raise
        raise EvidenceError(f"{file} cannot be written: {error.strerror}") from error
    place = file if file != STANDARD_OUTPUT else "standard output"
    print_line(f"{count_of(packets, 'packet')} in {place}", err=True)
