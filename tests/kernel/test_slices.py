# SPDX-License-Identifier: Apache-2.0
"""Slices of one array never overlap and come back."""

from hypothesis import given
from hypothesis import strategies as st

from agentwall.kernel.slices import SliceAllocator


def test_first_fit():
    """The first gap that is long enough is taken."""
    slices = SliceAllocator(10)
    first = slices.allocate(3)
    slices.allocate(3)
    slices.release(first, 3)

    assert slices.allocate(4) == 6
    assert slices.allocate(2) == 0


def test_no_gap():
    """Free indexes that are not contiguous do not make a slice."""
    slices = SliceAllocator(3)
    starts = [slices.allocate(1) for _ in range(3)]
    slices.release(starts[0], 1)
    slices.release(starts[2], 1)

    assert slices.available == 2
    assert slices.allocate(2) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), max_size=40))
def test_any_order(steps):
    """Whatever is taken and given back in whatever order, slices are disjoint and all come back."""
    slices, held = SliceAllocator(50), []
    for length, choice in steps:
        if held and choice % 2:
            slices.release(*held.pop(choice % len(held)))
        elif (start := slices.allocate(length)) is not None:
            held.append((start, length))
        taken = [i for start, length in held for i in range(start, start + length)]

        assert len(taken) == len(set(taken)) == 50 - slices.available
        assert all(0 <= i < 50 for i in taken)
    for start, length in held:
        slices.release(start, length)

    assert slices.allocate(50) == 0
