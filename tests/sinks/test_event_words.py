# SPDX-License-Identifier: Apache-2.0
"""One line for each event, whatever it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from rig.records import (
    APPLIED,
    FINISHED,
    SANDBOX,
    STARTED,
    detection,
    flow,
    permitted,
    state,
    totals,
)
from rig.strategies_of_records import RECORDS
from rig.tls_records import STATIC, tls

from agentwall.flow.record import GapRecord
from agentwall.sinks.escape import printable
from agentwall.sinks.event_words import MAX_CHARS, event_line

GAP = GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where="denials", lost=7)
PHASE = {**APPLIED.detail, "phase": "agent", "commit": "c0ffee0123456789"}
LABELLED = {"labels": {"step": "8"}, "before": {}, "by": "pid 7 (uid 1000)"}


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            flow(count=37),
            "denied tcp 203.0.113.7:443 (connect, EPERM) by curl[4242]: no rule allows it;"
            " to permit, under allow: - {cidr: 203.0.113.7, ports: [443]} (37 times)",
        ),
        (
            permitted(),
            "permitted tcp 198.51.100.10:443 (connect) by curl[4242]:"
            " rl-rollout:allow[0] at policies/rl-rollout.yaml:12",
        ),
        (
            totals(permitted(), out=48_213, back=9_812_442, sockets=6),
            "totals of tcp 198.51.100.10:443 by curl[4242]: 6 sockets, 48.2 kB out, 9.8 MB in,"
            " 4.4 s; rl-rollout:allow[0] at policies/rl-rollout.yaml:12",
        ),
        (
            tls(STATIC, count=3),
            "TLS to hub.example at 198.51.100.10:443 by curl[4242]:"
            " not read: static binary: its TLS has no names to probe (3 sessions)",
        ),
        (GAP, "lost 7 reports of denials: more at a time than there is room for"),
        (
            STARTED,
            "started, mode enforce, coverage partial, command python3 agent.py --episode 41,"
            " open: the host's network namespace: raw packets of other sockets",
        ),
        (APPLIED, "policy rl-rollout in force (mode enforce): 4 rules"),
        (
            state("rules-applied", PHASE),
            "policy rl-rollout in force (phase agent, mode enforce, commit c0ffee012345): 4 rules",
        ),
        (
            state("labelled", LABELLED),
            "labelled step=8, before that none, by pid 7 (uid 1000)",
        ),
        (
            state("mode", {"mode": "audit", "until": "T", "reason": "3 a.m.", "by": "root"}),
            "mode audit until T, by root: 3 a.m.",
        ),
        (
            state("mode", {"mode": "enforce", "until": None, "reason": "", "by": "time"}),
            "mode enforce, as the policy says, by time",
        ),
        (state("response", {"response": "kill", "problem": None}), "response kill carried out"),
        (
            state("response", {"response": "freeze", "problem": "gone"}),
            "response freeze failed: gone",
        ),
        (state("damaged", {"what": "a hook"}), "the wall is damaged: a hook"),
        (
            state("flow-left-hanging", {"why": "no", "remote": "1.2.3.4 port 5"}),
            "a flow to 1.2.3.4 port 5 is cut, but its socket could not be ended: no",
        ),
        (state("log-continued", {"file": "x"}), "the log goes on in this file"),
        (FINISHED, "finished: exit code 1, 60 denied, 0 would be denied, 2 events lost"),
        (state("finished"), "finished"),
        (state("reload-failed", {"what": "p.yaml:1", "n": []}), "reload failed: what: p.yaml:1"),
        (state("stopped"), "stopped"),
    ],
)
def test_lines(record, line):
    """Each kind says what a person asks first."""
    assert event_line(record) == line


def test_a_detection():
    """A finding's line is the one `run` prints, with how often."""
    line = event_line(replace(detection(), count=3))

    assert line.startswith("detected mining (stratum-v1) in tcp 203.0.113.10:3333 by python3[123]")
    assert line.endswith("(3 times)")


@given(RECORDS)
def test_any_record(record):
    """Whatever is in a record, it is one bounded line that acts on no terminal."""
    line = event_line(record)

    assert line == printable(line)
    assert len(line) <= MAX_CHARS
