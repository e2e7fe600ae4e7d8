"""How large things are and how often, by published measurements. Runs in the generator."""

from __future__ import annotations

from bisect import bisect_left
from math import exp
from random import Random

WEB_SEARCH = (
    (0.0, 1_000), (0.15, 6_000), (0.2, 13_000), (0.3, 19_000), (0.4, 33_000), (0.53, 53_000), (0.6, 133_000),
    (0.7, 667_000), (0.8, 1_333_000), (0.9, 3_333_000), (0.97, 6_667_000), (1.0, 20_000_000),
)  # fmt: skip
"""Share of the flows of a web search cluster that have at most so many bytes: Alizadeh et al., "Data Center
TCP (DCTCP)", SIGCOMM 2010, figure 4, in the steps of the pFabric paper (SIGCOMM 2013)."""

SIMPLE_IMIX = ((7, 40), (4, 576), (1, 1500))
"""Frames of a dozen that have so many bytes from IP on: the simple Internet mix that testers of routers use
(Agilent, "The Journal of Internet Test Methodologies", 2007; RFC 6985 writes such mixes down)."""


def by_steps(rng: Random, steps: tuple[tuple[float, int], ...]) -> int:
    """Draw from a distribution given as (share that is at most, value), straight lines between."""
    drawn = rng.random()
    above = max(1, bisect_left(steps, (drawn, 0)))
    (low, least), (high, most) = steps[above - 1], steps[min(above, len(steps) - 1)]
    return round(least + (most - least) * (drawn - low) / (high - low))


def web_object(rng: Random) -> int:
    """Draw the bytes of a web object: lognormal, and Pareto above 133 KB.

    Barford and Crovella, "Generating representative web workloads", SIGMETRICS 1998, table 1.
    """
    if rng.random() < 0.93:
        return min(133_000, round(exp(rng.gauss(9.357, 1.318))))
    return round(133_000 * rng.paretovariate(1.1))


def shared_file(rng: Random) -> int:
    """Draw the bytes of a file on a desk's disk: lognormal, median 4 KB, mean about 190 KB.

    Agrawal et al., "A five-year study of file-system metadata", FAST 2007, section 4.2 (of 2004).
    """
    return round(exp(rng.gauss(8.318, 2.77)))


def flow_frames(rng: Random) -> int:
    """Draw the frames of a flow: most have few, few have most.

    Pareto of index 1.2: Crovella and Bestavros, "Self-similarity in World Wide Web traffic", 1997, section 4.
    """
    return round(rng.paretovariate(1.2))
