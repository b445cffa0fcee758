# SPDX-License-Identifier: Apache-2.0
"""Ratios pair the samples of one round."""

from __future__ import annotations

import pytest

from bench.ratios import Spread, paired_ratio, rotated, spread


def test_paired_ratio_cancels_drift():
    """A machine that gets three times slower in between changes no ratio."""
    assert paired_ratio([110, 220, 330], [100, 200, 300]) == Spread(1.1, 1.1, 1.1)


def test_spread_holds_the_middle_half():
    """One wild sample moves neither the median nor the quartiles far."""
    assert spread([1, 2, 3, 4, 1000]) == Spread(3, 2, 4)


def test_spread_of_one_sample():
    """A single sample is its own spread."""
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_ratio_refuses_unequal_rounds():
    """A lost sample is an error, not a shifted pairing."""
    with pytest.raises(ValueError, match="longer"):
        paired_ratio([1.0], [1.0, 2.0])


def test_rotation_gives_everyone_every_place():
    """Over as many rounds as variants each one is at each place once."""
    rounds = [rotated(["a", "b", "c"], number) for number in range(3)]

    assert [sorted(place) for place in zip(*rounds, strict=True)] == [["a", "b", "c"]] * 3
