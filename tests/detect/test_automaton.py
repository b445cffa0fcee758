# SPDX-License-Identifier: Apache-2.0
"""An automaton's shape, as the kernel's table has it."""

from __future__ import annotations

from rig.patterns import signature

from agentwall.detect.dfa import compile_automaton


def test_states():
    """States are rows: the dead one, and one for each byte of a word and before it."""
    automaton = compile_automaton([signature("^abc")])

    assert automaton.states == len(automaton.next) == 1 + 4
