# SPDX-License-Identifier: Apache-2.0
"""One line for each event: for the journal, for ``log`` and for ``explain``. Pure.

Everything returned is one line of bounded length and safe on a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Record,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.verdict import Verdict
from agentwall.sinks.console import denial_line
from agentwall.sinks.describe import (
    describe_bytes,
    describe_count,
    describe_duration,
    describe_exit,
    describe_hook,
    describe_loss,
    describe_process,
    describe_reason,
)
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.eventlog import CONTINUED
from agentwall.sinks.finding_words import detection_line
from agentwall.sinks.flow_keys import is_totals
from agentwall.sinks.targets import record_target
from agentwall.sinks.tls_events import tls_line

MAX_CHARS = 2000
_MAX_VALUE = 160
_MAX_LABELS = 400
_SHORT_COMMIT = 12

_Detail = Mapping[str, object]


def event_line(record: Record) -> str:
    """Return what *record* tells, in one line."""
    match record:
        case FlowRecord():
            words = _flow(record)
        case DetectionRecord():
            words = detection_line(record) + _times(record.count)
        case TlsRecord():
            words = tls_line(record)
        case GapRecord():
            words = f"lost {record.lost} {describe_loss(record.where)}"
        case StateRecord():
            words = state_line(record)
    return shorten(printable(words), MAX_CHARS)


def _flow(record: FlowRecord) -> str:
    if record.verdict is not Verdict.ALLOW:
        return denial_line(record) + _times(record.count)
    who = describe_process(record.process)
    reason = describe_reason(record.reason)
    if is_totals(record):
        sums = (
            f"{describe_bytes(record.bytes_out)} out, {describe_bytes(record.bytes_in)} in,"
            f" {describe_duration(record.duration_ns)}"
        )
        count = describe_count(record.count, "socket")
        return f"totals of {record_target(record)} by {who}: {count}, {sums}; {reason}"
    hook = describe_hook(record.hook, None)
    return f"permitted {record_target(record)} ({hook}) by {who}: {reason}{_times(record.count)}"


def _times(count: int) -> str:
    return f" ({count} times)" if count != 1 else ""


def state_line(record: StateRecord) -> str:
    """Return what happened to the wall, to a sandbox or to the daemon."""
    words = _STATES.get(record.state)
    if words is not None:
        return shorten(printable(words(record.detail)), MAX_CHARS)
    said = "; ".join(
        f"{key}: {text}" for key in record.detail if (text := _value(record.detail, key))
    )
    name = record.state.replace("-", " ")
    return shorten(printable(f"{name}: {said}" if said else name), MAX_CHARS)


def labels_words(labels: object) -> str:
    """Return ``episode=41 step=7``, or ``none``."""
    if not isinstance(labels, Mapping) or not labels:
        return "none"
    return shorten(printable(" ".join(f"{k}={v}" for k, v in labels.items())), _MAX_LABELS)


def _started(detail: _Detail) -> str:
    parts = ["started"]
    for key, name in (("mode", "mode"), ("coverage", "coverage"), ("command", "command")):
        if text := _value(detail, key):
            parts.append(f"{name} {text}")
    roads = detail.get("open_roads")
    if isinstance(roads, list | tuple) and roads:
        parts.append(f"open: {_text('; '.join(map(str, roads)))}")
    for key in detail:
        if key not in ("mode", "coverage", "command", "open_roads") and _value(detail, key):
            parts.append(f"{key} {_value(detail, key)}")
    return ", ".join(parts)


def _rules(detail: _Detail) -> str:
    within = [f"mode {_value(detail, 'mode')}"]
    if phase := _value(detail, "phase"):
        within.insert(0, f"phase {phase}")
    if commit := _value(detail, "commit"):
        within.append(f"commit {commit[:_SHORT_COMMIT]}")
    rules = f"{_value(detail, 'rules')} rules"
    return f"policy {_value(detail, 'policy')} in force ({', '.join(within)}): {rules}"


def _labelled(detail: _Detail) -> str:
    now, before = labels_words(detail.get("labels")), labels_words(detail.get("before"))
    return f"labelled {now}, before that {before}, by {_value(detail, 'by')}"


def _mode(detail: _Detail) -> str:
    until = _value(detail, "until")
    when = f" until {until}" if until else ", as the policy says"
    why = f": {reason}" if (reason := _value(detail, "reason")) else ""
    return f"mode {_value(detail, 'mode')}{when}, by {_value(detail, 'by')}{why}"


def _response(detail: _Detail) -> str:
    what = f"response {_value(detail, 'response')}"
    problem = _value(detail, "problem")
    return f"{what} failed: {problem}" if problem else f"{what} carried out"


def _damaged(detail: _Detail) -> str:
    return f"the wall is damaged: {_value(detail, 'what')}"


def _hanging(detail: _Detail) -> str:
    where = f" to {remote}" if (remote := _value(detail, "remote")) else ""
    return f"a flow{where} is cut, but its socket could not be ended: {_value(detail, 'why')}"


def _continued(_: _Detail) -> str:
    return "the log goes on in this file"


def _finished(detail: _Detail) -> str:
    parts = []
    code = detail.get("exit_code")
    if type(code) is int:
        parts.append(describe_exit(code))
    for key, words in (
        ("denied", "denied"),
        ("would_denied", "would be denied"),
        ("lost", "events lost"),
    ):
        if number := _value(detail, key):
            parts.append(f"{number} {words}")
    return f"finished: {', '.join(parts)}" if parts else "finished"


_STATES: Mapping[str, Callable[[_Detail], str]] = {
    "started": _started,
    "rules-applied": _rules,
    "labelled": _labelled,
    "mode": _mode,
    "response": _response,
    "damaged": _damaged,
    "flow-left-hanging": _hanging,
    CONTINUED: _continued,
    "finished": _finished,
}


def _value(detail: _Detail, key: str) -> str:
    """Return one value as text, or nothing where there is none."""
    value = detail.get(key)
    match value:
        case None | "" | [] | () | {}:
            return ""
        case Mapping():
            return _text(", ".join(f"{name} {item}" for name, item in value.items()))
        case list() | tuple():
            return _text(" ".join(map(str, value)))
        case _:
            return _text(str(value))


def _text(text: str) -> str:
    return shorten(printable(text), _MAX_VALUE)
