# SPDX-License-Identifier: Apache-2.0
"""Remedies: the line that would permit a denial."""

from __future__ import annotations

import pytest
from rig.records import ALLOWED, DENIED, MINING, NO_RULE, SCAN, UDP, asked, endpoint, flow

from agentwall.flow.verdict import Direction, Reason, ReasonCode, Verdict
from agentwall.policy import values
from agentwall.policy.load import load_policy
from agentwall.sinks import remedy as remedy_module
from agentwall.sinks.remedy import remedy_for, remedy_for_finding


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


@pytest.mark.parametrize(
    ("finding", "verdict", "reason", "remedy"),
    [
        (
            *(MINING, Verdict.DENY, ALLOWED),
            "except: [mining/stratum-v1] on rl-rollout:allow[0], or detect: {mining: alert}",
        ),
        (
            *(MINING, Verdict.ALLOW, ALLOWED),
            "except: [mining/stratum-v1] on rl-rollout:allow[0], or detect: {mining: off}",
        ),
        (MINING, Verdict.WOULD_DENY, NO_RULE, "detect: {mining: alert}"),
        (MINING, Verdict.DENY, DENIED, "detect: {mining: alert}"),
        (SCAN, Verdict.ALLOW, ALLOWED, "detect: {scan: off}"),
    ],
)
def test_remedy_for_a_finding(finding, verdict, reason, remedy):
    """An exception on the rule that permits where there can be one, or the class as a whole."""
    assert remedy_for_finding(finding, verdict, reason) == remedy


def test_remedies_are_policies(tmp_path):
    """What is proposed loads as it is written."""
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: 1\nname: p\ndetect: {mining: alert}\nallow:\n"
        "  - {cidr: 203.0.113.10, ports: [3333], except: [mining/stratum-v1]}\n"
    )
    remedy = remedy_for_finding(MINING, Verdict.DENY, ALLOWED)

    assert load_policy(path).allow[0].excepts == ("mining/stratum-v1",)
    assert "except: [mining/stratum-v1]" in remedy
    assert remedy.endswith("detect: {mining: alert}")


def test_what_can_be_excepted():
    """The same classes as in policies."""
    assert remedy_module.WITH_DIALECTS == values.WITH_DIALECTS
    assert remedy_module.EXCEPTABLE == values.EXCEPTABLE
