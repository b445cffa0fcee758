# SPDX-License-Identifier: Apache-2.0
"""The compiler against Python's ``re``, its order of states, its budgets."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.patterns import first_matches, patterns, signature, texts

from agentwall.detect.automaton import DEAD
from agentwall.detect.budget import Budget, BudgetError
from agentwall.detect.dfa import compile_automaton
from agentwall.detect.pattern import PatternError
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, Transport

MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
BOTH = (Side.CLIENT, Side.SERVER)


def _agrees(known, data, transport, *, whole):
    """Whether each of *known* is found where ``re`` finds it; and how many are."""
    automaton = compile_automaton(
        [signature(each.text, f"s{i}", transport=transport) for i, each in enumerate(known)]
    )
    found = first_matches(automaton, scan(automaton, transport, Side.CLIENT, data, whole=whole))
    expected = {
        index: at
        for index, each in enumerate(known)
        if (at := each.first_match(data, whole=whole)) is not None
    }
    assert found == expected
    return len(expected)


def test_one_pattern_is_that_of_re():
    """A random pattern matches first where Python's says so, in streams it often matches."""
    matched = []

    @MANY
    @given(st.data())
    def check(data):
        pattern = data.draw(patterns(ends=False))
        said = data.draw(texts([pattern]))
        matched.append(_agrees([pattern], said, Transport.TCP, whole=False))

    check()

    assert sum(matched) > len(matched) / 2
    assert matched.count(0) > len(matched) / 50


def test_many_patterns_are_those_of_re():
    """Patterns compiled together each match first where Python's says so, datagrams' ends too."""
    matched = []

    @MANY
    @given(st.data())
    def check(data):
        known = data.draw(st.lists(patterns(ends=True), min_size=2, max_size=5))
        said = data.draw(texts(known))
        whole = data.draw(st.booleans())
        matched.append(_agrees(known, said, Transport.UDP, whole=whole))

    check()

    assert sum(count > 0 for count in matched) > len(matched) / 2
    assert sum(count > 1 for count in matched) > len(matched) / 10


@pytest.mark.parametrize(
    ("pattern", "data", "end"),
    [
        ("^ab", b"ab", 2),
        ("^ab", b"xab", None),
        ("ab", b"xabab", 3),
        ("^ab*", b"abbb", 1),
        ("^(?:ab|abcd)", b"abcd", 2),
        ("^(?:ab|b)c{2,}", b"abccc", 4),
        ("a|^b", b"ba", 1),
        ("^a|b", b"xb", 2),
        ("(?i)get /", b"GeT /", 5),
        ("(?i)[^a]b", b"AB", None),
        (r"^\x00.{3}", b"\x00\n\n\n", 4),
        (r"^[\]\-a^]{4}", b"]-a^", 4),
        ("^[^\\x00]", b"\x00", None),
        ("^(?:){3}(?:|a)b", b"b", 1),
        ("^a{0}b", b"b", 1),
        ("}]", b"}]", 2),
    ],
)
def test_first_match(pattern, data, end):
    """A signature matches at the first byte at which its pattern is satisfied, or not at all."""
    automaton = compile_automaton([signature(pattern)])

    found = first_matches(automaton, scan(automaton, Transport.TCP, Side.CLIENT, data))

    assert found == ({} if end is None else {0: end})


def test_starts():
    """Each transport and side has its own signatures; without any its start is the dead state."""
    automaton = compile_automaton(
        [
            signature("^a", "one"),
            signature("^a", "both", sides=BOTH),
            signature("^b", "udp", transport=Transport.UDP, sides=(Side.SERVER,)),
        ]
    )
    found = {
        (transport, side, data): list(
            first_matches(automaton, scan(automaton, transport, side, data))
        )
        for transport, side in automaton.starts
        for data in (b"a", b"b")
    }

    assert {key: value for key, value in found.items() if value} == {
        (Transport.TCP, Side.CLIENT, b"a"): [0, 1],
        (Transport.TCP, Side.SERVER, b"a"): [1],
        (Transport.UDP, Side.SERVER, b"b"): [2],
    }
    assert [start for start, state in automaton.starts.items() if state == DEAD] == [
        (Transport.UDP, Side.CLIENT),
        (Transport.ICMP, Side.CLIENT),
        (Transport.ICMP, Side.SERVER),
    ]


