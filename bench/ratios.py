# SPDX-License-Identifier: Apache-2.0
"""Ratios of interleaved samples and how far they spread. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the middle half of the samples around it."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""


def spread(samples: Sequence[float]) -> Spread:
    """Return the median and quartiles of *samples*, of which there is at least one."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high)


def paired_ratio(samples: Sequence[float], bare: Sequence[float]) -> Spread:
    """Return the spread of ``sample / bare``, each taken within one round.

    Pairing cancels the slow drift of a shared machine, which hits both samples of a round alike.

    Raises:
        ValueError: The two have not the same length.
    """
    return spread([sample / base for sample, base in zip(samples, bare, strict=True)])


def rotated(items: Sequence[str], by: int) -> list[str]:
    """Return *items* starting *by* places later, so that none is always first or always last."""
    by %= len(items)
    return [*items[by:], *items[:by]]
