# SPDX-License-Identifier: Apache-2.0
"""A status reads well, and what is wrong comes first."""

from __future__ import annotations

import io

import pytest
from rig import daemon_answers

from agentwall.sinks.pretty import make_console
from agentwall.sinks.status_pretty import is_in_force, status_parts, status_problems


def _print(parts, width=160):
    stream = io.StringIO()
    console = make_console(stream, width=width)
    for part in parts:
        console.print(part)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_whole():
    """Everything that is in force, a line or a row each."""
    lines = _print(status_parts(daemon_answers.status()))

    assert lines[:2] == [
        "agentwall 0.5.0  in force for 12 sandboxes",
        "pid 1234, up 3 h 05 min since 2026-11-29 08:00:00, Linux 6.18.2",
    ]
    assert lines[3:11] == [
        "modes       11 enforce, 1 audit, 1 switched by hand",
        "coverage    10 full, 2 partial, 1 ran unwatched at first",
        "denied      4711, 12 would be",
        "event log   /var/log/agentwall/events.jsonl: 81234 events, rotated 2 times",
        "signatures  61 (9f86d081884c)",
        "inside TLS  on (bcc 0.26.0, 1 library, 12 processes read), 1 with TLS that is not read",
        "self-check  2026-11-29 11:04:58",
        "reload      2026-11-29 10:00:00 applied: 1 policy changed: rl-rollout",
    ]
    assert "problems" not in lines
    assert [line.split() for line in lines if line.startswith("rl-rollout")] == [
        [
            *("rl-rollout", "enforce", "setup,", "agent", "10", "4f2d9c1e8ab0", "9f86d081884c"),
            "/etc/agentwall/policies/rl-rollout.yaml",
        ]
    ]
    assert lines[-2:] == [
        "7 of 8 hooks in force",
        "  connect_unix (optional): not supported (needs Linux 6.7)",
    ]


def test_problems():
    """Every kind of problem has its line."""
    broken = daemon_answers.broken_status()
    lines = _print(status_parts(broken))

    assert lines[0] == "agentwall 0.5.0  not in force"
    assert lines[3:14] == ["problems", *(f"  {each}" for each in status_problems(broken))]
    assert status_problems(broken) == [
        "hook egress is not in force: detached by another",
        "scope /agentwall.slice is not in force: cgroup /agentwall.slice: gone",
        "scope /system.slice: kube-system is in it\\x1b[2J",
        "aaaa11112222: 2 links were gone; repaired",
        "17 reports of denials: more at a time than there is room for",
        "the event log: 3 events not written",
        "inside TLS: 1 library not probed: 64 are as many as may be (tls.max_libraries)",
        "the last reload was not applied: the edition of 09:00 stays",
        "p.yaml:3:1: allow: expected a list",
        "commit: no git there",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"hooks": [{"name": "x", "required": False, "in_force": False}]}, True),
        ({"hooks": [{"name": "x", "required": True, "in_force": False}]}, False),
        ({"hooks": [{"name": "x", "required": True}]}, False),
        ({"scopes": [{"cgroup": "/x", "in_force": False}]}, False),
    ],
)
def test_is_in_force(change, expected):
    """Required hooks and scopes have to be; optional hooks need not."""
    assert is_in_force(daemon_answers.status(**change)) is expected


def test_narrow():
    """In 100 columns no word is cut off, and no file is broken."""
    lines = _print(status_parts(daemon_answers.status(), is_narrow=True), 100)

    assert any(line.endswith("/usr/share/agentwall/policies/default-deny.yaml") for line in lines)
    assert max(map(len, lines)) <= 100


def test_empty():
    """A daemon that says nothing is shown all the same."""
    assert _print(status_parts({}))[0] == "agentwall   in force for 0 sandboxes"
