# SPDX-License-Identifier: Apache-2.0
"""Fragments in patterns: what they come to, where they may stand, how large they may grow."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect.signature_pattern import MAX_PATTERN, Fragments, expand, read_fragments
from agentwall.errors import PolicyError
from agentwall.policy.problems import Problems
from agentwall.policy.source import parse_source

PLACE = ("signatures", 0, "pattern")
KNOWN = Fragments(texts={"a": "x|y", "long": "(?:abc){2,30}"}, broken=frozenset(("bad",)))


def _source(pattern, style="'"):
    written = pattern.replace("'", "''")
    text = f"signatures:\n  - pattern: {style}{written}{style}\n"
    return parse_source(text.encode(), "f.yaml")


def _expand(pattern):
    problems = Problems()
    found = expand(pattern, KNOWN, _source(pattern), PLACE, problems)
    try:
        problems.raise_any()
    except PolicyError as err:
        return found, [(each.where.column - 15, each.problem) for each in err.errors]
    return found, []


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("^{{a}}", "^(?:x|y)"),
        ("{{a}}{{a}}{2}", "(?:x|y)(?:x|y){2}"),
        (r"\{{{a}}", r"\{(?:x|y)"),
        ("[{]{{a}}[^}]", "[{](?:x|y)[^}]"),
        (r"[\]{]{{a}}", r"[\]{](?:x|y)"),
    ],
)
def test_expand(pattern, expanded):
    """A fragment stands as a group; escaped braces and those in classes are themselves."""
    assert _expand(pattern) == (expanded, [])


def test_unknown():
    """Each unknown name is told, at its own column."""
    found, problems = _expand("^{{a}}{{b}}{{}}")

    assert found is None
    assert problems == [
        (6, "expected a fragment that is defined above (a, long), got 'b'"),
        (11, "expected a fragment that is defined above (a, long), got ''"),
    ]


def test_broken_is_not_told_again():
    """A pattern with a fragment that has been complained of is wrong without a word."""
    assert _expand("{{bad}}") == (None, [])


def test_in_a_class():
    """Fragments cannot stand in classes."""
    found, problems = _expand("x[^a{{a}}]")

    assert found is None
    assert problems == [(4, "expected fragments outside of classes; \\{ is a brace")]


@pytest.mark.parametrize("before", ["", "{{a}}", "{{long}}q{{a}}", "''"])
def test_column_of_a_fault(before):
    """A fault behind fragments and quotes has the column it is written at."""
    pattern = before.replace("''", "'") + "ab)"
    found, problems = _expand(pattern)

    assert found is None
    ((column, _),) = problems
    assert column == len(before) + 2


def test_double_quotes_have_no_columns():
    """Where escapes make columns uncertain, the place is that of the text."""
    problems = Problems()
    expand("ab)", KNOWN, _source("ab)", '"'), PLACE, problems)

    with pytest.raises(PolicyError) as caught:
        problems.raise_any()
    assert str(caught.value.where) == "f.yaml:2:14"


def _fragments(fragments):
    problems = Problems()
    text = yaml.safe_dump({"fragments": fragments}, sort_keys=False)
    found = read_fragments(parse_source(text.encode(), "f.yaml"), problems)
    try:
        problems.raise_any()
    except PolicyError as err:
        return found, [(each.key, each.problem) for each in err.errors]
    return found, []


def test_fragments_use_those_above():
    """A fragment is made of those above it; below it, none is known."""
    found, problems = _fragments({"a": "x", "b": "{{a}}y", "c": "{{d}}", "d": "z", "e": "{{c}}"})

    assert found.texts == {"a": "x", "b": "(?:x)y", "d": "z"}
    assert found.broken == {"c", "e"}
    assert [key for key, _ in problems] == ["fragments.c"]


def test_anchor_in_a_fragment():
    """An anchor in a fragment is refused there, and not at each use."""
    found, problems = _fragments({"a": "^x"})

    assert found.broken == {"a"}
    assert [key for key, _ in problems] == ["fragments.a"]


def test_fragments_cannot_multiply():
    """Fragments of fragments stop where they grow too large, without being written out."""
    twice = {f"f{n}": f"{{{{f{n - 1}}}}}" * 64 for n in range(1, 20)}
    found, problems = _fragments({"f0": "x" * 64, **twice})

    assert max(map(len, found.texts.values())) <= MAX_PATTERN * 2
    ((key, problem),) = problems
    assert key.startswith("fragments.f")
    assert problem.startswith(f"expected at most {MAX_PATTERN} characters with all fragments")


@given(st.text("ab{}[]()\\|*?+^$,1'", max_size=12))
def test_any_pattern(pattern):
    """Whatever is written, it is expanded or told where it is wrong."""
    problems = Problems()
    found = expand(pattern, KNOWN, _source(pattern), PLACE, problems)
    if found is not None:
        problems.raise_any()
        return

    with pytest.raises(PolicyError) as caught:
        problems.raise_any()
    for error in caught.value.errors:
        width = len(pattern) + pattern.count("'")
        assert 14 <= error.where.column <= 15 + width
