"""Layers of a frame and their fields, as `dissect` returns them. Runs where `dissect` runs."""

from __future__ import annotations

from typing import NamedTuple


class HeaderField(NamedTuple):
    """A value and its bytes, as offsets in the frame. Fields may share bytes, as flags do."""

    name: str
    value: str
    start: int
    end: int


class HeaderLayer(NamedTuple):
    """A header, or data without a known header; offsets in the frame."""

    name: str
    start: int
    end: int
    fields: list[HeaderField]
