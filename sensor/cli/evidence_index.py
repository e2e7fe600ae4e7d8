"""Opens the index of evidence, for the commands of ``sensor evidence``."""

from __future__ import annotations

from pathlib import Path

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
