# SPDX-License-Identifier: Apache-2.0
"""Sandboxes as people see them."""

from __future__ import annotations

import io

import pytest
from rig.daemon_answers import busy_sandbox, sandbox

from agentwall.sinks.pretty import make_console
from agentwall.sinks.status_sandboxes import paces, sandbox_list, sandbox_parts, top_table


def _print(parts, width=200):
    stream = io.StringIO()
    console = make_console(stream, width=width)
    for part in parts:
        console.print(part)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_list():
    """A row for each, with what stands out: modes that are not the policy's, open roads."""
    lines = _print(sandbox_list([sandbox(1), busy_sandbox()]))

    assert lines[0].split() == [
        *("id", "name", "policy", "mode", "coverage", "denied", "last", "denial", "state"),
        "labels",
    ]
    assert lines[2].split() == [
        *("0001c0ffee00", "rollout-1", "rl-rollout/agent", "enforce", "full", "0", "-", "running"),
        *("episode=1", "run=grpo-41", "step=3"),
    ]
    assert "audit (not enforce)   partial (2 open)   4711 +12   2026-11-29 11:04:58" in lines[3]
    assert "note\\x1b=a\\u202ebxxxx" in lines[3]
    assert lines[-1] == "2 sandboxes"


@pytest.mark.parametrize("is_narrow", [False, True])
def test_list_of_who_is_not_read(is_narrow):
    """Processes whose TLS is not read stand with the coverage; none is not worth a word."""
    listed = [{**sandbox(1), "tls_unread": 2}, {**sandbox(2), "tls_unread": 0}, sandbox(3)]
    said = "\n".join(_print(sandbox_list(listed, is_narrow=is_narrow)))

    assert said.count("TLS of 2 not read") == said.count("not read") == 1


def test_why_sessions_were_not_read():
    """Reasons are told of processes that have ended as well."""
    tls = {"sessions": 9, "joined": 7, "unread": {"static": 1, "go": 1}, "processes": []}
    lines = _print(sandbox_parts({**busy_sandbox(), "tls": tls}))

    assert "inside TLS  7 of 9 sessions read; not read: 1 static, 1 go" in lines


@pytest.mark.parametrize("width", [80, 100, 129])
def test_narrow_list(width):
    """Where there is little room, names and labels stand below each other, and none is lost."""
    lines = _print(sandbox_list([sandbox(1), busy_sandbox()], is_narrow=True), width)
    whole = " ".join(" ".join(lines).split())

    for word in (
        "0002c0ffee00",
        "rollout-2",
        "rl-rollout/agent",
        "4711 +12",
        "2026-11-29",
        "11:04:58",
    ):
        assert word in whole
    assert "run=grpo-41" in whole
    assert max(map(len, lines)) <= width


def test_none():
    """No sandboxes is said, not shown as an empty table."""
    assert _print(sandbox_list([])) == ["no sandboxes"]


def test_one():
    """Everything about one sandbox, escaped."""
    lines = _print(sandbox_parts(busy_sandbox()))

    assert lines[0] == "sandbox 0002c0ffee00"
    assert lines[2].startswith(
        "origin      runtime docker, name rollout-2, image registry.example/"
    )
    assert lines[4:6] == [
        "admitted    2026-11-29 11:00:00 (found), ran unwatched for 38 ms",
        "state       running, 4 processes",
    ]
    assert lines[7] == (
        "mode        audit (not enforce) until 2026-11-29 11:30:00, by pid 7 (uid 0):"
        " vLLM moved; see the runbook"
    )
    assert lines[8:16] == [
        "coverage    partial (2 open)",
        "            open: the host's network namespace",
        "            open: CAP_NET_RAW is kept",
        "            hook connect_unix is not in force",
        "denied      4711, 12 would be, last at 2026-11-29 11:04:58",
        "found       1 detection, 1 cut off, 3 probes",
        "inside TLS  3 of 5 sessions read, 1 process with TLS that is not read",
        "lost        5 reports of denials: more at a time than there is room for",
    ]
    assert "tcp 203.0.113.7 port 3333 (pool.example)   xmr\\x1b[31m[77]" in "\n".join(lines)
    assert "not all are here: some were lost, or forgotten" in lines
    assert any("mining/stratum" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unwatched_ms": None}, "not known for how long it ran before"),
        ({"origin": None}, "origin    not known"),
        ({"missing_hooks": {"egress": "gone\x1b"}}, "hook egress is missing: gone\\x1b"),
        (
            {"override": {"until": None, "by": "b", "reason": "r"}},
            "until somebody ends it, by b: r",
        ),
    ],
)
def test_one_that_is_odd(change, words):
    """What is not known, or missing, is said."""
    assert words in "\n".join(_print(sandbox_parts(sandbox(1, **change))))


