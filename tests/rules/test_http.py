"""Which payloads are HTTP, and percent-decoding."""

from __future__ import annotations

from itertools import pairwise
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.rules.engine.http_payload import LY_PROBE, RFC9110, head_end, raw_offsets, url_decode

HTTP = [
    (b"GET / HTTP/1.1\r\n", True, True),
    (b"POST /form HTTP/1.1\r\n", True, True),
    (b"HTTP/1.0 200 OK\r\n", True, True),
    (b"HTTP/1x whatever", True, True),
    (b"GET http://a.example/ HTTP/1.1\r\n", False, True),
    (b"CONNECT a.example:443 HTTP/1.1\r\n", False, True),
    (b"OPTIONS * HTTP/1.1\r\n", False, True),
    (b"HEAD / HTTP/1.1\r\n", False, True),
    (b"PUT /x HTTP/1.1\r\n", False, True),
    (b"DELETE /x HTTP/1.1\r\n", False, True),
    (b"TRACE /x HTTP/1.1\r\n", False, True),
    (b"PATCH /x HTTP/1.1\r\n", False, True),
    (b"BREW /pot HTCPCP/1.0\r\n", False, False),
    (b"get / http/1.1\r\n", False, False),
    (b"GETS / HTTP/1.1\r\n", False, False),
    (b" GET / HTTP/1.1\r\n", False, False),
    (b"HTTP/2.0 200 OK\r\n", False, False),
    (b"GET / 4567", False, False),
    (b"GET / 45678", True, True),
    (b"", False, False),
]


@pytest.mark.parametrize(("payload", "ly_probe", "rfc9110"), HTTP)
def test_http_is_recognised(payload: bytes, ly_probe: bool, rfc9110: bool) -> None:
    """ly_probe knows two methods with a path; RFC 9110 has eight methods with any target."""
    assert (LY_PROBE.matches(payload), RFC9110.matches(payload)) == (ly_probe, rfc9110)


def test_many_payloads_at_once_are_recognised_like_one() -> None:
    """A batch gives the same answers as single payloads, up to the end of the buffer."""
    payloads = [payload for payload, *_ in HTTP]
    end = np.cumsum([len(payload) for payload in payloads])
    start = end - [len(payload) for payload in payloads]
    buffer = np.frombuffer(b"".join(payloads), np.uint8)
    for reading in (LY_PROBE, RFC9110):
        found = reading.matches_each(buffer, start, end)
        assert found.tolist() == [reading.matches(payload) for payload in payloads]


def test_head_ends_at_the_first_blank_line() -> None:
    """Without a blank line, the whole payload is the head."""
    assert head_end(b"GET / HTTP/1.1\r\n\r\nbody\r\n\r\n") == 14
    assert head_end(b"GET / HTTP/1.1\r\n") == 16


encoded = st.lists(
    st.sampled_from([b"%41", b"%2f", b"%2F", b"%", b"%%", b"%4", b"%zz", b"+", b"a", b"\0", b"%25", b"%u00"])
)


@given(encoded.map(b"".join), st.booleans())
def test_url_decode(text: bytes, many: bool) -> None:
    """Valid escapes are decoded, nothing else is, and their number does not matter."""
    text = text * 40 if many else text
    assert url_decode(text) == unquote_to_bytes(text.replace(b"+", b" "))


@given(encoded.map(b"".join))
def test_raw_offsets(text: bytes) -> None:
    """Each decoded byte comes from the raw bytes at its offset."""
    decoded, offsets = url_decode(text), raw_offsets(text).tolist()
    assert len(offsets) == len(decoded) + 1
    assert offsets[-1] == len(text)
    pieces = [text[start:end] for start, end in pairwise(offsets)]
    assert b"".join(map(url_decode, pieces)) == decoded
