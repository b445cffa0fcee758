# SPDX-License-Identifier: Apache-2.0
"""What ``agentwall explain`` says of one event, as lines. Pure.

In go the event and what was found about it, out come pairs of a heading and safe text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentwall.flow.origin import Origin
from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Process,
    Record,
    Sandbox,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.verdict import Reason, Verdict
from agentwall.sinks.describe import (
    describe_address,
    describe_bytes,
    describe_count,
    describe_hook,
    describe_process,
    describe_program,
    describe_reason,
    describe_verdict,
    has_ports,
)
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.event_json import ORIGIN_TEXTS, LoggedEvent
from agentwall.sinks.event_words import event_line, labels_words
from agentwall.sinks.evidence import describe_evidence, describe_excerpt
from agentwall.sinks.finding_words import describe_outcome, finding_kind, is_inside
from agentwall.sinks.remedy import remedy_for, remedy_for_finding
from agentwall.sinks.rfc3339 import format_time
from agentwall.sinks.targets import record_target
from agentwall.sinks.tls_events import reading_words, tls_target

_MAX_TEXT = 300
_MAX_ARGUMENTS = 1000
_BINDING = ("run", "episode", "step", "phase")

WHY = "why"
REMEDY = "remedy"
"""The headings of what people look for first."""

Line = tuple[str, str]
"""A heading, empty where the line goes on from the one before, and text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleText:
    """What is known of the line that a rule was written on."""

    text: str | None
    """None: it cannot be shown."""
    note: str = ""
    """Why not, or what to be aware of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An event and what was found about it."""

    event: LoggedEvent
    source: str
    """The file that it stands in."""
    rule: RuleText | None
    """None: no rule had to do with it."""
    applied: StateRecord | None
    """The ``rules-applied`` that held for its sandbox."""


def headline(record: Record) -> str:
    """Return what happened, in a few words."""
    match record:
        case FlowRecord():
            times = f", {record.count} times" if record.count > 1 else ""
            return f"{describe_verdict(record.verdict)}: {record_target(record)}{times}"
        case DetectionRecord():
            finding = record.finding
            kind = finding_kind(finding.cls.value, finding.dialect, finding.evidence)
            times = f", {record.count} times" if record.count > 1 else ""
            return f"detected: {kind}{times}"
        case _:
            return event_line(record)


def explain(case: Case) -> Iterator[Line]:
    """Yield what there is to say."""
    event, record = case.event, case.event.record
    yield "event", f"{_short(event.id)} in {_short(case.source)}"
    yield "time", format_time(record.time_ns)
    yield from _sandbox(record.sandbox)
    match record:
        case FlowRecord():
            yield from _process(record.process)
            yield from _flow(record)
        case DetectionRecord():
            yield from _process(record.process)
            yield from _detection(record)
        case TlsRecord():
            yield from _process(record.process)
            yield from _tls(record)
        case StateRecord():
            for key, value in record.detail.items():
                yield _short(key), _short(str(value))
        case GapRecord():
            yield "meaning", "that many are missing here; the verdicts stood all the same"
    if isinstance(record, FlowRecord | DetectionRecord | TlsRecord):
        yield from _rule(record.reason, case.rule)
        yield from _policy(record.sandbox, case.applied)
    if isinstance(record, FlowRecord | DetectionRecord):
        yield from _remedy(record)


def _sandbox(sandbox: Sandbox) -> Iterator[Line]:
    where = f", cgroup {_short(sandbox.cgroup)}" if sandbox.cgroup else ""
    yield "sandbox", f"{_short(sandbox.id)}{where}"
    if sandbox.origin is not None:
        yield "made by", _origin(sandbox.origin)
    bound = {key: sandbox.labels[key] for key in _BINDING if key in sandbox.labels}
    others = {key: value for key, value in sandbox.labels.items() if key not in bound}
    if bound:
        words = (f"{key} {_short(value)}" for key, value in bound.items())
        yield "episode" if "episode" in bound else "run", ", ".join(words)
    if others:
        yield "labels", labels_words(others)


def _origin(origin: Origin) -> str:
    known = ((key, getattr(origin, key)) for key in ORIGIN_TEXTS)
    words = [f"{key} {_short(text)}" for key, text in known if text is not None]
    return ", ".join((origin.runtime.value, *words))


