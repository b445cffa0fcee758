# SPDX-License-Identifier: Apache-2.0
"""What would permit a denied flow, in the policy's own words. Pure."""

from __future__ import annotations

from agentwall.flow.record import FlowRecord
from agentwall.policy.explain import suggest
from agentwall.sinks.flow_keys import judged_port


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
