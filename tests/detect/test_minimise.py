# SPDX-License-Identifier: Apache-2.0
"""States are merged where no text tells them apart, and only there."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect import minimise
from agentwall.detect.minimise import equivalent_states


def _blocks(after, outputs):
    """Moore's refinement as a textbook has it."""
    blocks = list(outputs)
    while True:
        keys = [(blocks[s], *(blocks[t] for t in row)) for s, row in enumerate(after)]
        if len(set(keys)) == len(set(blocks)):
            break
        blocks = keys
    numbers = {}
    return [numbers.setdefault(block, len(numbers)) for block in blocks]


@st.composite
def _automata(draw):
    states = draw(st.integers(1, 14))
    width = draw(st.integers(1, 3))
    state = st.integers(0, states - 1)
    row = st.lists(state, min_size=width, max_size=width)
    after = draw(st.lists(row, min_size=states, max_size=states))
    return after, draw(st.lists(st.integers(0, 1), min_size=states, max_size=states))


@given(_automata())
def test_random_automata(automaton):
    """Any automaton is refined to what a textbook's refinement gives."""
    after, outputs = automaton

    found = equivalent_states(np.array(after, np.int32), np.array(outputs))

    assert found.tolist() == _blocks(after, outputs)


def test_long_chain():
    """In a chain of which only the end says something all states are told apart."""
    states = 3000
    after = np.minimum(np.arange(states) + 1, states - 1).astype(np.int32)[:, None]

    found = equivalent_states(after, (np.arange(states) == states - 1).astype(np.int64))

    assert found.tolist() == list(range(states))


def test_twins():
    """Two copies of an automaton are merged into one."""
    one = np.array([[0, 0], [2, 0], [1, 3], [3, 3]], np.int32)
    after = np.concatenate((one, one + 4))

    found = equivalent_states(after, np.array([0, 0, 0, 1] * 2))

    assert found.tolist() == [0, 1, 2, 3] * 2


def test_rows_that_look_alike(monkeypatch):
    """Where sums make different rows look alike, others are taken."""
    seeds = []

    def weights(classes, seed):
        seeds.append(seed)
        return np.array([3, 5, 7] if seed == 2 else [0] * 3, np.uint64)

    monkeypatch.setattr(minimise, "_weights", weights)
    after = np.array([[0, 0], [2, 0], [1, 3], [3, 3]], np.int32)

    assert equivalent_states(after, np.array([0, 0, 0, 1])).tolist() == [0, 1, 2, 3]
    assert seeds == [0, 1, 2]