def test_who_is_read():
    """Each process with whether it is read, why not, and by what; the rest is counted."""
    lines = _print(sandbox_parts(busy_sandbox()))
    start = next(n for n, line in enumerate(lines) if line.startswith("process "))

    assert lines[start].split() == [*("process", "program", "sessions", "inside", "TLS", "library")]
    assert " ".join(lines[start + 2].split()) == (
        "agent\\x1b[78] /opt/agent\\u202e 2 Go binary: it has a TLS of its own -"
    )
    assert " ".join(lines[start + 3].split()) == (
        "python3[77] - 3 read OpenSSL /usr/lib/libssl.so.3"
    )
    assert lines[start + 4] == "2 processes more"


def test_nobody_looked_inside():
    """Of a sandbox of which nothing is known, that is said, and there is no table."""
    unknown = {"sessions": None, "joined": None, "processes": [], "truncated": 0}
    lines = _print(sandbox_parts(sandbox(1, tls=unknown)))

    assert any(line.split(maxsplit=2) == ["inside", "TLS", "nothing is known"] for line in lines)
    assert not any(line.startswith("process ") for line in lines)


def test_denials_by_no_rule_have_no_lines():
    """Where no row has a line of a policy there is no column of lines."""
    denials = busy_sandbox()["denials"]
    rows = [{**row, "file": None, "line": None} for row in denials["denials"]]
    headings = [
        line.split()[-1]
        for each in (denials, {**denials, "denials": rows})
        for line in _print(sandbox_parts(sandbox(1, denials=each)))
        if line.startswith("times ")
    ]

    assert headings == ["where", "rule"]


def test_many_denials():
    """Fifty are listed, the rest counted."""
    row = busy_sandbox()["denials"]["denials"][1]
    many = sandbox(1, denials={"denials": [row] * 70, "detections": [], "complete": True})
    lines = _print(sandbox_parts(many))

    assert lines[-1] == "20 more; the event log has them"
    assert sum("no-rule" in line for line in lines) == 50


def test_paces():
    """Rates are what was added since; who came in between began at nothing, who left is gone."""
    before = [sandbox(1, denied=5), sandbox(2, denied=9, would_denied=1), sandbox(9)]
    after = [
        sandbox(1, denied=5),
        sandbox(2, denied=9, would_denied=5),
        sandbox(3, denied=20),
        sandbox(4, denied=2),
    ]
    found = paces(before, after, 2.0)

    assert [(pace.sandbox["origin"]["name"], pace.denied_per_s) for pace in found] == [
        ("rollout-3", 10.0),
        ("rollout-2", 2.0),
        ("rollout-4", 1.0),
        ("rollout-1", 0.0),
    ]
    assert all(pace.bytes_per_s is None for pace in found)


def test_paces_after_a_restart():
    """Counters that went back give no negative rate; bytes are told where they are known."""
    before = [sandbox(1, denied=500, bytes_out=9, bytes_in=9)]
    (pace,) = paces(before, [sandbox(1, denied=3, bytes_out=2009, bytes_in=9)], 2.0)

    assert (pace.denied_per_s, pace.bytes_per_s) == (0.0, 1000.0)


@pytest.mark.parametrize("is_narrow", [False, True])
def test_top(is_narrow):
    """The busiest come first, as many as there is room for; bytes only where they are known."""
    found = paces([], [sandbox(n, denied=n) for n in range(1, 6)], 1.0)
    lines = _print([top_table(found, 2, is_narrow=is_narrow)], 100 if is_narrow else 200)
    text = "\n".join(lines)

    assert ("rollout-5" in text, "rollout-4" in text, "rollout-3" in text) == (True, True, False)
    assert "bytes/s" not in text
    busy = [sandbox(1, bytes_out=5000, bytes_in=0), sandbox(2)]
    assert "5.0 kB" in "\n".join(_print([top_table(paces([], busy, 1.0))]))
