"""Recovery of evidence files that a killed writer left open, perhaps with a torn last record.

Runs once when the process that writes evidence starts, before capture begins.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from sensor.evidence.evidence_file import EvidenceFile
from sensor.evidence.file_name import parse_name

log = logging.getLogger(__name__)


class Recovery(NamedTuple):
    """The result for one file that was left open."""

    path: Path
    """The final name, which the file has now; a file without records was removed."""
    records: int
    """Number of whole records; all of them are kept."""
    cut: int
    """Bytes of a torn record or file header that were cut off after them."""

    def __str__(self) -> str:
        return (
            f"{self.path} was left open: {self.records} records kept,"
            f" {self.cut} bytes of an incomplete record cut off"
        )


def recover(directory: Path) -> list[Recovery]:
    """Give every ``.temp`` file in the directory its final name, with only whole records.

    A file that is not evidence, is damaged before its end, or cannot be renamed is left as it is, with a line
    in the log. A later frame of the same five minutes opens a finished file again.
    """
    recoveries: list[Recovery] = []
    for temp in sorted(directory.glob("*.temp")):
        name = parse_name(temp.name)
        file = EvidenceFile(temp.with_suffix(""), name.linktype if name else -1)
        try:
            if not name or not file.open():
                log.warning(
                    "%s is left as it is: it is foreign, damaged, or also exists under its final name", temp
                )
                continue
            file.finish()
        except OSError as error:
            log.error("%s cannot be recovered: %s", temp, error.strerror)  # noqa: TRY400 - a traceback adds nothing
            continue
        recoveries.append(Recovery(file.path, file.records, file.cut))
    return recoveries
