"""Views of one payload: its parts, raw and percent-decoded, with their offsets in the payload.

Runs in the capture workers and in ``sensor read``, for payloads that may match.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sensor.rules.engine.http_payload import head_end, raw_offsets, url_decode

Part = Literal["total", "head", "body"]


class View:
    """A part of a payload, or the decoded text of a part."""

    def __init__(self, text: bytes, offset: int = 0, encoded: View | None = None) -> None:
        """``offset`` is where the text starts in the payload; ``encoded`` is the view it was decoded from."""
        self.text = text
        self._offset = offset
        self._encoded = encoded

    def decoded(self) -> View:
        """Return this view percent-decoded once more."""
        return View(url_decode(self.text), encoded=self)

    def payload_span(self, start: int, end: int) -> tuple[int, int]:
        """Return the offsets in the payload of a span of the text."""
        if self._encoded is None:
            return self._offset + start, self._offset + end
        offsets = self._encoded._decoded_offsets
        return self._encoded.payload_span(int(offsets[start]), int(offsets[end]))

    @cached_property
    def _decoded_offsets(self) -> NDArray[np.int64]:
        return raw_offsets(self.text)


class Views:
    """The parts of one payload, each made on first use."""

    def __init__(self, payload: bytes) -> None:
        self._views: dict[Part, View] = {"total": View(payload)}

    def __getitem__(self, part: Part) -> View:
        if part not in self._views:
            self._views[part] = self._make(part)
        return self._views[part]

    def _make(self, part: Part) -> View:
        payload = self._views["total"].text
        end = head_end(payload)
        return View(payload[:end]) if part == "head" else View(payload[end + 4 :], end + 4)


class DecodedViews(Views):
    """The parts of a payload, percent-decoded once more."""

    def __init__(self, encoded: Views) -> None:
        self._encoded = encoded
        self._views = {"total": encoded["total"].decoded()}

    def _make(self, part: Part) -> View:
        return self._encoded[part].decoded()
