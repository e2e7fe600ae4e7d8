"""Rules searched for one by one with RE2, in each text that they must see: slow, and simple."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import re2

from sensor.model import Rule
from sensor.rules.engine.expression import expression
from sensor.rules.engine.http_payload import RFC9110, HttpReading, head_end
from sensor.rules.regex.render import RE2_REPEAT_LIMIT, Renderer


class Naive:
    """One rule, searched for alone in each text that it must see."""

    def __init__(self, rule: Rule, http: HttpReading = RFC9110) -> None:
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        self.rule = rule
        self._http = http
        self._regex = re2.compile(
            Renderer(RE2_REPEAT_LIMIT).render(expression(rule.regex).tree).encode(), options
        )

    def matches(self, payload: bytes, protocol: int, sport: int = 80, dport: int = 5000) -> bool:
        """Return True if the rule matches a packet with these ports."""
        rule = self.rule
        if rule.protocol not in (None, protocol) or rule.port not in (0, sport, dport):
            return False
        return any(self._regex.search(text) is not None for text in self._texts(payload))

    def _texts(self, payload: bytes) -> Iterator[bytes]:
        if not self.rule.is_http:
            yield payload
        elif self._http.matches(payload):
            end = head_end(payload)
            text = {"total": payload, "head": payload[:end], "body": payload[end + 4 :]}[self.rule.part]
            yield text
            for _ in range(2 if self.rule.decode else 0):
                text = unquote_to_bytes(text.replace(b"+", b" "))
                yield text
