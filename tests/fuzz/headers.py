"""Headers: decoding a batch finds what the simple reference finds in each frame, and frames can be shown.

Every frame is also shown as layers (`sensor.dissect`), which must cover it and raise nothing.
"""

from __future__ import annotations

from sensor.model import LinkType
from tests.fuzz.random_frames import random_frame, random_frame_on_link
from tests.fuzz.rounds import Round
from tests.test_decode import disagreements
from tests.test_dissect import check_layers

FRAMES = 12_000
ON_LINKS = 1000
SNAPLENS = (13, 14, 18, 33, 34, 38, 42, 54, 60, 66, 74, 96, 128, 1 << 18)
_SHOWN = 4
"""Every so-many-th frame is shown as layers too."""


def fuzz(one: Round) -> None:
    """Decode random frames of each link type, whole and cut to a snaplen."""
    rng = one.rng
    frames = [(LinkType.ETHERNET, random_frame(rng)) for _ in range(FRAMES)]
    frames += [random_frame_on_link(rng) for _ in range(ON_LINKS)]
    frames += [(rng.choice((*LinkType, 147)), rng.randbytes(rng.randrange(120))) for _ in range(ON_LINKS)]
    for linktype in {linktype for linktype, _ in frames}:
        named = [(frame.hex(), frame) for other, frame in frames if other == linktype]
        for snaplen in (1 << 18, rng.choice(SNAPLENS)):
            for text in disagreements(named, snaplen, linktype):
                one.fault(f"link type {linktype}, snaplen {snaplen}: {text}")
            one.comparisons += len(named)
    for linktype, frame in frames[::_SHOWN]:
        with one.no_other_error(frame_bin=frame):
            check_layers(frame, linktype)
        one.comparisons += 1
