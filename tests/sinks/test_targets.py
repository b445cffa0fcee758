# SPDX-License-Identifier: Apache-2.0
"""The words for what was tried and where to."""

from __future__ import annotations

import pytest
from hypothesis import given
from rig.records import ICMP, asked, endpoint, flow
from rig.strategies_of_records import flows

from agentwall.flow.record import Question
from agentwall.flow.verdict import Direction, Reason, ReasonCode
from agentwall.sinks.escape import printable
from agentwall.sinks.targets import record_target

SAID = Question(name="evil.example", type=None)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (flow(), "tcp 203.0.113.7:443"),
        (flow(name="hub.example.com"), "tcp hub.example.com:443 (203.0.113.7)"),
        (
            flow(protocol=ICMP, remote=endpoint("203.0.113.7", 0, ICMP), name="hub.example.com"),
            "icmp hub.example.com (203.0.113.7)",
        ),
        (
            flow(direction=Direction.IN, name="hub.example.com", local=endpoint("10.0.0.1", 80)),
            "tcp from 203.0.113.7 to port 80",
        ),
        (asked("", 2), "DNS question for . (NS) to 10.20.0.2"),
        (
            asked("a.example", 1, reason=Reason(code=ReasonCode.NOT_A_QUESTION)),
            "DNS question for a.example (A) to 10.20.0.2",
        ),
        (
            asked("a", 1, question=None, reason=Reason(code=ReasonCode.NOT_A_QUESTION)),
            "udp 10.20.0.2:53",
        ),
        (
            asked("a.example", 1, reason=Reason(code=ReasonCode.REBINDING)),
            "DNS answer 10.20.0.2 for a.example (A)",
        ),
        (
            flow(name="hub.example.com", question=SAID, reason=Reason(code=ReasonCode.SERVER_NAME)),
            "tcp hub.example.com:443 (203.0.113.7) as evil.example",
        ),
        (
            flow(question=SAID, reason=Reason(code=ReasonCode.PROXY_TARGET)),
            "tcp 203.0.113.7:443 for evil.example",
        ),
        (flow(name="x" * 300), f"tcp {'x' * 77}...:443 (203.0.113.7)"),
    ],
)
def test_targets(record, words):
    """Where a name is known it comes first; questions and answers say what they are about."""
    assert record_target(record) == words


@given(flows())
def test_targets_are_safe(record):
    """Whatever a sandbox asked for, the words are one line without anything that acts on it."""
    words = record_target(record)

    assert words == printable(words)
    assert len(words) < 400
