# SPDX-License-Identifier: Apache-2.0
"""Interval sets: joining them is the lowest rule at each place."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.errors import SourceLocation
from agentwall.net.ports import PortRange
from agentwall.policy.intervals import IntervalSets
from agentwall.policy.model import Rule, Section

HERE = SourceLocation("p.yaml", 1, 1)
SPAN = 24
RANGES = st.tuples(st.integers(0, SPAN - 1), st.integers(0, 6)).map(
    lambda pair: PortRange(pair[0], min(SPAN - 1, sum(pair)))
)


def _rule(index, ranges):
    return Rule(
        policy="p",
        section=Section.DENY if index % 2 else Section.ALLOW,
        index=index,
        prefixes=(),
        ports=tuple(ranges),
        where=HERE,
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(RANGES, min_size=1, max_size=3), min_size=1, max_size=6), st.randoms())
def test_join_is_the_lowest_rule_at_each_place(ports, random):
    """Whatever the order of joining, each place has the lowest rule that covers it."""
    rules = [_rule(index, ranges) for index, ranges in enumerate(ports)]
    sets = IntervalSets(rules)
    order = list(range(len(rules)))
    random.shuffle(order)
    joined = sets.EMPTY
    for index in order:
        joined = sets.join(joined, sets.of_rule(index))
    found = sets.intervals(joined)
    for place in range(SPAN):
        covering = [r.index for r in rules if any(p.first <= place <= p.last for p in r.ports)]
        speaking = [i.rule for i in found if i.first <= place <= i.last]

        assert speaking == ([min(covering)] if covering else [])
    for one, other in itertools.pairwise(found):
        assert one.last + 1 < other.first or one.rule != other.rule
    assert all(i.allow == (i.rule % 2 == 0) for i in found)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(RANGES, min_size=1, max_size=3), min_size=2, max_size=4))
def test_equal_sets_have_one_id(ports):
    """Joining in another order gives the same set, not an equal one."""
    sets = IntervalSets([_rule(index, ranges) for index, ranges in enumerate(ports)])
    ids = set()
    for order in itertools.permutations(range(len(ports))):
        joined = sets.EMPTY
        for index in order:
            joined = sets.join(joined, sets.of_rule(index))
        ids.add(joined)

    assert len(ids) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(RANGES, min_size=1, max_size=3), max_size=9))
def test_joining_all_is_joining_each(ports):
    """Joined all at once or one after the other, the set is the same."""
    sets = IntervalSets([_rule(index, ranges) for index, ranges in enumerate(ports)])
    joined = sets.EMPTY
    for index in range(len(ports)):
        joined = sets.join(joined, sets.of_rule(index))

    assert sets.join_all([sets.of_rule(index) for index in range(len(ports))]) == joined


def test_many_rules_about_one_prefix_are_near_linear():
    """What is kept grows with n log n of the rules about one prefix, not with their square."""
    count = 1024
    sets = IntervalSets([_rule(n, [PortRange(3 * n, 3 * n)]) for n in range(count)])
    joined = sets.join_all([sets.of_rule(n) for n in range(count)])
    kept = sum(len(sets.intervals(found)) for found in range(joined + 1))

    assert len(sets.intervals(joined)) == count
    assert kept == count * 11
