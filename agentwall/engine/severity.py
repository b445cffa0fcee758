# SPDX-License-Identifier: Apache-2.0
"""How serious a record is: what ``--fail-on`` and reports go by. Pure."""

from __future__ import annotations

from typing import assert_never

from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Record,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.endpoint import canonical
from agentwall.net.reserved import innermost_block

DAMAGED = "damaged"
"""The ``state`` of a record that says the wall itself is broken."""

_PLAYS_THE_SERVER = frozenset({ReasonCode.FORGED, ReasonCode.NETNS})
_ASKS_THE_SERVER = frozenset({ReasonCode.QUESTION, ReasonCode.NOT_A_QUESTION})
_HIDE_DENIALS = frozenset({"denials", "decode", "event-file", "event-queue", "excerpts"})
"""The places of a gap where a denial of any severity may have been lost, or was not made because
decoders missed what they should have seen."""


def severity_of(record: Record | DetectionRecord) -> Severity:
    """Return the severity of *record*. What would be denied in audit mode counts as denied."""
    match record:
        case FlowRecord():
            return _flow_severity(record)
        case GapRecord():
            # A flood must not hide the one denial that --fail-on waits for.
            return Severity.MEDIUM if record.where in _HIDE_DENIALS else Severity.INFO
        case StateRecord():
            return Severity.CRITICAL if record.state == DAMAGED else Severity.INFO
        case DetectionRecord():
            return record.finding.severity
        case TlsRecord():
            return Severity.INFO
        case _:
            assert_never(record)


def _flow_severity(record: FlowRecord) -> Severity:
    if record.verdict is Verdict.ALLOW:
        return Severity.INFO
    if record.reason.code in _PLAYS_THE_SERVER:
        return Severity.HIGH
    # To a DNS server that the policy declares, wherever it is.
    if record.reason.code in _ASKS_THE_SERVER:
        return Severity.LOW
    # A refused visitor from a private network is not the sandbox reaching into one.
    if record.direction is Direction.IN or record.remote is None:
        return Severity.LOW
    is_reserved = innermost_block(canonical(record.remote.address)) is not None
    return Severity.MEDIUM if is_reserved else Severity.LOW
