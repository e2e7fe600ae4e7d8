"""Warnings about files whose frames could not be decoded, so not matched. Runs in ``sensor read``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from sensor.files.capture_file import CaptureFile
from sensor.files.link_type_names import link_type_text
from sensor.model import FrameBatch, LinkType

log = logging.getLogger(__name__)

DECODED = frozenset(LinkType)


class FrameCounts(Protocol):
    """The counters of the pipeline that the frames go through."""

    read: int
    undecodable: int
    malformed: int
    """Those of the undecodable frames that contradict themselves or are cut short."""


def batches_of(file: CaptureFile, pipeline: FrameCounts) -> Iterator[FrameBatch]:
    """Yield the batches of a file, each of which goes through the pipeline; log what could not be decoded.

    One warning names each link type that is not decoded. Another says that few or none of the other frames
    could be decoded, and why.

    Raises:
        CaptureFileError: the file is damaged or cut short. The frames before that are yielded first.
    """
    read, undecodable, malformed = pipeline.read, pipeline.undecodable, pipeline.malformed
    foreign: Counter[int] = Counter()
    try:
        for batch in file.batches():
            if batch.linktype not in DECODED:
                foreign[batch.linktype] += len(batch)
            yield batch
    finally:
        frames = pipeline.read - read
        _warn_of_link_types(file, foreign, frames)
        others = frames - foreign.total()
        lost, malformed = pipeline.undecodable - undecodable - foreign.total(), pipeline.malformed - malformed
        if 2 * lost > others:
            log.warning(
                "%s of %s could be decoded and matched (undecodable: %d malformed or cut short, "
                "%d of unknown protocols); see why: sensor rules explain %s",
                f"only {others - lost} of {others} frames" if lost < others else "no frame",
                file.path,
                malformed,
                lost - malformed,
                file.path,
            )


def _warn_of_link_types(file: CaptureFile, foreign: Counter[int], frames: int) -> None:
    for linktype, count in foreign.items():
        name = link_type_text(linktype)
        if count == frames:
            log.warning("link type %s is not decoded; no frame of %s was matched", name, file.path)
        else:
            log.warning(
                "link type %s is not decoded; %d of %d frames of %s were not matched",
                name,
                count,
                frames,
                file.path,
            )
