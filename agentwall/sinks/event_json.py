# SPDX-License-Identifier: Apache-2.0
"""Records as JSON lines, ``agentwall.event/1``, and back. Pure; docs/event-schema.md describes it.

:func:`format_line` writes, :func:`parse_line` reads; each is the other's inverse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from agentwall.flow.origin import Origin
from agentwall.flow.record import (
    HOST,
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Process,
    Question,
    Record,
    Sandbox,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.tls import TlsReading
from agentwall.flow.verdict import Reason
from agentwall.net.endpoint import Endpoint
from agentwall.net.ports import protocol_name
from agentwall.sinks.escape import without_surrogates
from agentwall.sinks.rfc3339 import format_time
from agentwall.sinks.rrtypes import type_name

SCHEMA = "agentwall.event/1"
FIRST_PREV = "0" * 64
"""``prev`` of a log's first line."""

ORIGIN_TEXTS = ("container", "name", "image", "pod", "namespace", "job", "step", "unit")
"""The keys of an origin beside ``runtime``; each may be absent."""

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvent:
    """One line of an event log."""

    id: str
    """``<run>-<n>``, n counting from 1."""
    record: Record
    prev: str
    """SHA-256 of the line before without its line end, hex; :data:`FIRST_PREV` on the first."""


def format_line(event: LoggedEvent) -> bytes:
    """Return the line of *event*, ASCII, without its line end.

    Control and bidirectional characters are written as JSON escapes, so the line is safe to show.
    """
    document = encode(event)
    text = _encode(document)
    if "\\ud" in text:
        text = _encode(_spell_surrogates(document))
    return text.encode("ascii")


def encode(event: LoggedEvent) -> dict[str, object]:
    """Return the JSON document of *event*."""
    record = event.record
    head: dict[str, object] = {
        "schema": SCHEMA,
        "id": event.id,
        "kind": _kind(record),
        "time": format_time(record.time_ns),
        "mono_ns": record.mono_ns,
        "sandbox": encode_sandbox(record.sandbox),
    }
    match record:
        case FlowRecord():
            head.update(_encode_flow(record))
        case GapRecord():
            head.update(where=record.where, lost=record.lost)
        case StateRecord():
            head.update(state=record.state, detail=dict(record.detail))
        case DetectionRecord():
            head.update(_encode_detection(record))
        case TlsRecord():
            head.update(_encode_tls(record))
    head["prev"] = event.prev
    return head


def _kind(record: Record) -> str:
    match record:
        case FlowRecord():
            return "flow"
        case GapRecord():
            return "gap"
        case StateRecord():
            return "state"
        case DetectionRecord():
            return "detection"
        case TlsRecord():
            return "tls"


def encode_sandbox(sandbox: Sandbox) -> dict[str, object]:
    """Return *sandbox* as JSON values; what nobody knows of it is left out."""
    found: dict[str, object] = {
        "id": sandbox.id,
        "cgroup": sandbox.cgroup,
        "labels": dict(sandbox.labels),
    }
    if sandbox.origin is not None:
        found["origin"] = encode_origin(sandbox.origin)
    policy = sandbox.policy
    if policy is not None:
        found["policy"] = {"name": policy.name, "phase": policy.phase, "commit": policy.commit}
    return found


def is_host(sandbox: Sandbox) -> bool:
    """Say whether *sandbox* stands for the daemon itself in a record."""
    return sandbox.id == HOST.id and sandbox.cgroup == HOST.cgroup


def encode_origin(origin: Origin) -> dict[str, object]:
    """Return *origin* as JSON values: what is known, without the labels that its maker gave it."""
    # Those may be long, and are the same in each event: those that count are the sandbox's own.
    return {
        "runtime": origin.runtime.value,
        **{key: text for key in ORIGIN_TEXTS if (text := getattr(origin, key)) is not None},
    }


