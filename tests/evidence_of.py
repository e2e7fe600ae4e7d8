"""Evidence as objects, for tests that look at single items."""

from __future__ import annotations

from sensor.evidence.explain_block import explained
from sensor.model import Evidence, FrameBatch
from sensor.pipeline import Pipeline


def evidence_of(pipeline: Pipeline, batch: FrameBatch) -> list[Evidence]:
    """Process a batch and return its evidence, with located matches."""
    return list(explained(pipeline.process(batch), pipeline.matcher.http))
