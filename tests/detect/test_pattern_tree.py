# SPDX-License-Identifier: Apache-2.0
"""Trees are simple, each there once, and can be cut to what matches first."""

from __future__ import annotations

import pytest

from agentwall.detect.pattern import PatternReader
from agentwall.detect.pattern_tree import ANY_BYTE, Choice, OneByte, Sequence, Trees


def _tree(reader, pattern):
    (branch,) = reader.read(f"^{pattern}").branches
    return branch.tree


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ab(?:cd)e", "abcde"),
        ("(?:a|b|[c-e])", "[a-e]"),
        ("(?:ab|(?:cd|ef)|ab)", "(?:ab|cd|ef)"),
        ("(?:(?:ab))", "ab"),
        ("a{1,1}b", "ab"),
        ("a{0}b{0,0}", "(?:)"),
        ("x(?:ab){2,}", "x(?:ab){2,}"),
        (".", r"[\x00-\xff]"),
    ],
)
def test_same_tree(one, other):
    """What means the same in one of these ways is one object."""
    reader = PatternReader(Trees())

    assert _tree(reader, one) is _tree(reader, other)


@pytest.mark.parametrize(
    ("pattern", "positions", "is_nullable"),
    [
        ("abc", 3, False),
        ("(?:ab|c)*", 3, True),
        ("(?:ab){2,5}", 10, False),
        ("(?:ab){2,}", 6, False),
        ("(?:a?|bc){3}", 9, True),
        ("(?:)", 0, True),
    ],
)
def test_measures(pattern, positions, is_nullable):
    """A tree knows its single bytes with repeats written out, and whether it can be empty."""
    tree = _tree(PatternReader(Trees()), pattern)

    assert (tree.positions, tree.is_nullable) == (positions, is_nullable)


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("ab*", "a"),
        ("ab*c?", "a"),
        ("a(?:bc+|d)", "a(?:bc|d)"),
        ("a{2,5}", "aa"),
        ("(?:ab?){3}", "(?:ab?){2}a"),
        ("(?:ab){2,}", "(?:ab){1}ab"),
        ("a*b", "a*b"),
        ("a*", "(?:)"),
        ("(?:ab|)", "(?:)"),
        ("x(?:[ab]y*|[cd])", "x[a-d]"),
    ],
)
def test_shortest(pattern, first):
    """What can only follow a match is left out."""
    reader = PatternReader(Trees())

    assert reader.trees.shortest(_tree(reader, pattern)) is _tree(reader, first)


def test_values():
    """Trees are made of bytes as sets, in the order in which they are given."""
    trees = Trees()
    a, any_byte = trees.one_byte(1 << 97), trees.one_byte(ANY_BYTE)
    both = trees.sequence([a, trees.sequence([any_byte, a])])
    either = trees.choice([both, trees.empty])

    assert isinstance(a, OneByte)
    assert isinstance(both, Sequence)
    assert both.items == (a, any_byte, a)
    assert isinstance(either, Choice)
    assert either.options == (both, trees.empty)
    assert trees.choice([]) is trees.one_byte(0)
