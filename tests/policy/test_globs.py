# SPDX-License-Identifier: Apache-2.0
"""Globs over cgroup paths and names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.policy.globs import depth, fault, matches


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("/a/b", "/a/b", True),
        ("/a/b", "/a", False),
        ("/a", "/a/b", False),
        ("/a/*", "/a/b", True),
        ("/a/*", "/a", False),
        ("/a/*", "/a/b/c", False),
        ("/a/b-*.scope", "/a/b-1.scope", True),
        ("/a/b-*.scope", "/a/b-.scope", True),
        ("/a/b-*.scope", "/a/b-1.slice", False),
        ("/a/b-*.scope", "/a/b-1/x.scope", False),
        ("/a/**", "/a", True),
        ("/a/**", "/a/b", True),
        ("/a/**", "/a/b/c/d", True),
        ("/a/**", "/ab", False),
        ("/a/**/z", "/a/z", True),
        ("/a/**/z", "/a/b/c/z", True),
        ("/a/**/z", "/a/b/c", False),
        ("/a/**/b/**/z", "/a/b/b/c/z", True),
        ("/**", "/a", True),
        ("/**/x-*/**", "/a/b/x-1/c", True),
        ("/**/*", "/a/b", True),
        # Nothing else is special.
        ("/a/[b]", "/a/b", False),
        ("/a/?", "/a/b", False),
        (r"/a/x\x2dy", r"/a/x\x2dy", True),
        # Names without a path.
        ("roll-*", "roll-17", True),
        ("roll-*", "troll-17", False),
        ("*", "", True),
        ("registry.example/*", "registry.example/team/image:1", False),
        ("registry.example/**", "registry.example/team/image:1", True),
    ],
)
def test_what_a_glob_covers(glob, path, expected):
    """A star stays within one name, two of them cover any number of names."""
    assert matches(glob, path) is expected


def test_matching_takes_no_exponential_time():
    """A glob of many stars over a long hostile name is decided at once."""
    assert not matches("/" + "*a" * 60 + "b", "/" + "a" * 4000)
    assert not matches("/**/a" * 40 + "/b", "/a" * 1000)


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**", "a*", "*b", "a*b*"]), min_size=1, max_size=6),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=6),
)
def test_globs_agree_with_a_regular_expression(glob_names, names):
    """Every verdict is that of the glob spelt as a regular expression."""
    translated = "".join(
        r"(?:/[^/]+)*" if name == "**" else "/" + re.escape(name).replace(r"\*", "[^/]*")
        for name in glob_names
    )

    assert matches("/" + "/".join(glob_names), "/" + "/".join(names)) == bool(
        re.fullmatch(translated, "/" + "/".join(names))
    )


@pytest.mark.parametrize(
    ("glob", "expected"),
    [("/a", 1), ("/a/**", 1), ("/a/*", 2), ("/a/**/b", 2), ("/**", 0), ("/a/b/c", 3)],
)
def test_depth_counts_the_names_asked_for(glob, expected):
    """Two stars ask for no name."""
    assert depth(glob) == expected


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("/a/**", None),
        ("/**", None),
        ("/a/b-*/c", None),
        ("a/b", "expected a path from the root, starting with '/', got 'a/b'"),
        ("", "expected a path from the root, starting with '/', got ''"),
        ("/", "expected a name between two '/', got ''"),
        ("/a/", "expected a name between two '/', got ''"),
        ("/a/../b", "expected a name between two '/', got '..'"),
        ("/a/b**", "expected '**' to stand alone between two '/', got 'b**'"),
        ("/a/***", "expected '**' to stand alone between two '/', got '***'"),
    ],
)
def test_what_is_wrong_with_a_glob(glob, expected):
    """A glob that cannot mean what its writer thinks is named."""
    assert fault(glob) == expected
