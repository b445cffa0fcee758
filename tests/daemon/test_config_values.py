# SPDX-License-Identifier: Apache-2.0
"""What is asked of a value beside its key; each message is in test_config_load.py."""

from __future__ import annotations

import pytest

from agentwall.daemon.config_values import cgroup_of, is_loopback, program_fault


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/a", "/a"),
        ("/a/", "/a"),
        ("/a\\x2db.slice", "/a\\x2db.slice"),
        ("/", None),
        ("a", None),
        (None, None),
        (["/a"], None),
    ],
)
def test_cgroup_of(value, expected):
    """A cgroup in its one form, or None for what is none."""
    assert cgroup_of(value) == expected


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.255.0.1:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_is_loopback(listen, expected):
    """Whether only this host reaches an address."""
    assert is_loopback(listen) is expected


def test_program_fault():
    """A program is named by its absolute path: what PATH holds is nobody's decision."""
    assert program_fault("/usr/bin/page") is None
    for word in ("page", "", "./page", "/usr/../bin/page", "/"):
        assert "a program by its absolute path" in program_fault(word)
