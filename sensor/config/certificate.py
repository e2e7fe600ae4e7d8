"""The end of a certificate's validity. Runs in the supervisor and in `sensor doctor`, without a TLS library.

The form of a certificate is that of RFC 5280, section 4.1, in DER (X.690); that of the file is RFC 7468.
"""

from __future__ import annotations

import binascii
import os
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

MOST_BYTES = 1 << 20
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_VERSION, _UTC_TIME = 0xA0, 0x17


def expiry_s(path: Path) -> float:
    """Return when the first of the certificates in a PEM file expires, in seconds since the epoch.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no certificate.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would make us wait
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        text = os.read(descriptor, MOST_BYTES)
    finally:
        os.close(descriptor)
    found = [_not_after_s(binascii.a2b_base64(body)) for body in _PEM.findall(text)]
    if not found:
        raise ValueError("no certificate in PEM form")
    return min(found)


def _not_after_s(certificate: bytes) -> float:
    try:
        [(_, content), *_] = _values(certificate)
        [(_, signed), *_] = _values(content)
        fields = [field for field in _values(signed) if field[0] != _VERSION]
        _serial_number, _signature, _issuer, (_, validity), *_ = fields
        _not_before, (tag, text) = _values(validity)
    except (IndexError, ValueError) as error:
        raise ValueError("a damaged certificate") from error
    digits = text.decode("ascii")
    if tag == _UTC_TIME:  # its two digits of a year stand for 1950 to 2049
        digits = ("19" if digits >= "50" else "20") + digits
    month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(4, 14, 2))
    return datetime(int(digits[:4]), month, day, hour, minute, second, tzinfo=UTC).timestamp()


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each value in DER."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            width = length & 0x7F
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
        if at + length > len(data):
            raise ValueError("cut off")
        yield tag, data[at : at + length]
        at += length
