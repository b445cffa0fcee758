# SPDX-License-Identifier: Apache-2.0
"""Gathering what is wrong, and how it is shown."""

from __future__ import annotations

import pytest

from agentwall.errors import PolicyError, SourceLocation
from agentwall.policy.problems import MAX_PROBLEMS, Problems, describe_place, show

HERE = SourceLocation("p.yaml", 3, 5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        ({}, "a map"),
        ([1], "a list"),
        (70000, "70000"),
        ("a\x1b[31m", "'a\\x1b[31m'"),
        ("x" * 500, "'" + "x" * 59 + "..."),
    ],
)
def test_values_are_shown_short_and_escaped(value, text):
    """A value of a policy cannot write to the terminal that shows the error."""
    assert show(value) == text


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (("allow", 0, "ports", 1), "allow[0].ports[1]"),
        (("mode",), "mode"),
        ((), ""),
        (("allow", 0, "a b\n"), "allow[0].'a b\\n'"),
    ],
)
def test_places_read_as_keys(place, text):
    """A place is written as the path of keys that leads to it."""
    assert describe_place(place) == text


def test_all_problems_come_with_the_first():
    """One error is raised, and it carries the others."""
    problems = Problems()
    problems.add(HERE, ("mode",), "expected audit, got x")
    problems.add(HERE, ("name",), "expected a name, got nothing")

    with pytest.raises(PolicyError, match=r"^p\.yaml:3:5: mode: expected audit") as caught:
        problems.raise_any()
    assert [str(error) for error in caught.value.errors] == [
        "p.yaml:3:5: mode: expected audit, got x",
        "p.yaml:3:5: name: expected a name, got nothing",
    ]


def test_their_number_is_bounded():
    """A list that is wrong on every line does not fill memory with errors."""
    problems = Problems()
    for _ in range(3 * MAX_PROBLEMS):
        problems.add(HERE, (), "expected a prefix, got 'x'")

    assert problems.full
    with pytest.raises(PolicyError) as caught:
        problems.raise_any()
    assert len(caught.value.errors) == MAX_PROBLEMS
