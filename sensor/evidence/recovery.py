"""What a writer that was killed left behind: files still called ``.temp``, perhaps with a torn last record.

Runs once at the start of the process that writes evidence, before anything is captured.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from sensor.evidence.evidence_file import EVIDENCE_NAME, EvidenceFile
from sensor.model import LinkType

log = logging.getLogger(__name__)


class Recovery(NamedTuple):
    """A file that was left open."""

    path: Path
    """Its final name, which it has now; with no record in it, it was removed."""
    records: int
    """Whole records, all of which are kept."""
    cut: int
    """Bytes of a torn record, or of a torn file header, that were cut off behind them."""

    def __str__(self) -> str:
        return (
            f"{self.path} was left open: {self.records} records kept, {self.cut} torn bytes cut off its end"
        )


def recover(directory: Path) -> list[Recovery]:
    """Finish every ``.temp`` file in the directory; the first frame of the same five minutes opens it again.

    What is not an evidence file, is damaged before its end, or cannot be finished, is left as it is
    with a line in the log.
    """
    recoveries: list[Recovery] = []
    for temp in sorted(directory.glob("*.temp")):
        name = EVIDENCE_NAME.fullmatch(temp.name)
        file = EvidenceFile(temp.with_suffix(""), int(name["linktype"] or LinkType.ETHERNET) if name else -1)
        try:
            if not name or not file.open():
                log.warning("%s is foreign, damaged, or finished under its other name: left as it is", temp)
                continue
            file.finish()
        except OSError as error:
            log.error("%s cannot be recovered: %s", temp, error.strerror)  # noqa: TRY400 - the line says it all
            continue
        recoveries.append(Recovery(file.path, file.records, file.cut))
    return recoveries
