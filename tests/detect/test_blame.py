# SPDX-License-Identifier: Apache-2.0
"""States are put down to the signatures without which they would not be there."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.patterns import patterns, signature

from agentwall.detect import blame
from agentwall.detect.blame import states_due
from agentwall.detect.nfa import build_nfa
from agentwall.detect.subset import determinise


def _states(known):
    return len(determinise(build_nfa(known), 10000).sets)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(patterns(ends=False), min_size=2, max_size=4))
def test_due_is_what_is_saved(known):
    """A signature is blamed for about what leaving it out saves."""
    signatures = [signature(each.text, f"s{index}") for index, each in enumerate(known)]
    nfa = build_nfa(signatures)
    sets = determinise(nfa, 10000).sets

    due = {index: count for count, index in states_due(nfa, sets)}

    for index in range(len(known)):
        rest = signatures[:index] + signatures[index + 1 :]
        # Never more than that: a state that others share with it is not put down to it.
        assert 0 <= due[index] <= len(sets) - 1
        assert len(sets) - due[index] >= _states(rest)


def test_small_signature_that_multiplies():
    """A small signature that is under way during all of a large one is to blame."""
    large = [signature(f"^{word}{'[^z]' * 30}{word}", word) for word in ("ab", "cd")]
    known = [*large, signature("u.*v", "small")]
    nfa = build_nfa(known)
    sets = determinise(nfa, 10000).sets

    (count, index), *_ = states_due(nfa, sets)

    assert index == 2
    assert count == len(sets) - _states(large)


def test_shared_states():
    """What two signatures begin with is put down to neither."""
    known = [signature("^abcdef", "one"), signature("^abcdgh", "two")]
    nfa = build_nfa(known)

    assert states_due(nfa, determinise(nfa, 100).sets) == [(2, 0), (2, 1)]


@pytest.mark.parametrize("looks", [1, 40])
def test_estimate(monkeypatch, looks):
    """Where there is too much to look at, the first sets stand for all."""
    monkeypatch.setattr(blame, "_LOOKS", looks)
    nfa = build_nfa([signature("^abcdefgh", "one"), signature("^x", "two")])
    sets = determinise(nfa, 100).sets

    found = states_due(nfa, sets)

    assert [index for _, index in found] == [0, 1]
    assert all(0 <= count < len(sets) for count, _ in found)
