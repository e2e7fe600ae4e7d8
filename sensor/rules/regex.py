"""The regular expressions that rules may use. Runs when rules are loaded or checked."""

from __future__ import annotations

import hyperscan

_FLAGS = hyperscan.HS_FLAG_CASELESS | hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_PREFILTER


class RegexError(ValueError):
    """A regex that cannot be used; the message completes "expected …"."""


def check(pattern: bytes) -> None:
    """Raise `RegexError` where ``pattern`` is faulty, or may match nothing at all."""
    try:
        hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK).compile(
            expressions=[pattern], ids=[0], flags=[_FLAGS]
        )
    except hyperscan.error as error:
        raise RegexError(f"a regular expression: {error}") from None
