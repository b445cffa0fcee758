# SPDX-License-Identifier: Apache-2.0
"""Subset construction: classes of bytes, steps against sets of states, and where it stops."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.patterns import ALPHABET, patterns, signature

from agentwall.detect.nfa import bits, build_nfa
from agentwall.detect.subset import TooManyStatesError, byte_classes, determinise

BYTE_SETS = st.lists(st.integers(0, (1 << 256) - 1), max_size=4)


@given(BYTE_SETS)
def test_byte_classes(sets):
    """Two bytes are in one class where no set tells them apart."""
    parts = byte_classes(sets)
    by_sets = {}
    for byte in range(256):
        by_sets.setdefault(tuple(s >> byte & 1 for s in sets), []).append(byte)

    assert [bits(part) for part in parts] == list(by_sets.values())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_steps(data):
    """A step leads where the states of the set lead, all together."""
    known = data.draw(st.lists(patterns(ends=False), min_size=1, max_size=3))
    nfa = build_nfa([signature(each.text, f"s{index}") for index, each in enumerate(known)])
    dfa = determinise(nfa, 10000)
    matched = (1 << nfa.signatures) - 1

    for start, states in nfa.starts.items():
        state = dfa.starts[start]
        for byte in data.draw(st.lists(st.sampled_from(ALPHABET), max_size=20)):
            after = 0
            for each in bits(states):
                after |= nfa.follows[each] if nfa.reads[each] >> byte & 1 else 0
            states, state = after, int(dfa.next[state][dfa.classes[byte]])
            assert dfa.accepts[state] == states & matched
            assert (state == 0) == (states == 0)


def test_order():
    """The dead state is first and leads to itself; others come as they are found."""
    dfa = determinise(build_nfa([signature("^ab")]), 10)

    assert dfa.next[0].tolist() == [0, 0, 0]
    assert [dfa.next[state].max() for state in range(4)] == [0, 2, 3, 0]
    assert dfa.accepts == (0, 0, 0, 1)
    assert dfa.ends == (0, 0, 0, 0)


def test_most_states():
    """As many states as allowed are made, one more is refused."""
    nfa = build_nfa([signature("^abc")])

    assert len(determinise(nfa, 5).next) == 5
    with pytest.raises(TooManyStatesError) as err:
        determinise(nfa, 4)
    assert err.value.sets == determinise(nfa, 5).sets
