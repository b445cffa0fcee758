# SPDX-License-Identifier: Apache-2.0
"""The nondeterministic automaton: which states follow which, and what patterns share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.patterns import patterns, signature, texts

from agentwall.detect import nfa as nfas
from agentwall.detect.budget import BudgetError
from agentwall.detect.nfa import bits, build_nfa
from agentwall.detect.signature import Side, Transport

TCP_CLIENT = (Transport.TCP, Side.CLIENT)


@given(st.integers(0, 1 << 300))
def test_bits(members):
    """The bits that are set come in order, and make up the number."""
    found = bits(members)

    assert found == sorted(set(found))
    assert sum(1 << bit for bit in found) == members


def _first_match(nfa, index, data):
    states = nfa.starts[TCP_CLIENT]
    for end, byte in enumerate(data, 1):
        after = 0
        for state in bits(states):
            if nfa.reads[state] >> byte & 1:
                after |= nfa.follows[state]
        states = after
        if states >> index & 1:
            return end
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_patterns(data):
    """Run as it is, with sets of states, it matches first where Python's ``re`` does."""
    known = data.draw(st.lists(patterns(ends=False), min_size=1, max_size=3))
    nfa = build_nfa([signature(each.text, f"s{index}") for index, each in enumerate(known)])
    said = data.draw(texts(known))

    found = [_first_match(nfa, index, said) for index in range(len(known))]

    assert found == [each.first_match(said, whole=False) for each in known]


def test_states_that_accept():
    """The first states say what has matched; they read nothing and nothing follows."""
    nfa = build_nfa(
        [signature("^a", transport=Transport.UDP), signature("^ab$", transport=Transport.UDP)]
    )
    (first,) = bits(nfa.starts[Transport.UDP, Side.CLIENT])

    assert nfa.signatures == 2
    assert nfa.starts[TCP_CLIENT] == 0
    assert nfa.reads[:4] == nfa.follows[:4] == (0, 0, 0, 0)
    assert (nfa.reads[first], bits(nfa.follows[first])) == (1 << 97, [0, 4])
    assert (nfa.reads[4], bits(nfa.follows[4])) == (1 << 98, [3])


@pytest.mark.parametrize(
    ("known", "states"),
    [
        # What two begin with is there once.
        (["^abcd", "^abce"], 3 + 2),
        # ... also where it repeats, and where both match anywhere.
        (["^(?:ab|c)*d", "^(?:ab|c)*e"], 3 + 2),
        (["abc", "abd"], 1 + 2 + 2),
        # What alternatives end with is, too.
        (["^(?:ab|cb)de"], 2 + 1 + 2),
        # What follows a match is not there at all.
        (["^ab*c*"], 1),
        # What only a byte of no bytes leads to matches nothing.
        ([r"^a[^\x00-\xff]b"], 0),
    ],
)
def test_sharing(known, states):
    """Patterns that begin or end alike share the states of it."""
    nfa = build_nfa([signature(text, f"s{index}") for index, text in enumerate(known)])
    reached, todo = set(), [nfa.starts[TCP_CLIENT]]
    while todo:
        for state in bits(todo.pop()):
            if state not in reached:
                reached.add(state)
                todo.append(nfa.follows[state])

    assert sum(1 for state in reached if nfa.reads[state]) == states


def test_too_many_states(monkeypatch):
    """Signatures of more bytes than can be held are given up on the way."""
    monkeypatch.setattr(nfas, "MAX_NFA_STATES", 1000)

    with pytest.raises(BudgetError, match="expected signatures of at most 1000 bytes in all"):
        build_nfa([signature("^a{600}", "a"), signature("^b{600}", "b")])
