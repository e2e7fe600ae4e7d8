"""Opens the index of evidence, for the commands of ``sensor evidence``."""

from __future__ import annotations

from pathlib import Path

from sensor.cli.terminal import print_line
from sensor.config.directories import directory_fault
from sensor.config.loading import load_settings
from sensor.errors import EvidenceError
from sensor.evidence.search import EvidenceSearch


def evidence_index(evidence: Path | None, config: Path | None) -> EvidenceSearch:
    """Return the index of the evidence directory that flags or settings name.

    Raises:
        EvidenceError: the directory does not exist or cannot be read.
    """
    directory = load_settings({"evidence": evidence}, config).evidence
    fault = directory_fault(directory)
    if fault:
        raise EvidenceError(f"{directory}: {fault}; name the evidence directory with --evidence")
    return EvidenceSearch(directory)


def warn_of_gaps(index: EvidenceSearch) -> None:
    """Say on standard error that evidence is not found, if some of it is not in the index."""
    found = index.status()["index"]
    if missing := found["total"] - found["done"]:
        print_line(
            f"{missing:,} of {found['total']:,} bytes of evidence are not in the index and not found; "
            "a running sensor adds them, otherwise: sensor evidence reindex",
            err=True,
        )
