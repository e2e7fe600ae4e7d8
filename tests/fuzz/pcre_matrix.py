"""PCRE on many expressions and texts at once: the loop is in C, because the number of comparisons counts."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.rules.pcre_oracle import Pcre, Studied, exec_address

SOURCE = Path(__file__).with_suffix(".c")
MATCH_LIMIT = 20_000
"""Steps of PCRE per text; some expressions would need more than the age of the universe."""


@cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "matrix.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", target, SOURCE], check=True)
        library = ctypes.CDLL(str(target))
    library.match_matrix.restype = None
    return library


def match_matrix(expressions: Sequence[Pcre], texts: Sequence[bytes]) -> NDArray[np.int8]:
    """Return 1 where an expression matches a text, 0 where not, and -1 where PCRE gave up.

    Shape (expressions, texts).
    """
    found = np.zeros((len(expressions), len(texts)), np.int8)
    if not found.size:
        return found
    data = b"".join(texts)
    end = np.cumsum([len(text) for text in texts], dtype=np.int64)
    start = end - np.array([len(text) for text in texts], np.int64)
    studied = [Studied(one, MATCH_LIMIT) for one in expressions]
    codes = (ctypes.c_void_p * len(expressions))(*(one.code for one in expressions))
    extras = (ctypes.c_void_p * len(expressions))(
        *(ctypes.cast(one.extra, ctypes.c_void_p) for one in studied)
    )
    _library().match_matrix(
        ctypes.c_void_p(exec_address()),
        codes,
        extras,
        ctypes.c_int64(len(expressions)),
        ctypes.c_char_p(data),
        ctypes.c_void_p(start.ctypes.data),
        ctypes.c_void_p(end.ctypes.data),
        ctypes.c_int64(len(texts)),
        ctypes.c_void_p(found.ctypes.data),
    )
    return found
