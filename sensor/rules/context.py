"""Choice of the rules whose matches keep their conversation. Used by ``sensor run`` and ``sensor read``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensor.model import Context, Rule


def wants_context(rules: Sequence[Rule], setting: Context) -> NDArray[np.bool_]:
    """Return True for each rule whose matches keep their conversation; ``setting`` is ``context``."""
    return np.array([_wants_context(rule, setting) for rule in rules], np.bool_)


def _wants_context(rule: Rule, setting: Context) -> bool:
    if setting == "off":
        return False
    if rule.context is not None:
        return rule.context
    return setting == "any" or rule.rule_class == "threat"
