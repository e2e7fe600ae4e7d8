"""PCRE itself: Debian's libpcre3 through ctypes. Rules must match as it does."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

_CASELESS = 1
_STUDY_JIT_COMPILE = 1
_EXTRA_MATCH_LIMIT = 2
_EXTRA_MATCH_LIMIT_RECURSION = 16


class _Extra(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_ulong),
        ("study_data", ctypes.c_void_p),
        ("match_limit", ctypes.c_ulong),
        ("callout_data", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("match_limit_recursion", ctypes.c_ulong),
        ("mark", ctypes.c_void_p),
        ("executable_jit", ctypes.c_void_p),
    ]


def available() -> bool:
    """Return True if libpcre3 is installed."""
    return ctypes.util.find_library("pcre") is not None


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("pcre"))
    library.pcre_compile.restype = ctypes.c_void_p
    library.pcre_compile.argtypes = [
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.POINTER(ctypes.c_int),
        ctypes.c_void_p,
    ]
    library.pcre_study.restype = ctypes.POINTER(_Extra)
    library.pcre_study.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
    library.pcre_free_study.argtypes = [ctypes.POINTER(_Extra)]
    library.pcre_exec.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(_Extra),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_int),
        ctypes.c_int,
    ]
    return library


class PcreError(ValueError):
    """PCRE refuses the pattern."""


class MatchLimitError(Exception):
    """PCRE reached its match limit without a decision."""


class Pcre:
    """One pattern compiled by PCRE with PCRE_CASELESS, as ly_probe does."""

    def __init__(self, pattern: bytes) -> None:
        error, offset = ctypes.c_char_p(), ctypes.c_int()
        self.code = _library().pcre_compile(pattern, _CASELESS, error, offset, None)
        """Address of the compiled pattern."""
        if not self.code:
            raise PcreError((error.value or b"").decode(), offset.value)
        limits = _EXTRA_MATCH_LIMIT | _EXTRA_MATCH_LIMIT_RECURSION
        self._extra = _Extra(flags=limits, match_limit=100_000, match_limit_recursion=8_000)
        self._offsets = (ctypes.c_int * 300)()

    def __del__(self) -> None:
        if self.code:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p).in_dll(_library(), "pcre_free")(self.code)

    def spans(self, text: bytes) -> tuple[tuple[int, int], tuple[int, int] | None] | None:
        """Return the spans of the match and of group 1, each None if there is none."""
        found = _library().pcre_exec(
            self.code, ctypes.byref(self._extra), text, len(text), 0, 0, self._offsets, len(self._offsets)
        )
        if found == -1:
            return None
        if found < 0:
            raise MatchLimitError(found)
        group = (self._offsets[2], self._offsets[3]) if found > 1 and self._offsets[2] >= 0 else None
        return (self._offsets[0], self._offsets[1]), group


class Studied:
    """A pattern compiled further to machine code, which is many times as fast; for loops in C."""

    def __init__(self, pcre: Pcre, match_limit: int) -> None:
        error = ctypes.c_char_p()
        self.extra = _library().pcre_study(pcre.code, _STUDY_JIT_COMPILE, error)
        """PCRE's ``pcre_extra``; null if there is nothing to say about the pattern."""
        if self.extra:
            self.extra.contents.flags |= _EXTRA_MATCH_LIMIT
            self.extra.contents.match_limit = match_limit

    def __del__(self) -> None:
        if self.extra:
            _library().pcre_free_study(self.extra)


def exec_address() -> int:
    """Return the address of ``pcre_exec()``."""
    return ctypes.cast(_library().pcre_exec, ctypes.c_void_p).value or 0
