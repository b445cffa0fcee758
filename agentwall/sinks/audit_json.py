# SPDX-License-Identifier: Apache-2.0
"""An audit report as one JSON document, ``agentwall.audit/1``. Pure."""

from __future__ import annotations

from agentwall.flow.record import GapRecord
from agentwall.flow.verdict import Reason
from agentwall.net.ports import protocol_name
from agentwall.sinks.event_json import (
    encode_endpoint,
    encode_process,
    encode_question,
    encode_sandbox,
)
from agentwall.sinks.eventlog import LogError
from agentwall.sinks.report_rows import (
    AuditReport,
    Bucket,
    Finding,
    FlowRow,
    ProcessRow,
    SandboxRow,
    Totals,
)
from agentwall.sinks.rfc3339 import format_time

SCHEMA = "agentwall.audit/1"


def encode_report(report: AuditReport) -> dict[str, object]:
    """Return *report* as a JSON document; docs/event-schema.md describes the rows."""
    return {
        "schema": SCHEMA,
        "captures": 0,
        "events": report.events,
        "severity": report.severity.label,
        "totals": _totals(report.totals),
        "denials": [_flow(row) for row in report.denials],
        "findings": [_finding(finding) for finding in report.findings],
        "permitted": [_flow(row) for row in report.permitted],
        "processes": [_process_row(row) for row in report.processes],
        "timeline": [_bucket(bucket, report.step_ns) for bucket in report.timeline],
        "sandboxes": [_sandbox_row(row) for row in report.sandboxes],
        "gaps": [_gap(gap) for gap in report.gaps],
        "errors": [_error(error) for error in report.errors],
    }


def _totals(totals: Totals) -> dict[str, object]:
    return {
        "denied": totals.denied,
        "would_denied": totals.would_denied,
        "permitted": totals.permitted,
        "bytes_out": totals.bytes_out,
        "bytes_in": totals.bytes_in,
        "probes": totals.probes,
        "lost": totals.lost,
        "first": _time(totals.first_ns),
        "last": _time(totals.last_ns),
        "unlisted": {
            "denials": totals.unlisted_denials,
            "permitted": totals.unlisted_permitted,
            "errors": totals.unlisted_errors,
        },
    }


def _flow(row: FlowRow) -> dict[str, object]:
    remote = encode_endpoint(row.remote)
    return {
        "severity": row.severity.label,
        "verdict": row.verdict.value,
        "sandbox": row.sandbox,
        "process": encode_process(row.process),
        "pids": list(row.pids),
        "direction": row.direction.value,
        "protocol": protocol_name(row.protocol),
        "remote": None if remote is None else {**remote, "name": row.name},
        "port": row.port,
        "addresses": [str(address) for address in row.addresses],
        "claimed": encode_endpoint(row.claimed),
        "question": encode_question(row.question),
        "reason": _reason(row.reason),
        "hooks": [hook.value for hook in row.hooks],
        "errno": row.errno,
        "socket_type": row.socket_type,
        "count": row.count,
        "bytes_out": row.bytes_out,
        "bytes_in": row.bytes_in,
        "duration_ns": row.duration_ns,
        "first": _time(row.first_ns),
        "last": _time(row.last_ns),
        "permit": row.permit,
    }


def _reason(reason: Reason) -> dict[str, object]:
    return {
        "code": reason.code.value,
        "rule": reason.rule,
        "file": reason.file,
        "line": reason.line,
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "source": finding.source,
        "class": finding.kind,
        "signature": None,
        "dialect": None,
        "severity": finding.severity.label,
        "confidence": None,
        "flow": None,
        "at": _time(finding.at_ns),
        "evidence": finding.evidence,
    }


def _process_row(row: ProcessRow) -> dict[str, object]:
    return {
        "sandbox": row.sandbox,
        "process": encode_process(row.process),
        "denied": row.denied,
        "permitted": row.permitted,
        "destinations": row.destinations,
        "bytes_out": row.bytes_out,
        "bytes_in": row.bytes_in,
    }


def _bucket(bucket: Bucket, step_ns: int) -> dict[str, object]:
    return {
        "start": _time(bucket.start_ns),
        "width_ns": step_ns,
        "denied": bucket.denied,
        "permitted": bucket.permitted,
    }


def _sandbox_row(row: SandboxRow) -> dict[str, object]:
    return {
        **encode_sandbox(row.sandbox),
        "policy": row.policy,
        "digest": row.digest,
        "mode": row.mode,
        "command": list(row.command),
        "coverage": row.coverage,
        "open_roads": list(row.open_roads),
        "started": _time(row.started_ns),
        "finished": _time(row.finished_ns),
        "exit_code": row.exit_code,
        "denied": row.denied,
        "would_denied": row.would_denied,
        "probes": row.probes,
    }


def _gap(gap: GapRecord) -> dict[str, object]:
    return {
        "sandbox": gap.sandbox.id,
        "time": _time(gap.time_ns),
        "where": gap.where,
        "lost": gap.lost,
    }


def _error(error: LogError) -> dict[str, object]:
    return {
        "source": error.source,
        "line": error.line,
        "offset": error.offset,
        "damage": error.damage.value,
        "severity": error.severity.label,
        "problem": error.problem,
    }


def _time(time_ns: int | None) -> str | None:
    return None if time_ns is None else format_time(time_ns)
