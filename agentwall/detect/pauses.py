# SPDX-License-Identifier: Apache-2.0
"""How regular a series of times is: what tells a timer from chance. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean, pstdev

NS_PER_S = 1_000_000_000


def pauses_s(times_ns: Sequence[int]) -> list[float]:
    """Return the seconds between each two neighbours of *times_ns*, which rise."""
    return [(after - before) / NS_PER_S for before, after in pairwise(times_ns)]


def irregularity(pauses: Sequence[float]) -> float:
    """Return the coefficient of variation of *pauses*: 0 of a timer, about 1 of pure chance.

    0 as well for fewer than two pauses, of which nothing can be said.
    """
    mean = fmean(pauses) if len(pauses) > 1 else 0.0
    return pstdev(pauses) / mean if mean > 0 else 0.0


def beats(times_ns: Iterable[int], apart_ns: int) -> list[int]:
    """Return the first of each run of *times_ns*, which rise, that lie within *apart_ns*."""
    found: list[int] = []
    last_ns: int | None = None
    for time_ns in times_ns:
        if last_ns is None or time_ns - last_ns > apart_ns:
            found.append(time_ns)
        last_ns = time_ns
    return found
