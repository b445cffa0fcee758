# SPDX-License-Identifier: Apache-2.0
"""Severity: what makes a record serious."""

from __future__ import annotations

import pytest
from rig.records import asked, endpoint, flow, permitted, state
from rig.tls_records import STATIC, tls

from agentwall.engine.severity import severity_of
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.record import DetectionRecord, GapRecord, Question
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Direction, Reason, ReasonCode, Verdict


@pytest.mark.parametrize(
    ("record", "severity"),
    [
        (permitted(), Severity.INFO),
        (tls(), Severity.INFO),
        (tls(STATIC), Severity.INFO),
        (permitted(remote=endpoint("10.0.0.1", 80)), Severity.INFO),
        (flow(), Severity.LOW),
        (flow(remote=None), Severity.LOW),
        (flow(verdict=Verdict.WOULD_DENY), Severity.LOW),
        (flow(remote=endpoint("10.20.0.9", 22)), Severity.MEDIUM),
        (flow(remote=endpoint("::ffff:10.20.0.9", 22)), Severity.MEDIUM),
        (flow(remote=endpoint("169.254.169.254", 80)), Severity.MEDIUM),
        (flow(remote=endpoint("fd00:ec2::254", 80)), Severity.MEDIUM),
        (
            flow(remote=endpoint("192.168.1.1", 80), verdict=Verdict.WOULD_DENY),
            Severity.MEDIUM,
        ),
        # A visitor from a private network is not the sandbox reaching into one.
        (flow(remote=endpoint("10.0.0.1", 5000), direction=Direction.IN), Severity.LOW),
        # A question is harmless wherever its server is; playing the server is not.
        (asked("evil.example", 1), Severity.LOW),
        (asked("", 0, reason=Reason(code=ReasonCode.NOT_A_QUESTION)), Severity.LOW),
        (asked("evil.example", 1, verdict=Verdict.ALLOW), Severity.INFO),
        (
            flow(
                remote=endpoint("169.254.169.254", 0),
                reason=Reason(code=ReasonCode.REBINDING),
                question=Question(name="evil.example", type=1),
            ),
            Severity.MEDIUM,
        ),
        (flow(reason=Reason(code=ReasonCode.FORGED)), Severity.HIGH),
        (
            flow(reason=Reason(code=ReasonCode.FORGED), direction=Direction.IN),
            Severity.HIGH,
        ),
        (flow(reason=Reason(code=ReasonCode.NETNS)), Severity.HIGH),
        (flow(reason=Reason(code=ReasonCode.SERVER_NAME)), Severity.LOW),
        (state("started"), Severity.INFO),
        (state("damaged"), Severity.CRITICAL),
    ],
)
def test_severity_of_record(record, severity):
    """Denials are low, denials into reserved blocks medium, a damaged wall critical."""
    assert severity_of(record) is severity


@pytest.mark.parametrize(
    ("where", "severity"),
    [
        ("denials", Severity.MEDIUM),
        ("decode", Severity.MEDIUM),
        ("event-file", Severity.MEDIUM),
        ("excerpts", Severity.MEDIUM),
        ("flows", Severity.INFO),
        ("flow-table", Severity.INFO),
        ("names", Severity.INFO),
    ],
)
def test_lost_denials_count_as_denials(where, severity):
    """A flood cannot hide a denial from --fail-on: its gap is as serious as what it may hide."""
    started = state("started")
    gap = GapRecord(
        sandbox=started.sandbox, time_ns=started.time_ns, mono_ns=1, where=where, lost=3
    )

    assert severity_of(gap) is severity


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("severity", list(Severity))
def test_detections(severity, verdict):
    """A detection is as serious as what was found, whether or not it was cut."""
    found = Finding(
        cls=DetectionClass.MINING,
        signature="mining/x",
        dialect="x",
        severity=severity,
        confidence=Confidence.HIGH,
        stage=Stage.SIGNATURE,
    )
    seen = permitted()
    record = DetectionRecord(
        sandbox=seen.sandbox,
        time_ns=seen.time_ns,
        mono_ns=seen.mono_ns,
        process=None,
        finding=found,
        verdict=verdict,
        response="block",
        direction=seen.direction,
        protocol=seen.protocol,
        local=None,
        remote=seen.remote,
        name=None,
        reason=seen.reason,
        bytes_left=None,
    )

    assert severity_of(record) is severity


def test_severities_rise():
    """Severities compare in the order users know."""
    assert [severity.label for severity in sorted(Severity)] == [
        *("info", "low", "medium", "high", "critical")
    ]
