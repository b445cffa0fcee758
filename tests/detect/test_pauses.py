# SPDX-License-Identifier: Apache-2.0
"""How regular times are."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect.pauses import NS_PER_S, beats, irregularity, pauses_s


def test_pauses():
    """Pauses are the seconds between neighbours."""
    assert pauses_s([0, NS_PER_S, 4 * NS_PER_S]) == [1.0, 3.0]
    assert pauses_s([5]) == []


def test_irregularity():
    """A timer has none, chance has about one, and of a single pause nothing is said."""
    chance = random.Random(1)

    assert irregularity([30.0] * 10) == 0
    assert irregularity([chance.expovariate(0.1) for _ in range(4000)]) == pytest.approx(1, abs=0.1)
    assert irregularity([30.0]) == 0
    assert irregularity([0.0, 0.0]) == 0


@given(st.lists(st.integers(0, 10**12), max_size=60).map(sorted), st.integers(1, 10**11))
def test_beats(times, apart_ns):
    """Of each run that lies together the first is left, and so what is left lies apart."""
    found = beats(times, apart_ns)

    assert set(found) <= set(times)
    assert found[:1] == times[:1]
    assert all(after - before > apart_ns for before, after in pairwise(found))
