"""Interfaces of pcapng files: link type, snaplen, and how to compute times. Runs in ``sensor read``."""

from __future__ import annotations

import struct
from collections.abc import Iterator

END_OF_OPTIONS = 0
IF_TSRESOL = 9
IF_TSOFFSET = 14
OPTIONS_START = 8
OPTION_HEADER_BYTES = 4
SECOND_NS_EXPONENT = 9
LONGEST_TICKS_EXPONENT = 19
"""Powers of ten up to this one are less than 2 ** 64."""


def interface_values(body: memoryview, order: str) -> tuple[int, ...]:
    """Return the values of an Interface Description Block, as `sensor.native.blocks.INTERFACE` has them.

    ``body`` is the block without type and lengths, 8 bytes or more. Ticks are microseconds unless an option
    says otherwise. If an option is repeated, the first one counts, as in Wireshark. An option of the
    wrong length is ignored.
    """
    linktype, snaplen = struct.unpack_from(f"{order}HxxI", body)
    resolution, offset_s = 6, 0
    found: dict[int, bytes] = {}
    for code, value in _options(body[OPTIONS_START:], order):
        if code in (IF_TSRESOL, IF_TSOFFSET):
            found.setdefault(code, bytes(value))
    if len(found.get(IF_TSRESOL, b"")) == 1:
        resolution = found[IF_TSRESOL][0]
    if len(found.get(IF_TSOFFSET, b"")) == 8:
        (offset_s,) = struct.unpack(f"{order}q", found[IF_TSOFFSET])
    factor, divisor, shift = _conversion(resolution)
    return factor, divisor, offset_s, shift, snaplen, linktype


def _options(options: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield code and value of each option, up to the end or to one that does not fit."""
    position = 0
    while position + OPTION_HEADER_BYTES <= len(options):
        code, length = struct.unpack_from(f"{order}HH", options, position)
        position += OPTION_HEADER_BYTES
        if code == END_OF_OPTIONS or position + length > len(options):
            return
        yield code, options[position : position + length]
        position += length + 3 & ~3


def _conversion(resolution: int) -> tuple[int, int, int]:
    """Return factor, divisor and shift: ticks are ``(ticks * factor >> shift) // divisor`` nanoseconds.

    ``resolution`` is the value of if_tsresol: an exponent of ten, or with the highest bit of two.
    """
    exponent = resolution & 0x7F
    if resolution & 0x80:
        return 10**SECOND_NS_EXPONENT, 1, exponent
    if exponent <= SECOND_NS_EXPONENT:
        return 10 ** (SECOND_NS_EXPONENT - exponent), 1, 0
    if exponent - SECOND_NS_EXPONENT <= LONGEST_TICKS_EXPONENT:
        return 1, 10 ** (exponent - SECOND_NS_EXPONENT), 0
    return 0, 1, 0  # 2 ** 64 ticks are less than a nanosecond
