# SPDX-License-Identifier: Apache-2.0
"""Policies that stand on others, and the lists they name."""

from __future__ import annotations

import hashlib

import pytest

from agentwall.errors import PolicyError
from agentwall.flow.verdict import Mode
from agentwall.policy.extends import default_search_path, shipped_policies
from agentwall.policy.load import load_policy
from agentwall.policy.model import Loopback, OnError


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _problems(path, **options) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load_policy(path, **options)
    return [str(error) for error in caught.value.errors]


def _policy(directory, name, *, extends=(), more=""):
    rule = f"- {{cidr: 8.8.8.8, ports: [1], note: {name}}}"
    text = f"version: 1\nname: {name}\nextends: [{', '.join(extends)}]\nallow:\n{rule}\n{more}"
    return _write(directory / f"{name}.yaml", text)


def test_bases_come_first_from_left_to_right_each_once(tmp_path):
    """A diamond is joined in the order of reading, its common base once."""
    _policy(tmp_path, "root")
    _policy(tmp_path, "left", extends=["root"])
    _policy(tmp_path, "right", extends=["root"])
    path = _policy(tmp_path, "top", extends=["left", "right"])
    policy = load_policy(path, search_path=())

    assert [rule.id for rule in policy.allow] == [
        "root:allow[0]",
        "left:allow[0]",
        "right:allow[0]",
        "top:allow[0]",
    ]
    assert [rule.where.path for rule in policy.allow] == list(policy.files)
    assert policy.files[-1] == str(path)
    assert policy.name == "top"


def test_single_values_are_inherited(tmp_path):
    """A value is that of the last file, in reading order, that sets it."""
    _policy(tmp_path, "a", more="mode: audit\nrefuse_with: EACCES\non_error: degrade\n")
    _policy(tmp_path, "b", more="refuse_with: ENETUNREACH\nloopback: deny\n")
    path = _policy(tmp_path, "top", extends=["a", "b"], more="on_error: fail-closed\n")
    policy = load_policy(path, search_path=())

    assert policy.mode is Mode.AUDIT
    assert policy.refuse_with == "ENETUNREACH"
    assert policy.loopback is Loopback.DENY
    assert policy.on_error is OnError.FAIL_CLOSED


def test_tests_are_not_inherited(tmp_path):
    """Only the file's own tests count."""
    _policy(tmp_path, "a", more="tests: [{to: '1.1.1.1:1', expect: deny}]\n")
    policy = load_policy(_policy(tmp_path, "top", extends=["a"]), search_path=())

    assert policy.tests == ()


def test_search_order(tmp_path):
    """Beside the file first, then along the search path."""
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        _policy(directory, "a", more=f"mode: {'audit' if directory is first else 'observe'}\n")
    _policy(second, "b")
    path = _policy(tmp_path / "own", "top", extends=["a", "b"])

    assert load_policy(path, search_path=(first, second)).mode is Mode.AUDIT

    _policy(tmp_path / "own", "a")

    assert load_policy(path, search_path=(first, second)).mode is Mode.ENFORCE


def test_bases_are_sought_beside_the_base(tmp_path):
    """A base's own bases and lists are sought from where it stands."""
    _policy(tmp_path / "base", "deep")
    _write(tmp_path / "base" / "l.txt", "1.1.1.1\n")
    _policy(
        tmp_path / "base", "a", extends=["deep"], more="deny: [{cidr_file: l.txt, ports: [9]}]\n"
    )
    policy = load_policy(_policy(tmp_path, "top", extends=["base/a"]), search_path=())

    assert policy.deny[0].id == "a:deny[0]"
    assert [rule.policy for rule in policy.allow] == ["deep", "a", "top"]


def test_shipped_policies_are_found_from_anywhere(tmp_path):
    """The policies that come with agentwall need no path."""
    policy = load_policy(_policy(tmp_path, "top", extends=["base/rl-training"]))

    assert policy.deny[0].policy == "rl-training"
    assert default_search_path()[-1] == shipped_policies()
    assert (shipped_policies() / "default-deny.yaml").is_file()


@pytest.mark.parametrize(
    ("links", "way"),
    [
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, ["a", "b", "c", "b"]),
    ],
)
def test_cycles(tmp_path, links, way):
    """A cycle is an error where it closes, and names the whole way."""
    for name, extends in links.items():
        _policy(tmp_path, name, extends=extends)
    (found,) = _problems(tmp_path / "a.yaml", search_path=())
    shown = " -> ".join(str(tmp_path / f"{name}.yaml") for name in way)

    assert found == f"{tmp_path / way[-2]}.yaml:3:11: extends[0]: cycle: {shown}"


