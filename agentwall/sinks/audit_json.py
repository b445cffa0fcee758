# SPDX-License-Identifier: Apache-2.0
"""An audit report as one JSON document, ``agentwall.audit/1``. Pure."""

from __future__ import annotations

from agentwall.flow.record import GapRecord
from agentwall.net.ports import protocol_name
from agentwall.sinks.event_json import (
    encode_endpoint,
    encode_process,
    encode_question,
    encode_reading,
    encode_reason,
    encode_remote,
    encode_sandbox,
)
from agentwall.sinks.eventlog import LogError
from agentwall.sinks.report_rows import (
    AuditReport,
    Bucket,
    CaptureFlaw,
    FindingRow,
    FlowEnds,
    FlowRow,
    InsideTls,
    ProcessRow,
    SandboxRow,
    TlsRow,
    Totals,
)
from agentwall.sinks.rfc3339 import format_time

SCHEMA = "agentwall.audit/1"


def encode_report(report: AuditReport) -> dict[str, object]:
    """Return *report* as a JSON document; docs/event-schema.md describes the rows."""
    return {
        "schema": SCHEMA,
        "captures": report.captures.count,
        "events": report.events,
        "severity": report.severity.label,
        "packets": report.captures.packets,
        "conversations": report.captures.conversations,
        "totals": _totals(report.totals),
        "denials": [_flow(row) for row in report.denials],
        "findings": [_finding(finding) for finding in report.findings],
        "permitted": [_flow(row) for row in report.permitted],
        "inside_tls": _inside_tls(report.inside_tls),
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
            "findings": totals.unlisted_findings,
        },
    }


def _flow(row: FlowRow) -> dict[str, object]:
    return {
        "severity": row.severity.label,
        "verdict": row.verdict.value,
        "sandbox": row.sandbox,
        "process": encode_process(row.process),
        "pids": list(row.pids),
        "direction": row.direction.value,
        "protocol": protocol_name(row.protocol),
        "remote": encode_remote(row.remote, row.name),
        "port": row.port,
        "addresses": [str(address) for address in row.addresses],
        "claimed": encode_endpoint(row.claimed),
        "question": encode_question(row.question),
        "reason": encode_reason(row.reason),
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


def _finding(row: FindingRow) -> dict[str, object]:
    return {
        "source": row.source,
        "class": row.kind,
        "signature": row.signature,
        "dialect": row.dialect,
        "severity": row.severity.label,
        "confidence": row.confidence.value if row.confidence else None,
        "stage": row.stage.value if row.stage else None,
        "flow": _ends(row.flow) if row.flow else None,
        "at": _time(row.at_ns),
        "last": _time(row.last_ns),
        "count": row.count,
        "verdict": row.verdict.value if row.verdict else None,
        "response": row.response,
        "reason": encode_reason(row.reason) if row.reason else None,
        "bytes_left": row.bytes_left,
        "sandbox": row.sandbox,
        "process": encode_process(row.process),
        "evidence": dict(row.evidence),
        "remedy": row.remedy,
    }


def _ends(flow: FlowEnds) -> dict[str, object]:
    return {
        "direction": flow.direction.value,
        "protocol": protocol_name(flow.protocol),
        "local": encode_endpoint(flow.local),
        "remote": encode_remote(flow.remote, flow.name),
        "begin": _time(flow.begin_ns),
        "end": _time(flow.end_ns),
        "bytes_out": flow.bytes_out,
        "bytes_in": flow.bytes_in,
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


def _inside_tls(inside: InsideTls) -> dict[str, object]:
    return {
        "sessions": inside.sessions,
        "read_sessions": inside.read_sessions,
        "processes": inside.processes,
        "read_processes": inside.read_processes,
        "by_library": {
            "unknown" if library is None else library.value: count
            for library, count in inside.by_library.items()
        },
        "not_read": [_tls_row(row) for row in inside.not_read],
        "unlisted": inside.unlisted,
    }


def _tls_row(row: TlsRow) -> dict[str, object]:
    return {
        "sandbox": row.sandbox,
        "process": encode_process(row.process),
        "pids": list(row.pids),
        "reading": encode_reading(row.reading),
        "server_names": list(row.server_names),
        "sessions": row.sessions,
        "first": _time(row.first_ns),
        "last": _time(row.last_ns),
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


def _error(error: LogError | CaptureFlaw) -> dict[str, object]:
    if isinstance(error, CaptureFlaw):
        return {
            "source": error.source,
            "line": None,
            "offset": error.offset,
            "damage": "capture",
            "severity": error.severity.label,
            "problem": error.problem,
        }
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