def test_no_signatures():
    """Without signatures there is the dead state and nothing else."""
    automaton = compile_automaton([])

    assert automaton.next.tolist() == [[DEAD]]
    assert set(automaton.starts.values()) == {DEAD}
    assert automaton.accepts == ((),)
    assert automaton.first_accepting == 1


def _check_invariants(automaton):
    states, width = automaton.next.shape
    assert width == automaton.width == max(automaton.classes) + 1
    assert not automaton.next[DEAD].any()
    assert not automaton.accept_of[: automaton.first_accepting].any()
    assert automaton.accept_of[automaton.first_accepting :].all()
    assert automaton.accepts[0] == ()
    assert len(set(automaton.accepts)) == len(automaton.accepts)
    assert int(automaton.next.max()) < states
    # Classes are in order of their first bytes, and no two of them are the same column.
    firsts = [automaton.classes.index(each) for each in range(width)]
    assert firsts == sorted(firsts)
    assert len(np.unique(automaton.next, axis=1).T) == width


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(patterns(ends=True), min_size=1, max_size=4))
def test_automaton_is_minimal_and_settles_early(known):
    """No two states are equivalent, none is unreachable, and all but the dead one may match yet."""
    automaton = compile_automaton(
        [
            signature(each.text, f"s{index}", transport=Transport.UDP, sides=BOTH[: 1 + index % 2])
            for index, each in enumerate(known)
        ]
    )
    _check_invariants(automaton)
    states = range(automaton.states)
    after = automaton.next.tolist()

    # Brute force: pairs that outputs tell apart, then those that lead to such a pair.
    outputs = list(zip(automaton.accept_of.tolist(), automaton.end_of.tolist(), strict=True))
    apart = {(a, b) for a in states for b in states if outputs[a] != outputs[b]}
    grew = True
    while grew:
        more = {
            (a, b)
            for a in states
            for b in states
            if (a, b) not in apart
            and any(pair in apart for pair in zip(after[a], after[b], strict=True))
        }
        apart |= more
        grew = bool(more)
    assert len(apart) == automaton.states * (automaton.states - 1)

    alive = {state for state in states if outputs[state] != (0, 0)}
    for _ in states:
        alive |= {state for state in states if alive.intersection(after[state])}
    assert alive == set(states) - {DEAD}
    reached = {DEAD, *automaton.starts.values()}
    for _ in states:
        reached |= {state for known in reached.copy() for state in after[known]}
    assert reached == set(states)


def test_numbers_of_states():
    """The dead state is first, then come the others as they are reached, those that accept last."""
    automaton = compile_automaton([signature("^ab?c"), signature("^a", "t")])

    start = automaton.starts[Transport.TCP, Side.CLIENT]
    a, b, c = (automaton.classes[byte] for byte in b"abc")
    assert start == 1
    assert automaton.first_accepting == 3
    assert automaton.next[start][a] == 3
    assert automaton.next[3][b] == 2
    assert automaton.next[2][c] == automaton.next[3][c] == 4
    assert automaton.accepts[automaton.accept_of[3]] == (1,)
    assert automaton.accepts[automaton.accept_of[4]] == (0,)
    assert not automaton.next[4].any()


