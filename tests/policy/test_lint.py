# SPDX-License-Identifier: Apache-2.0
"""Warnings: each appears where it should, and nowhere else."""

from __future__ import annotations

import pytest

from agentwall.policy.lint import lint_policy
from agentwall.policy.load import load_policy

TESTS = "tests: [{to: '1.1.1.1:1', expect: deny}]\n"


def _lint(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\n{text}")
    policy = load_policy(path, search_path=())
    return [str(warning).removeprefix(f"{path}:") for warning in lint_policy(policy)]


@pytest.mark.parametrize(
    ("rules", "warning"),
    [
        (
            "allow: [{cidr: any, ports: [any]}]",
            "2:16: p:allow[0]: warning: opens every port of every address outside the reserved",
        ),
        (
            "allow: [{cidr: '::/0', ports: ['tcp/*', 'udp/*', icmp]}]",
            "2:16: p:allow[0]: warning: opens every port of every address outside the reserved",
        ),
        (
            "allow: [{cidr: 10.0.0.0/8, ports: [443]}]",
            "2:16: p:allow[0]: warning: opens the whole reserved block 10.0.0.0/8",
        ),
        (
            "allow: [{cidr: 169.254.169.254, ports: [80]}]",
            "2:16: p:allow[0]: warning: opens a metadata service (169.254.169.254), which hands",
        ),
        (
            "allow: [{cidr: 10.1.0.0/16, ports: [443]}]\ndeny: [{cidr: 10.0.0.0/8}]",
            "2:9: p:allow[0]: warning: allows nothing: p:deny[0] denies all of it",
        ),
        (
            "allow: [{cidr: any, ports: [22]}]\ndeny: [{cidr: any, ports: ['tcp/*']}]",
            "2:9: p:allow[0]: warning: allows nothing: p:deny[0] denies all of it",
        ),
        (
            "allow: [{cidr: 1.1.1.1, ports: [1-9]}, {cidr: 1.1.1.1, ports: [5]}]",
            "2:47: p:allow[1]: warning: 1.1.1.1/32 is already at ",
        ),
        (
            "inbound: [{cidr: 127.0.0.0/8, ports: [80]}]",
            "2:11: p:inbound[0]: warning: never asked: loopback is not inbound",
        ),
    ],
)
def test_warnings(tmp_path, rules, warning):
    """Each kind of doubtful rule gets one warning at its place."""
    (found,) = _lint(tmp_path, f"{rules}\n{TESTS}")

    assert found.startswith(warning)


@pytest.mark.parametrize(
    "rules",
    [
        "allow: [{cidr: any, ports: [443]}]",
        "allow: [{cidr: any, ports: [ip/132]}]",
        "allow: [{cidr: 10.0.0.0/9, ports: [any]}]",
        "allow: [{cidr: 127.0.0.1, ports: [80]}, {cidr: '::1', ports: [80]}]",
        "allow: [{cidr: 10.1.0.0/16, ports: [443]}]\ndeny: [{cidr: 10.1.0.0/17}]",
        "allow: [{cidr: 10.1.0.0/16, ports: [443]}]\ndeny: [{cidr: 10.0.0.0/8, ports: [22]}]",
        "allow: [{cidr: any, ports: [22]}]\ndeny: [{cidr: 0.0.0.0/0}]",  # IPv6 is left
        "allow: [{cidr: 1.1.1.1, ports: [5]}, {cidr: 1.1.1.1, ports: [1-9]}]",
        "allow: [{cidr: 1.1.1.1, ports: [5]}]\ninbound: [{cidr: 1.1.1.1, ports: [5]}]",
        "deny: [{cidr: 169.254.169.254}, {cidr: 10.0.0.0/8}, {cidr: any, ports: [any]}]",
        "inbound: [{cidr: any, ports: [80]}]",
    ],
)
def test_no_warning(tmp_path, rules):
    """Rules that mean what they say are left alone."""
    assert _lint(tmp_path, f"{rules}\n{TESTS}") == []


def test_no_tests(tmp_path):
    """A policy without tests is warned about at its first line."""
    assert _lint(tmp_path, "name: p\n") == [
        "1:1: tests: warning: no tests: a change of the rules goes unnoticed"
    ]


def test_repetition_in_a_list_is_one_warning(tmp_path):
    """A list with many repeated lines is one warning at the first of them."""
    (tmp_path / "l.txt").write_text("1.1.1.1\n" * 100)
    (found,) = _lint(tmp_path, f"deny: [{{cidr_file: l.txt}}]\n{TESTS}")

    assert found == (
        f"{tmp_path}/l.txt:2:1: p:deny[0]: warning: 1.1.1.1/32 is already at "
        f"{tmp_path}/l.txt:1:1, and 98 more"
    )


def test_many_lines_about_one_prefix(tmp_path):
    """Thousands of lines about one address are no reason to warn, nor to take long."""
    rules = "".join(f"  - {{cidr: 1.1.1.1, ports: [{n}]}}\n" for n in range(1, 3001))

    assert _lint(tmp_path, f"allow:\n{rules}{TESTS}") == []


def test_empty_list(tmp_path):
    """A rule whose list is empty matches nothing, which matters most under deny."""
    (tmp_path / "l.txt").write_text("# to do\n")
    found = _lint(tmp_path, f"deny: [{{cidr_file: l.txt}}]\n{TESTS}")

    assert found == ["2:8: p:deny[0]: warning: matches nothing: its list is empty"]
