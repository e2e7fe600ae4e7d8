"""A file that a command writes for its user: complete or not at all, and as closed as the evidence is."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sensor.process.regular_file import check_regular, open_regular

STANDARD_OUTPUT = Path("-")


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces what has this name when the block ends without an error.

    The path ``-`` stands for standard output. A new file is not readable by everybody, like the evidence.

    Raises:
        OSError: the file cannot be written, or a link, a directory or a device has its name.
    """
    if path == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    partial = f".{path.name}.{secrets.token_hex(4)}"
    try:
        check_regular(path.name, dir_fd=directory)
        descriptor = open_regular(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as output:
                yield output
            os.replace(partial, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial, dir_fd=directory)
            raise
    finally:
        os.close(directory)
