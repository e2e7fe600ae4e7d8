"""Sizes of files, flows and frames, drawn from published distributions. Runs in the traffic generator."""

from __future__ import annotations

from bisect import bisect_left
from math import exp
from random import Random

WEB_SEARCH = (
    (0.0, 1_000), (0.15, 6_000), (0.2, 13_000), (0.3, 19_000), (0.4, 33_000), (0.53, 53_000), (0.6, 133_000),
    (0.7, 667_000), (0.8, 1_333_000), (0.9, 3_333_000), (0.97, 6_667_000), (1.0, 20_000_000),
)  # fmt: skip
"""Cumulative shares of the flows of a web search cluster, by their size in bytes.

Alizadeh et al., "Data Center TCP (DCTCP)", SIGCOMM 2010, figure 4, in the steps of the pFabric paper
(SIGCOMM 2013).
"""

SIMPLE_IMIX = ((7, 40), (4, 576), (1, 1500))
"""The simple Internet mix of router tests: frames in a dozen, and their bytes from the IP header on.

Agilent, "The Journal of Internet Test Methodologies", 2007; RFC 6985 describes such mixes.
"""


def by_steps(rng: Random, steps: tuple[tuple[float, int], ...]) -> int:
    """Draw from a distribution given as (cumulative share, value), linear between the steps."""
    drawn = rng.random()
    above = max(1, bisect_left(steps, (drawn, 0)))
    (low, least), (high, most) = steps[above - 1], steps[min(above, len(steps) - 1)]
    return round(least + (most - least) * (drawn - low) / (high - low))


def web_object(rng: Random) -> int:
    """Draw the size of a web object in bytes: lognormal, and Pareto above 133 KB.

    Barford and Crovella, "Generating representative web workloads", SIGMETRICS 1998, table 1.
    """
    if rng.random() < 0.93:
        return min(133_000, round(exp(rng.gauss(9.357, 1.318))))
    return round(133_000 * rng.paretovariate(1.1))


def shared_file(rng: Random) -> int:
    """Draw the size of a file on a desktop computer in bytes: lognormal, median 4 KB, mean about 190 KB.

    Agrawal et al., "A five-year study of file-system metadata", FAST 2007, section 4.2, of the year 2004.
    """
    return round(exp(rng.gauss(8.318, 2.77)))


def flow_frames(rng: Random) -> int:
    """Draw the number of frames of a flow: most flows have few frames, and few flows have most frames.

    Pareto of index 1.2: Crovella and Bestavros, "Self-similarity in World Wide Web traffic", 1997, section 4.
    """
    return round(rng.paretovariate(1.2))