_DIGEST = """
import hashlib, sys
sys.path.insert(0, "tests")
from rig.patterns import signature
from agentwall.detect.dfa import compile_automaton
from agentwall.detect.signature import Side

texts = [f"^(?:a|[b-d]x*)+{i}" for i in range(8)] + [f"k{i}[^x]{{2,4}}z" for i in range(8)]
sides = (Side.CLIENT, Side.SERVER)
automaton = compile_automaton([signature(t, f"s{i}", sides=sides) for i, t in enumerate(texts)])
digest = hashlib.sha256(automaton.classes + automaton.next.tobytes())
digest.update(automaton.accept_of.tobytes())
digest.update(repr((automaton.accepts, automaton.first_accepting, automaton.starts)).encode())
print(automaton.states, digest.hexdigest())
"""


def test_equal_input_makes_equal_tables():
    """Whatever the process and its hash seed, the tables are the same to the byte."""
    said = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2")
    }

    assert len(said) == 1
    assert int(said.pop().split()[0]) > 100


@pytest.mark.parametrize(
    ("pattern", "transport", "problem"),
    [
        ("^a*", Transport.TCP, "character 1: expected a pattern that takes a byte"),
        ("a|b?", Transport.TCP, "character 1: expected a pattern that takes a byte"),
        ("a*$", Transport.UDP, "character 1: expected a pattern that takes a byte"),
        ("^ab$", Transport.TCP, "character 4: expected no $ in a stream"),
        ("^a(b", Transport.TCP, "character 3: expected a ) for this ("),
    ],
)
def test_pattern_error(pattern, transport, problem):
    """What is wrong with a pattern is said with where in it, and in which signature."""
    with pytest.raises(PatternError) as err:
        compile_automaton([signature("^fine"), signature(pattern, "wrong", transport=transport)])

    assert str(err.value).startswith(problem)
    assert str(err.value).endswith("(tunnel/wrong)")


def test_empty_datagram():
    """An anchored pattern with $ may match a datagram of nothing."""
    automaton = compile_automaton([signature("^a?$", transport=Transport.UDP)])

    ends = {
        data: first_matches(
            automaton, scan(automaton, Transport.UDP, Side.CLIENT, data, whole=True)
        )
        for data in (b"", b"a", b"aa")
    }
    assert ends == {b"": {0: 0}, b"a": {0: 1}, b"aa": {}}


@pytest.mark.parametrize(
    ("budget", "problem"),
    [
        (Budget(states=11), "11 states, got 14; of"),
        (Budget(cells=24), "24 cells, got 14 states of 13 classes of bytes; of"),
    ],
)
def test_budget_error(budget, problem):
    """What is over the budget is said, and for which signatures it is."""
    known = [signature("^ab"), signature("^cdefghi", "long"), signature("^jkl", "short")]

    with pytest.raises(BudgetError) as err:
        compile_automaton(known, budget)

    due = "about 7 for tunnel/long, 3 for tunnel/short, 2 for tunnel/s"
    assert str(err.value) == f"signatures: expected at most {problem} these are {due}"


def test_budget_before_merging():
    """A set of far too many states is given up on the way, before any are merged."""
    known = [signature("^" + "abcdefgh" * 5), signature("^b", "short")]

    with pytest.raises(BudgetError) as err:
        compile_automaton(known, Budget(states=2))

    problem = "2 states, got over 8 before any are merged; of these are about 6 for tunnel/s"
    assert str(err.value).startswith(f"signatures: expected at most {problem}")


def test_budget_is_inclusive():
    """An automaton of as many states and cells as allowed is made."""
    known = [signature("^abc")]
    automaton = compile_automaton(known)
    cells = automaton.states * automaton.width

    again = compile_automaton(known, Budget(states=automaton.states, cells=cells))

    assert again.next.tobytes() == automaton.next.tobytes()


def test_exponential_pattern():
    """A pattern that needs more states than can be made is given up, and blamed."""
    known = [signature("^fine"), signature("a.{40}b", "gap")]

    with pytest.raises(BudgetError, match=r"got over 8192 .* about 8\d\d\d for tunnel/gap"):
        compile_automaton(known, Budget(states=2048))