def _encode_flow(record: FlowRecord) -> dict[str, object]:
    return {
        "process": encode_process(record.process),
        "direction": record.direction.value,
        "protocol": protocol_name(record.protocol),
        "local": encode_endpoint(record.local),
        "remote": encode_remote(record.remote, record.name),
        "claimed": encode_endpoint(record.claimed),
        "question": encode_question(record.question),
        "verdict": record.verdict.value,
        "reason": encode_reason(record.reason),
        "hook": record.hook.value,
        "errno": record.errno,
        "socket_type": record.socket_type,
        "bytes_out": record.bytes_out,
        "bytes_in": record.bytes_in,
        "duration_ns": record.duration_ns,
        "count": record.count,
    }


def _encode_detection(record: DetectionRecord) -> dict[str, object]:
    finding = record.finding
    found: dict[str, object] = {
        "class": finding.cls.value,
        "signature": finding.signature,
        "dialect": finding.dialect,
        "severity": finding.severity.label,
        "confidence": finding.confidence.value,
        "stage": finding.stage.value,
        "response": record.response,
        "verdict": record.verdict.value,
        "evidence": dict(finding.evidence),
        "bytes_left": record.bytes_left,
        "process": encode_process(record.process),
        "direction": record.direction.value,
        "protocol": protocol_name(record.protocol),
        "local": encode_endpoint(record.local),
        "remote": encode_remote(record.remote, record.name),
        "reason": encode_reason(record.reason),
    }
    if record.count != 1:
        found["count"] = record.count
    return found


def _encode_tls(record: TlsRecord) -> dict[str, object]:
    return {
        "process": encode_process(record.process),
        "direction": record.direction.value,
        "protocol": protocol_name(record.protocol),
        "local": encode_endpoint(record.local),
        "remote": encode_remote(record.remote, record.name),
        "server_name": record.server_name,
        "alpn": list(record.alpn),
        "ja4": record.ja4,
        "read": record.is_joined,
        "reading": encode_reading(record.reading),
        "reason": encode_reason(record.reason),
        "count": record.count,
    }


def encode_reading(reading: TlsReading | None) -> dict[str, object] | None:
    """Return whether and how a process is read as JSON values, null for None."""
    if reading is None:
        return None
    return {
        "library": reading.library.value if reading.library is not None else None,
        "path": reading.path,
        "unread": reading.unread.value if reading.unread is not None else None,
    }


def encode_reason(reason: Reason) -> dict[str, object]:
    """Return *reason* as JSON values."""
    return {
        "code": reason.code.value,
        "rule": reason.rule,
        "file": reason.file,
        "line": reason.line,
    }


def encode_process(process: Process | None) -> dict[str, object] | None:
    """Return *process* as JSON values, null for None."""
    if process is None:
        return None
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "uid": process.uid,
        "comm": process.comm,
        "exe": process.exe,
        "argv": None if process.argv is None else list(process.argv),
        "source": process.source.value,
    }


def encode_endpoint(endpoint: Endpoint | None) -> dict[str, object] | None:
    """Return *endpoint* as JSON values, null for None."""
    if endpoint is None:
        return None
    return {"address": str(endpoint.address), "port": endpoint.port}


def encode_question(question: Question | None) -> dict[str, object] | None:
    """Return *question* as JSON values, null for None."""
    if question is None:
        return None
    kind = None if question.type is None else type_name(question.type)
    return {"name": question.name, "type": kind}


def encode_remote(remote: Endpoint | None, name: str | None) -> dict[str, object] | None:
    """Return *remote* with the *name* it is known under as JSON values, null for None."""
    found = encode_endpoint(remote)
    return None if found is None else {**found, "name": name}


def _spell_surrogates(value: object) -> object:
    match value:
        case str():
            return without_surrogates(value)
        case Mapping():
            return {without_surrogates(str(k)): _spell_surrogates(v) for k, v in value.items()}
        case list() | tuple():
            return [_spell_surrogates(item) for item in value]
        case _:
            return value
