"""The rules that evidence refers to, numbered for another process.

A block refers to rules by their position in a rule set, which may have thousands. The receiver needs those
that match. So the sender numbers rules as they are first used, and defines each before it sends a block that
refers to it. Used between the supervisor and the processes that it gives evidence to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sensor.evidence.block import EvidenceBlock
from sensor.evidence.message import MalformedMessageError, ReceivedMessage
from sensor.evidence.rule_codec import decode_rules, encode_in_parts
from sensor.model import Rule

_PART_BYTES = 60_000
"""Maximum size of the definitions in one message, unless one rule alone is larger."""


class RuleNumbers:
    """The sending side of the rules: numbers them in the order in which they are first used."""

    def __init__(self) -> None:
        self._rule_set: Sequence[Rule] = ()
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)  # by position in the rule set; -1: none yet
        self._count = 0

    def definitions(self, block: EvidenceBlock) -> Iterator[tuple[int, bytes]]:
        """Yield the rules that the receiver has to know first, as JSON, each part with its first number.

        When the caller asks for the next part, it has sent the last one.
        """
        if block.rule_set is not self._rule_set:
            self._rule_set, self._count = block.rule_set, 0
            self._numbers = np.full(len(block.rule_set), -1, np.int64)
        used = np.unique(block.rules[self._numbers[block.rules] < 0]).tolist()
        for rules, text in encode_in_parts([self._rule_set[position] for position in used], _PART_BYTES):
            yield self._count, text
            sent, used = used[:rules], used[rules:]
            self._numbers[sent] = np.arange(self._count, self._count + rules)
            self._count += rules

    def numbered(self, block: EvidenceBlock) -> EvidenceBlock:
        """Return a block whose matches refer to the numbers; all of its rules must be defined."""
        return replace(block, rules=self._numbers[block.rules].astype(np.uint32))


class RuleTable:
    """The receiving side of the rules."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def define(self, message: ReceivedMessage) -> None:
        """Add the rules in a message, whose number is that of the first; with 0, all others are forgotten.

        Raises:
            MalformedMessageError: they are not rules, or not those that come next.
        """
        rules = decode_rules(message.text)
        if message.header.number == 0:
            self.rules = []
        if message.header.number != len(self.rules):
            raise MalformedMessageError(f"rule {message.header.number} after rule {len(self.rules)}")
        self.rules = [*self.rules, *rules]
