# SPDX-License-Identifier: Apache-2.0
"""Lists of prefixes and of names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.errors import PolicyError
from agentwall.net.domain import NamePattern
from agentwall.policy.lists import parse_host_list, parse_prefix_list
from agentwall.policy.problems import MAX_PROBLEMS


@pytest.mark.parametrize(
    ("raw", "lines"),
    [
        (b"", []),
        (b"\n# nothing\n   \n", []),
        (b"1.1.1.1", [1]),
        (b"\xef\xbb\xbf1.1.1.1\n", [1]),
        (b"1.1.1.1#x\n\t::/0\t\r\n", [1, 2]),
        (b"#\x0c\xc2\x85\n1.1.1.1\n", [2]),  # what editors do not count as a line end
    ],
)
def test_parse_list(raw, lines):
    """Lines count as editors count them; comments and blanks are skipped."""
    assert [prefix.where.line for prefix in parse_prefix_list(raw, "l.txt")] == lines


@pytest.mark.parametrize(
    ("raw", "problems"),
    [
        (b"1.1.1.1\n 10.0.0.1/8\n", ["l.txt:2:2: expected a prefix without host bits"]),
        (b"any\n", ["l.txt:1:1: expected an address or a prefix, got 'any'"]),
        (b"a\n1.1.1.1 2.2.2.2\n", ["l.txt:1:1: expected", "l.txt:2:1: expected"]),
        (b"1.1.1.1\n# \xff\n", ["l.txt:2:3: expected UTF-8, got byte 0xff"]),
    ],
)
def test_bad_lists(raw, problems):
    """Each wrong line is reported at its place in the list."""
    with pytest.raises(PolicyError) as caught:
        parse_prefix_list(raw, "l.txt")

    assert len(caught.value.errors) == len(problems)
    for error, problem in zip(caught.value.errors, problems, strict=True):
        assert str(error).startswith(problem)


def test_a_list_of_something_else():
    """Of a list that is wrong throughout, only so many lines are reported."""
    with pytest.raises(PolicyError) as caught:
        parse_prefix_list(b"x\n" * 100_000, "l.txt")

    assert len(caught.value.errors) == MAX_PROBLEMS


@given(st.binary(max_size=100))
def test_any_bytes(raw):
    """Any bytes are prefixes or a PolicyError."""
    try:
        found = parse_prefix_list(raw, "l.txt")
    except PolicyError as err:
        lines = [error.where.line for error in err.errors]
    else:
        lines = [prefix.where.line for prefix in found]

    assert lines == sorted(lines)
    assert all(1 <= line <= raw.count(b"\n") + 1 for line in lines)


def _no_exact_names(pattern: NamePattern) -> None:
    if not str(pattern).startswith("*"):
        raise ValueError(f"expected a star, got {pattern}")


def test_parse_host_list():
    """A list of names counts lines and columns as a list of prefixes does."""
    found = parse_host_list(
        b"# ours\n *.Example.com # all\n\n**.b\xc3\xbccher.example", "l.txt", str
    )

    assert [(str(p.pattern), p.where.line, p.where.column) for p in found] == [
        ("*.example.com", 2, 2),
        ("**.xn--bcher-kva.example", 4, 1),
    ]


def test_bad_host_list():
    """What is no name is reported at its place, and so is what the rule does not want."""
    with pytest.raises(PolicyError) as caught:
        parse_host_list(b"a..b\n*.a.b\n  a.b\n1.1.1.1/8\n", "l.txt", _no_exact_names)

    assert [str(error)[:40] for error in caught.value.errors] == [
        "l.txt:1:1: expected a name without empty",
        "l.txt:3:3: expected a star, got a.b",
        "l.txt:4:1: expected a name alone, withou",
    ]


@given(st.binary(max_size=100))
def test_any_bytes_of_names(raw):
    """Any bytes are names or a PolicyError."""
    try:
        found = parse_host_list(raw, "l.txt", str)
    except PolicyError as err:
        lines = [error.where.line for error in err.errors]
    else:
        lines = [pattern.where.line for pattern in found]

    assert lines == sorted(lines)
    assert all(1 <= line <= raw.count(b"\n") + 1 for line in lines)
