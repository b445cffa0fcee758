# SPDX-License-Identifier: Apache-2.0
"""A packed automaton takes the same steps as the table it was made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig.inspection import automaton as small

from agentwall.detect import packing
from agentwall.detect.automaton import Automaton
from agentwall.detect.budget import BudgetError
from agentwall.detect.packing import GROUPS, Packed, pack

BYTES = np.arange(256)


def made(classes: bytes, table: npt.NDArray[np.uint16]) -> Automaton:
    """An automaton that accepts nothing: packing is about steps only."""
    none = np.zeros(len(table), np.uint16)
    return Automaton(
        classes=classes,
        width=table.shape[1],
        next=table,
        starts={},
        first_accepting=len(table),
        accepts=((),),
        accept_of=none,
        end_of=none,
    )


def steps(automaton: Automaton) -> npt.NDArray[np.uint16]:
    """Where each byte leads from each state, by the table itself; shape (states, 256)."""
    return automaton.next[:, np.frombuffer(automaton.classes, np.uint8)]


def packed_steps(packed: Packed) -> npt.NDArray[np.uint16]:
    """The same by what the kernel does: ``next[base[state] + classes[group_of[state]][byte]]``."""
    cells = packed.base[:, None] + packed.classes[packed.group_of][:, BYTES]
    return packed.next[cells]


@st.composite
def automata(draw: st.DrawFn) -> Automaton:
    """Complete automata of any shape, most of whose states tell few classes apart."""
    width = draw(st.integers(1, 256))
    states = draw(st.integers(1, 400))
    kinds = draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    classes = np.concatenate((np.arange(width), random.integers(0, width, 256 - width)))
    choices = random.integers(0, states, (states, kinds))
    which = random.integers(0, kinds, (states, width))
    table = np.take_along_axis(choices, which, axis=1).astype(np.uint16)
    table[0] = 0
    return made(random.permutation(classes).astype(np.uint8).tobytes(), table)


@settings(deadline=None)
@given(automata())
def test_every_step_is_the_same(automaton):
    """From any state any byte leads where it did, and states keep their numbers."""
    packed = pack(automaton)

    assert np.array_equal(packed_steps(packed), steps(automaton))
    assert len(packed.classes) <= GROUPS


@settings(deadline=None, max_examples=20)
@given(automata())
def test_equal_input_makes_equal_tables(automaton):
    """Packing the same automaton twice gives the same bytes."""
    first, second = pack(automaton), pack(automaton)

    for name in ("classes", "group_of", "base", "next"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_more_kinds_of_state_than_groups():
    """States beyond the 256th kind share a group that tells every class apart."""
    width, states = 12, 4 * GROUPS
    # State n leads to 0 or 1 by the bits of n: each has a partition of its own.
    bits = np.arange(states)[:, None] + 1 >> np.arange(width) & 1
    automaton = made(bytes(index % width for index in range(256)), bits.astype(np.uint16))
    packed = pack(automaton)

    assert len(packed.classes) == GROUPS
    assert np.array_equal(packed_steps(packed), steps(automaton))


def test_a_real_automaton_shrinks():
    """Signatures' states tell few bytes apart: less than half of the cells are left."""
    packed = pack(small())

    assert np.array_equal(packed_steps(packed), steps(small()))
    assert len(packed.next) < small().next.size / 2


def test_budget(monkeypatch):
    """One cell more than there is room for is an error that says how many there are."""
    table = np.array([[0, 0], [1, 0], [0, 2]], np.uint16)
    automaton = made(bytes(index & 1 for index in range(256)), table)
    monkeypatch.setattr(packing, "CELLS", 5)
    assert len(pack(automaton).next) == 5
    monkeypatch.setattr(packing, "CELLS", 4)

    with pytest.raises(BudgetError, match="expected at most 4 cells, got 5 for 3 states"):
        pack(automaton)
