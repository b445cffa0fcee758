# SPDX-License-Identifier: Apache-2.0
"""What would permit a denied flow or let a detection pass, in the policy's own words. Pure."""

from __future__ import annotations

from agentwall.flow.finding import DetectionClass, Finding
from agentwall.flow.record import FlowRecord
from agentwall.flow.verdict import Reason, Verdict
from agentwall.policy.explain import suggest
from agentwall.policy.model import Response
from agentwall.sinks.flow_keys import judged_port

_OF_ALLOW = ":allow["
"""In the id of a rule that may have exceptions."""
# As policy/values.py has them; that module is slow to import, and a report needs no policy.
WITH_DIALECTS = (DetectionClass.MINING, DetectionClass.TUNNEL, DetectionClass.P2P)
EXCEPTABLE = (*WITH_DIALECTS, DetectionClass.BEACON)


def remedy_for(record: FlowRecord) -> str:
    """Return the line of YAML that would permit *record*, or why none can."""
    asked = record.question
    return suggest(
        protocol=record.protocol,
        remote=record.remote,
        direction=record.direction,
        local_port=judged_port(record),
        code=record.reason.code,
        rule=record.reason.rule,
        name=asked.name if asked is not None else record.name,
    )


def remedy_for_finding(finding: Finding, verdict: Verdict, reason: Reason) -> str:
    """Return what lets *finding* pass where it is cut, or silences it where it is an alert.

    ``except: [mining/stratum-v1] on rl-rollout:allow[0], or detect: {mining: alert}``. Only what a
    rule allows can be excepted on it, and only what concerns single flows.

    Args:
        finding: What was recognised.
        verdict: ALLOW for an alert.
        reason: With the rule that permits the flow, if one does.
    """
    cls = finding.cls
    response = Response.OFF if verdict is Verdict.ALLOW else Response.ALERT
    everywhere = f"detect: {{{cls.value}: {response.value}}}"
    if cls not in EXCEPTABLE or reason.rule is None or _OF_ALLOW not in reason.rule:
        return everywhere
    entry = f"{cls.value}/{finding.dialect}" if cls in WITH_DIALECTS else cls.value
    return f"except: [{entry}] on {reason.rule}, or {everywhere}"
