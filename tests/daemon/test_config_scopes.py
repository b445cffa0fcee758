# SPDX-License-Identifier: Apache-2.0
"""The scopes of the daemon's configuration: what they load to, and how bad ones are refused."""

from __future__ import annotations

import pytest

from agentwall.daemon.config import Config
from agentwall.daemon.config_load import parse_config
from agentwall.errors import PolicyError


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_config(text.encode(), "c.yaml")
    return [str(error).removeprefix("c.yaml:") for error in caught.value.errors]


def parse(text: str) -> Config:
    return parse_config(f"version: 1\n{text}".encode(), "c.yaml")


def test_owned_scope_without_default():
    """An owned scope always has a default policy; a shared one never has."""
    config = parse("scopes: [{cgroup: /a, kind: owned}, {cgroup: /b, kind: shared}]")

    assert [scope.default for scope in config.scopes] == ["default-deny", None]


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ("/", "expected a cgroup below the root, got '/'"),
        ("''", "expected a cgroup such as /agentwall.slice, got ''"),
        ("x.slice", "expected a cgroup such as /agentwall.slice, got 'x.slice'"),
        ("/a/../b", "without empty names, '.' and '..', got '/a/../b'"),
        ("/..", "without empty names, '.' and '..'"),
        ("//", "without empty names, '.' and '..'"),
        ("//a", "without empty names, '.' and '..'"),
        ("/a/./b", "without empty names, '.' and '..'"),
        ('"/a\\nb"', "expected a cgroup such as /agentwall.slice, got '/a\\nb'"),
        ("/sys/fs/cgroup/a.slice", "as /proc/PID/cgroup spells it, such as /a.slice"),
        ("/sys/fs/cgroup/unified/a", "as /proc/PID/cgroup spells it, such as /a,"),
        ("/sys/fs/cgroup", "as /proc/PID/cgroup spells it, such as /agentwall.slice"),
        ("/" + "x" * 5000, "expected at most 4095 bytes, got 5001"),
        ("null", "expected a cgroup such as /agentwall.slice, got nothing"),
        ("[/a]", "got a list"),
    ],
)
def test_cgroups_refused(cgroup, expected):
    """The root, relative and roundabout paths and paths of the file system are no scopes."""
    (problem,) = problems(f"version: 1\nscopes:\n- {{cgroup: {cgroup}, kind: shared}}\n")

    assert problem.startswith("3:12: scopes[0].cgroup: ")
    assert expected in problem


@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        ("/a", "/a", "is the same as '/a' on line 3"),
        ("/a", "/a/", "is the same as '/a' on line 3"),
        ("/a", "/a/b/c", "lies within '/a' on line 3"),
        ("/a/b/c", "/a", "holds '/a/b/c' on line 3"),
        ("/a", "/ab", None),
        ("/a/b", "/a/c", None),
    ],
)
def test_scopes_apart(first, second, relation):
    """No scope is another one, lies in one or holds one; a common beginning is no relation."""
    text = f"scopes:\n- {{cgroup: {first}, kind: owned}}\n- {{cgroup: {second}, kind: shared}}\n"
    if relation is None:
        assert len(parse(text).scopes) == 2
    else:
        (problem,) = problems(f"version: 1\n{text}")
        assert problem.startswith("4:12: scopes[1].cgroup: ")
        assert problem.endswith(relation)


def test_default_of_a_shared_scope():
    """A shared scope takes no default policy, and the message says why."""
    (problem,) = problems(
        "version: 1\nscopes:\n- cgroup: /system.slice\n  kind: shared\n  default: rl-rollout\n"
    )

    assert problem.startswith("5:3: scopes[0].default: expected none in a shared scope: other ")


def test_empty_default():
    """An owned scope cannot be told to have no default policy."""
    for value in ("''", "null"):
        text = f"version: 1\nscopes: [{{cgroup: /a, kind: owned, default: {value}}}]"
        assert "expected the name of a policy" in problems(text)[0]


@pytest.mark.parametrize(
    ("glob", "fits"),
    [
        ("/a/b", True),
        ("/a/*", True),
        ("/a/*/c", True),
        ("/a/**", True),
        ("/*/b", True),
        ("/**/c", True),
        ("/**", True),
        ("/x/**", False),
        ("/a", False),
        ("/ab/c", False),
        ("/*", False),
        ("/b/a", False),
    ],
)
def test_globs_below_their_scope(glob, fits):
    """A glob that covers nothing below its scope is refused, for it would have no effect."""
    for key in ("include", "exclude"):
        text = f"scopes: [{{cgroup: /a, kind: shared, {key}: ['{glob}']}}]"
        if fits:
            assert getattr(parse(text).scopes[0], key) == (glob,)
        else:
            (problem,) = problems(f"version: 1\n{text}")
            assert f"scopes[0].{key}[0]: expected a path below /a, got '{glob}'" in problem


@pytest.mark.parametrize("glob", ["a/*", "/a/../b", "/a//b", "/a/b**", "''", "1"])
def test_globs_refused(glob):
    """What is no glob over cgroup paths is refused once."""
    (problem,) = problems(f"version: 1\nscopes: [{{cgroup: /a, kind: shared, include: [{glob}]}}]")

    assert "scopes[0].include[0]: expected " in problem


def test_include_of_an_owned_scope():
    """An owned scope needs no include, and does not take one."""
    (problem,) = problems("version: 1\nscopes: [{cgroup: /a, kind: owned, include: [/a/b]}]")

    assert "scopes[0].include: expected none in an owned scope" in problem
