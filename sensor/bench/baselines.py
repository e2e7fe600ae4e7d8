"""Baselines for the matcher: Python's ``re`` and PCRE2 with its JIT compiler, one rule after the other.

Only rules that apply to a payload are searched, each in the whole payload, so that a baseline does the
same work as the matcher. The cost of calling PCRE2 from Python is measured and subtracted. Runs in
``sensor bench match``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import time
import warnings
from collections.abc import Callable, Sequence

from sensor.model import Rule
from sensor.protocols import TCP

SEARCHES = 20
"""Searches of a payload in each round."""
ROUNDS = 5

Search = Callable[[bytes], object]

_CASELESS, _JIT_COMPLETE = 0x8, 0x1  # pcre2.h


class _Pcre2:
    """Debian's libpcre2-8."""

    def __init__(self, name: str) -> None:
        self._library = library = ctypes.CDLL(name)
        library.pcre2_compile_8.restype = ctypes.c_void_p
        library.pcre2_match_data_create_8.restype = ctypes.c_void_p
        self._match = library.pcre2_match_8
        self._found = ctypes.c_void_p(library.pcre2_match_data_create_8(ctypes.c_uint32(1), None))
        self.nothing = self.compile("$a")
        """Search that fails at once: its cost is that of the call."""

    def compile(self, regex: str) -> Search:
        """Compile an expression to machine code, with the flags ly_probe uses.

        Raises:
            ValueError: PCRE2 rejects the expression.
        """
        error, offset, text = ctypes.c_int(), ctypes.c_size_t(), regex.encode()
        code = self._library.pcre2_compile_8(
            text, ctypes.c_size_t(len(text)), ctypes.c_uint32(_CASELESS),
            ctypes.byref(error), ctypes.byref(offset), None,
        )  # fmt: skip
        if not code:
            raise ValueError(regex)
        self._library.pcre2_jit_compile_8(ctypes.c_void_p(code), ctypes.c_uint32(_JIT_COMPLETE))
        pointer, match, found, none = ctypes.c_void_p(code), self._match, self._found, ctypes.c_size_t(0)
        options = ctypes.c_uint32(0)

        def search(text: bytes) -> object:
            return match(pointer, text, ctypes.c_size_t(len(text)), none, options, found, None)

        return search


class Baselines:
    """Both baselines, with a set of rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        name = ctypes.util.find_library("pcre2-8")
        self._pcre2 = _Pcre2(name) if name else None
        self._re_searches = _compile_all(rules, _compile_re)
        self._pcre2_searches = _compile_all(rules, self._pcre2.compile) if self._pcre2 else []

    def costs_us(self, payload: bytes, *, is_http: bool) -> dict[str, float]:
        """Return the CPU time of each baseline for a payload; PCRE2 is missing if it is not installed."""
        costs = {"re": _least_us(_applicable(self._re_searches, is_http=is_http), payload)}
        if self._pcre2:
            searches = _applicable(self._pcre2_searches, is_http=is_http)
            call_us = _least_us([self._pcre2.nothing] * len(searches), b"")
            costs["pcre2"] = _least_us(searches, payload) - call_us
        return {name: max(round(cost, 1), 0.1) for name, cost in costs.items()}


def _applicable(searches: list[tuple[Rule, Search]], *, is_http: bool) -> list[Search]:
    return [search for rule, search in searches if is_http or not rule.is_http]


def _compile_re(regex: str) -> Search:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a FutureWarning about "[[" in a set
        return re.compile(regex.encode(), re.IGNORECASE).search


def _compile_all(rules: Sequence[Rule], compile_: Callable[[str], Search]) -> list[tuple[Rule, Search]]:
    """Compile the rules for TCP, except the few whose syntax the baseline does not support."""
    found = []
    for rule in rules:
        try:
            if rule.protocol in (None, TCP):
                found.append((rule, compile_(rule.regex)))
        except (ValueError, re.error):
            continue
    return found


def _least_us(searches: Sequence[Search], text: bytes) -> float:
    """Return the least CPU time of several rounds for running every search once over the text."""
    least = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(SEARCHES):
            for search in searches:
                search(text)
        least = min(least, time.process_time() - start)
    return least / SEARCHES * 1e6