def _process(process: Process | None) -> Iterator[Line]:
    if process is None or not process.pid:
        yield "process", "not known: the packet came without a task"
        return
    program = describe_program(process)
    parts = [describe_process(process), f"uid {process.uid}"]
    if process.ppid is not None:
        parts.append(f"child of {process.ppid}")
    yield "process", ", ".join(parts) + (f": {program}" if program else ", which had gone already")
    if process.argv:
        yield "", shorten(printable(" ".join(process.argv)), _MAX_ARGUMENTS)


def _flow(record: FlowRecord) -> Iterator[Line]:
    yield "where to", record_target(record)
    if record.claimed is not None:
        claimed = record.claimed
        port = claimed.port if has_ports(record.protocol) else None
        yield "", f"connect() was asked for {describe_address(claimed.address, port)}"
    yield "how", f"{describe_hook(record.hook, record.errno)}; {_sent(record)}"


def _sent(record: FlowRecord) -> str:
    if record.verdict is Verdict.DENY:
        return "nothing of it left"
    if record.verdict is Verdict.WOULD_DENY:
        return "let through: the policy only audits"
    if record.bytes_out is None:
        return "the first sight of the flow"
    return f"{describe_bytes(record.bytes_out)} out, {describe_bytes(record.bytes_in)} in"


def _detection(record: DetectionRecord) -> Iterator[Line]:
    finding = record.finding
    if record.remote is not None:
        port = record.remote.port if has_ports(record.protocol) else None
        name = f" ({_short(record.name)})" if record.name else ""
        yield "where to", f"{describe_address(record.remote.address, port)}{name}"
    sure = f"{finding.severity.label} severity, {finding.confidence.value} confidence"
    yield "what", f"{_short(finding.signature)}, {sure}"
    if excerpt := describe_excerpt(finding.evidence, _MAX_TEXT):
        yield "", f'"{excerpt}"'
    if numbers := describe_evidence(finding.evidence, _MAX_TEXT):
        yield "", numbers
    outcome = describe_outcome(
        record.verdict,
        finding.stage,
        record.bytes_left,
        record.direction,
        is_text=is_inside(finding.evidence),
    )
    yield "outcome", f"{outcome} (response {_short(record.response)})"


def _tls(record: TlsRecord) -> Iterator[Line]:
    yield "where to", tls_target(record)
    offered = [
        f"{word} {text}"
        for word, text in (
            ("server name", record.server_name),
            ("ALPN", " ".join(record.alpn)),
            ("JA4", record.ja4),
        )
        if text
    ]
    if offered:
        yield "hello", _short(", ".join(offered))
    yield "inside", reading_words(record)
    if not record.is_joined:
        yield "", "what is said there is not compared with signatures; its rhythm still is watched"
    if record.count > 1:
        yield "sessions", describe_count(record.count, "session")


def _rule(reason: Reason, rule: RuleText | None) -> Iterator[Line]:
    yield WHY, describe_reason(reason)
    if rule is None:
        return
    if rule.text is not None:
        number = f"{reason.line} | " if reason.line is not None else ""
        yield "", f"{number}{shorten(printable(rule.text), _MAX_TEXT)}"
    if rule.note:
        yield "", printable(rule.note)


def _policy(sandbox: Sandbox, applied: StateRecord | None) -> Iterator[Line]:
    policy = sandbox.policy
    detail = applied.detail if applied is not None else {}
    name = policy.name if policy is not None else detail.get("policy")
    if not isinstance(name, str):
        return
    parts = [_short(name)]
    phase = policy.phase if policy is not None else detail.get("phase")
    commit = policy.commit if policy is not None else detail.get("commit")
    if phase:
        parts.append(f"phase {_short(str(phase))}")
    if commit:
        parts.append(f"commit {_short(str(commit))}")
    elif isinstance(detail.get("digest"), str):
        parts.append(f"digest {_short(str(detail['digest']))[:16]}")
    yield "policy", ", ".join(parts)


def _remedy(record: FlowRecord | DetectionRecord) -> Iterator[Line]:
    if isinstance(record, DetectionRecord):
        aim = "to silence it" if record.verdict is Verdict.ALLOW else "to let it pass"
        remedy = remedy_for_finding(record.finding, record.verdict, record.reason)
        yield REMEDY, f"{aim}, {_short(remedy)}"
    elif record.verdict is not Verdict.ALLOW:
        yield REMEDY, _short(remedy_for(record))


def _short(text: str) -> str:
    return shorten(printable(text), _MAX_TEXT)
