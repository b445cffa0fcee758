# SPDX-License-Identifier: Apache-2.0
"""Remedies: the line that would permit a denial."""

from __future__ import annotations

import pytest
from rig.records import DENIED, UDP, asked, endpoint, flow

from agentwall.flow.verdict import Direction, Reason, ReasonCode
from agentwall.sinks.remedy import remedy_for


@pytest.mark.parametrize(
    ("record", "remedy"),
    [
        (flow(), "under allow: - {cidr: 203.0.113.7, ports: [443]}"),
        (
            flow(remote=endpoint("8.8.8.8", 53, UDP), protocol=UDP),
            "under allow: - {cidr: 8.8.8.8, ports: [udp/53]}",
        ),
        (
            flow(
                direction=Direction.IN,
                local=endpoint("10.0.0.2", 8888),
                remote=endpoint("10.0.0.1", 5),
            ),
            "under inbound: - {cidr: 10.0.0.1, ports: [8888]}",
        ),
        (flow(name="a.example"), "under allow: - {host: a.example}"),
        (asked("b.example", 1, name="a.example"), "under allow: - {host: b.example}"),
        (
            flow(remote=endpoint("10.0.0.1", 443), name="a.example"),
            "under allow: - {cidr: 10.0.0.1, ports: [443]}",
        ),
        (flow(reason=DENIED), "no allow can undo it: denied by rl-rollout:deny[0]"),
        (
            flow(reason=Reason(code=ReasonCode.ROUTING_HEADER)),
            "no rule permits routing headers",
        ),
    ],
)
def test_remedy(record, remedy):
    """A record's own protocol, direction, port and reason decide what would permit it."""
    assert remedy_for(record) == remedy
