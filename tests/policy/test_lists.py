# SPDX-License-Identifier: Apache-2.0
"""Lists of prefixes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.errors import PolicyError
from agentwall.policy.lists import parse_list
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
    assert [prefix.where.line for prefix in parse_list(raw, "l.txt")] == lines


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
        parse_list(raw, "l.txt")

    assert len(caught.value.errors) == len(problems)
    for error, problem in zip(caught.value.errors, problems, strict=True):
        assert str(error).startswith(problem)


def test_a_list_of_something_else():
    """Of a list that is wrong throughout, only so many lines are reported."""
    with pytest.raises(PolicyError) as caught:
        parse_list(b"x\n" * 100_000, "l.txt")

    assert len(caught.value.errors) == MAX_PROBLEMS


@given(st.binary(max_size=100))
def test_any_bytes(raw):
    """Any bytes are prefixes or a PolicyError."""
    try:
        found = parse_list(raw, "l.txt")
    except PolicyError as err:
        lines = [error.where.line for error in err.errors]
    else:
        lines = [prefix.where.line for prefix in found]

    assert lines == sorted(lines)
    assert all(1 <= line <= raw.count(b"\n") + 1 for line in lines)