def test_cycle_through_a_link(tmp_path):
    """Another name for the same file does not hide a cycle."""
    path = _policy(tmp_path, "a", extends=["b"])
    (tmp_path / "b.yaml").symlink_to(path)
    (found,) = _problems(path, search_path=())

    assert "extends[0]: cycle: " in found


def test_endless_chain(tmp_path):
    """A long chain is an error before it exhausts the stack."""
    for number in range(40):
        _policy(tmp_path, f"p{number}", extends=[f"p{number + 1}"])
    (found,) = _problems(tmp_path / "p0.yaml", search_path=())

    assert found.endswith("expected at most 16 policies that stand on one another")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("nope", "extends[0]: expected the name of a policy, got 'nope'"),
        ("/etc/passwd", "extends[0]: expected a name relative to this file"),
        ('"a\\0b"', "extends[0]: expected a name relative to this file"),
        ("''", "extends[0]: expected a name relative to this file"),
        ("directory", "cannot be read: is a directory"),
        (f"{'x' * 199}/{'y' * 260}", "extends[0]: expected a shorter text"),
    ],
)
def test_bad_names(tmp_path, entry, problem):
    """A base that is no policy is an error at its name."""
    (tmp_path / "directory.yaml").mkdir()
    (found,) = _problems(_policy(tmp_path, "a", extends=[entry]), search_path=())

    assert found.startswith(f"{tmp_path}/a.yaml:3:11: ")
    assert problem in found


def test_problems_of_bases_and_lists_are_reported_together(tmp_path):
    """One look is enough: every file's problems, each in its own place."""
    _write(tmp_path / "a.yaml", "version: 1\nmode: x\n")
    _write(tmp_path / "b.yaml", "version: 1\n- broken\n")
    _write(tmp_path / "l.txt", "10.0.0.1/8\n\nany\n")
    path = _policy(tmp_path, "top", extends=["a", "b"], more="deny: [{cidr_file: l.txt}]\n")
    found = [problem.removeprefix(f"{tmp_path}/") for problem in _problems(path, search_path=())]

    assert [" ".join(problem.split(":")[:3]) for problem in found] == [
        "a.yaml 2 7",
        "b.yaml 2 1",
        "l.txt 1 1",
        "l.txt 3 1",
    ]


def test_two_policies_of_one_name(tmp_path):
    """Rule ids are made of names, so two policies cannot share one."""
    _write(tmp_path / "base" / "a.yaml", "version: 1\nname: same\n")
    path = _write(tmp_path / "b.yaml", "version: 1\nextends: [base/a]\nname: same\n")
    (found,) = _problems(path, search_path=())

    assert found == (
        f"{path}:3:1: name: expected a name of its own, got 'same', "
        f"which {tmp_path}/base/a.yaml has"
    )


def test_list(tmp_path):
    """A list's prefixes stand at their lines; files and digest cover it."""
    path = _policy(tmp_path, "a", more="deny: [{cidr_file: l.txt}, {cidr_file: l.txt}]\n")
    listed = _write(tmp_path / "l.txt", "# head\n\n1.1.1.1\n  2001:db8::/32 # tail\r\n")
    policy = load_policy(path, search_path=())
    (one, other) = policy.deny

    assert [str(p.network) for p in one.prefixes] == ["1.1.1.1/32", "2001:db8::/32"]
    assert [str(p.where) for p in one.prefixes] == [f"{listed}:3:1", f"{listed}:4:3"]
    assert other.prefixes == one.prefixes
    assert policy.files == (str(listed), str(path))
    content = listed.read_bytes() + path.read_bytes()
    assert policy.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none.txt", "cannot be read: no such file or directory"),
        (".", "cannot be read: is a directory"),
        ('"a\\0b"', "deny[0].cidr_file: expected a path"),
        ("''", "deny[0].cidr_file: expected a path"),
    ],
)
def test_unreadable_list(tmp_path, name, problem):
    """A list that cannot be read is an error where the policy names it."""
    path = _write(tmp_path / "a.yaml", f"version: 1\ndeny:\n  - cidr_file: {name}\n")
    (found,) = _problems(path, search_path=())

    assert found.startswith(f"{path}:3:16: deny[0].cidr_file: ")
    assert problem in found


def test_paths_below_the_working_directory_are_relative(tmp_path, monkeypatch):
    """Places read as the user would write them."""
    _policy(tmp_path / "base", "a")
    _policy(tmp_path, "top", extends=["base/a"])
    monkeypatch.chdir(tmp_path)
    policy = load_policy("top.yaml", search_path=())

    assert policy.files == ("base/a.yaml", "top.yaml")
    assert load_policy("top.yaml", search_path=(tmp_path,)).files == policy.files
