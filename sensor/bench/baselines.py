"""The rivals of the matcher: every rule for itself, by Python's ``re`` and by PCRE2 with its JIT compiler.

Only rules that apply to a payload are tried on it, and each on all of it: a rival has no more to do
than the matcher. What a call of PCRE2 from Python costs beside the match is measured and left out.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import time
import warnings
from collections.abc import Callable, Sequence

from sensor.model import Rule

TEXTS = 20
"""Times that a payload is searched in a round."""
ROUNDS = 5

Search = Callable[[bytes], object]

_CASELESS, _JIT_COMPLETE = 0x8, 0x1  # pcre2.h
_TCP = 6


class _Pcre2:
    """Debian's libpcre2-8."""

    def __init__(self, name: str) -> None:
        self._library = library = ctypes.CDLL(name)
        library.pcre2_compile_8.restype = ctypes.c_void_p
        library.pcre2_match_data_create_8.restype = ctypes.c_void_p
        self._match = library.pcre2_match_8
        self._found = ctypes.c_void_p(library.pcre2_match_data_create_8(ctypes.c_uint32(1), None))
        self.nothing = self.compiled("$a")
        """Finds out at once: what is left is the call."""

    def compiled(self, regex: str) -> Search:
        """Compile an expression as ly_probe does, and to machine code; `ValueError` where PCRE2 refuses."""
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
    """Both, with these rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        name = ctypes.util.find_library("pcre2-8")
        self._pcre2 = _Pcre2(name) if name else None
        self._with_re = _all(rules, _with_re)
        self._with_pcre2 = _all(rules, self._pcre2.compiled) if self._pcre2 else []

    def costs_us(self, payload: bytes, *, is_http: bool) -> dict[str, float]:
        """Return the CPU time that each takes for a payload; of PCRE2 nothing where it is not installed."""
        costs = {"re": _least_us(_chosen(self._with_re, is_http=is_http), payload)}
        if self._pcre2:
            chosen = _chosen(self._with_pcre2, is_http=is_http)
            call_us = _least_us([self._pcre2.nothing] * len(chosen), b"")
            costs["pcre2"] = _least_us(chosen, payload) - call_us
        return {name: max(round(cost, 1), 0.1) for name, cost in costs.items()}


def _chosen(searches: list[tuple[Rule, Search]], *, is_http: bool) -> list[Search]:
    return [search for rule, search in searches if is_http or not rule.is_http]


def _with_re(regex: str) -> Search:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what may mean something else some day
        return re.compile(regex.encode(), re.IGNORECASE).search


def _all(rules: Sequence[Rule], compiled: Callable[[str], Search]) -> list[tuple[Rule, Search]]:
    """Compile the rules for TCP, but for the few that are written in a way the rival does not know."""
    found = []
    for rule in rules:
        try:
            if rule.protocol in (None, _TCP):
                found.append((rule, compiled(rule.regex)))
        except (ValueError, re.error):
            continue
    return found


def _least_us(searches: Sequence[Search], text: bytes) -> float:
    """Return the least CPU time of several rounds in which each searches the text."""
    least = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(TEXTS):
            for search in searches:
                search(text)
        least = min(least, time.process_time() - start)
    return least / TEXTS * 1e6
