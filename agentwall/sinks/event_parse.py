# SPDX-License-Identifier: Apache-2.0
"""JSON lines of ``agentwall.event/1`` as records: the inverse of ``event_json``. Pure.

A line may come from anywhere, so nothing in it is taken on trust: every type and range is checked.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import NoReturn, TypeVar, cast

from agentwall.errors import AgentwallError
from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    PolicyInForce,
    Process,
    ProcessSource,
    Question,
    Record,
    Sandbox,
    StateRecord,
)
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, IPAddress
from agentwall.net.ports import protocol_name
from agentwall.sinks.event_json import ORIGIN_TEXTS, SCHEMA, LoggedEvent
from agentwall.sinks.rfc3339 import parse_time
from agentwall.sinks.rrtypes import parse_type

_Document = Mapping[str, object]
_Choice = TypeVar("_Choice", bound=enum.Enum)
_LAST_U64 = 0xFFFF_FFFF_FFFF_FFFF
_PROTOCOLS = {protocol_name(number): number for number in range(256)}
_SEVERITIES = {severity.label: severity for severity in Severity}


class EventFormatError(AgentwallError, ValueError):
    """A line is not an event of a schema this version reads."""


class UnknownSchemaError(EventFormatError):
    """A line is JSON, of a schema or kind this version does not read."""


def parse_line(line: bytes) -> LoggedEvent:
    """Parse one *line* without its line end.

    Raises:
        UnknownSchemaError: The line is for another reader.
        EventFormatError: ``KEY: expected X, got Y``.
    """
    try:
        document = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise EventFormatError(f"not UTF-8 at byte {err.start} of the line") from err
    except json.JSONDecodeError as err:
        # Its own text counts lines, and this is one line of many.
        problem = f"{err.msg[0].lower()}{err.msg[1:]} at character {err.pos + 1} of the line"
        raise EventFormatError(f"not JSON: {problem}") from err
    except (ValueError, RecursionError) as err:
        raise EventFormatError(f"not JSON: {err}") from err
    if not isinstance(document, dict):
        raise EventFormatError(f"expected a JSON object, got {_brief(document)}")
    return parse(document)


def parse(document: _Document) -> LoggedEvent:
    """Return the event that *document* describes; raises as :func:`parse_line`."""
    schema = document.get("schema")
    if schema != SCHEMA:
        raise UnknownSchemaError(f"schema: expected {SCHEMA}, got {_brief(schema)}")
    prev = _text(document, "prev")
    if len(prev) != 64 or not set(prev) <= set("0123456789abcdef"):
        _fail("prev", "64 hexadecimal digits", prev)
    return LoggedEvent(id=_text(document, "id"), record=_record(document), prev=prev)


def _record(document: _Document) -> Record:
    kind = document.get("kind")
    sandbox = _sandbox(_object(document, "sandbox"))
    time_ns = _time(_text(document, "time"))
    mono_ns = _number(document, "mono_ns")
    if kind == "flow":
        return _flow(document, sandbox, time_ns, mono_ns)
    if kind == "gap":
        return GapRecord(
            sandbox=sandbox,
            time_ns=time_ns,
            mono_ns=mono_ns,
            where=_text(document, "where"),
            lost=_number(document, "lost"),
        )
    if kind == "state":
        return StateRecord(
            sandbox=sandbox,
            time_ns=time_ns,
            mono_ns=mono_ns,
            state=_text(document, "state"),
            detail=_object(document, "detail"),
        )
    if kind == "detection":
        return _detection(document, sandbox, time_ns, mono_ns)
    raise UnknownSchemaError(f"kind: expected flow, detection, gap or state, got {_brief(kind)}")


def _flow(document: _Document, sandbox: Sandbox, time_ns: int, mono_ns: int) -> FlowRecord:
    protocol = _protocol(document)
    return FlowRecord(
        sandbox=sandbox,
        time_ns=time_ns,
        mono_ns=mono_ns,
        process=_process(document),
        direction=_choice(document, "direction", Direction),
        protocol=protocol,
        local=_endpoint(document, "local", protocol),
        remote=_endpoint(document, "remote", protocol),
        claimed=_endpoint(document, "claimed", protocol),
        verdict=_choice(document, "verdict", Verdict),
        reason=_reason(_object(document, "reason")),
        hook=_choice(document, "hook", Hook),
        errno=_optional_number(document, "errno"),
        socket_type=_number(document, "socket_type"),
        bytes_out=_optional_number(document, "bytes_out"),
        bytes_in=_optional_number(document, "bytes_in"),
        duration_ns=_optional_number(document, "duration_ns"),
        count=_number(document, "count"),
        name=_name(document),
        question=_question(document),
    )


def _detection(
    document: _Document, sandbox: Sandbox, time_ns: int, mono_ns: int
) -> DetectionRecord:
    protocol = _protocol(document)
    return DetectionRecord(
        sandbox=sandbox,
        time_ns=time_ns,
        mono_ns=mono_ns,
        process=_process(document),
        finding=_finding(document),
        verdict=_choice(document, "verdict", Verdict),
        response=_text(document, "response"),
        direction=_choice(document, "direction", Direction),
        protocol=protocol,
        local=_endpoint(document, "local", protocol),
        remote=_endpoint(document, "remote", protocol),
        name=_name(document),
        reason=_reason(_object(document, "reason")),
        bytes_left=_optional_number(document, "bytes_left"),
        count=1 if document.get("count") is None else _number(document, "count"),
    )


def _finding(document: _Document) -> Finding:
    severity = _SEVERITIES.get(_text(document, "severity"))
    if severity is None:
        _fail("severity", "one of " + ", ".join(_SEVERITIES), document["severity"])
    return Finding(
        cls=_choice(document, "class", DetectionClass),
        signature=_text(document, "signature"),
        dialect=_text(document, "dialect"),
        severity=severity,
        confidence=_choice(document, "confidence", Confidence),
        stage=_choice(document, "stage", Stage),
        evidence=_object(document, "evidence"),
    )


def _protocol(document: _Document) -> int:
    text = _text(document, "protocol")
    protocol = _PROTOCOLS.get(text)
    if protocol is None:
        _fail("protocol", "tcp, udp, icmp, icmp6 or ip/N", text)
    return protocol


def _name(document: _Document) -> str | None:
    remote = document.get("remote")
    return _optional_text(remote, "name") if isinstance(remote, dict) else None


def _sandbox(document: _Document) -> Sandbox:
    labels = _object(document, "labels")
    for key, value in labels.items():
        if not isinstance(value, str):
            _fail(f"labels.{key}", "text", value)
    return _known_sandbox(
        _text(document, "id"),
        _text(document, "cgroup"),
        tuple((key, str(value)) for key, value in labels.items()),
        _origin(document),
        _policy(document),
    )


@lru_cache(maxsize=256)
def _known_sandbox(
    id_: str,
    cgroup: str,
    labels: tuple[tuple[str, str], ...],
    origin: tuple[str | None, ...] | None,
    policy: PolicyInForce | None,
) -> Sandbox:
    found = None
    if origin is not None:
        runtime, container, name, image, pod, namespace, job, step, unit = origin
        found = Origin(
            runtime=Runtime(runtime),
            container=container,
            name=name,
            image=image,
            pod=pod,
            namespace=namespace,
            job=job,
            step=step,
            unit=unit,
        )
    return Sandbox(id=id_, cgroup=cgroup, labels=dict(labels), origin=found, policy=policy)


def _origin(document: _Document) -> tuple[str | None, ...] | None:
    """Return the runtime and then what else is known, as something that can be compared."""
    if document.get("origin") is None:
        return None
    origin = _object(document, "origin")
    runtime = _choice(origin, "runtime", Runtime).value
    return (runtime, *(_optional_text(origin, key) for key in ORIGIN_TEXTS))


def _policy(document: _Document) -> PolicyInForce | None:
    if document.get("policy") is None:
        return None
    policy = _object(document, "policy")
    return PolicyInForce(
        name=_text(policy, "name"),
        phase=_optional_text(policy, "phase"),
        commit=_optional_text(policy, "commit"),
    )


def _process(document: _Document) -> Process | None:
    if document.get("process") is None:
        return None
    process = _object(document, "process")
    argv = process.get("argv")
    if argv is not None and not (
        isinstance(argv, list) and all(isinstance(item, str) for item in argv)
    ):
        _fail("argv", "a list of text or null", argv)
    return Process(
        pid=_number(process, "pid"),
        ppid=_optional_number(process, "ppid"),
        uid=_number(process, "uid"),
        comm=_text(process, "comm"),
        exe=_optional_text(process, "exe"),
        argv=None if argv is None else tuple(argv),
        source=_choice(process, "source", ProcessSource),
    )


def _question(document: _Document) -> Question | None:
    if document.get("question") is None:
        return None
    question = _object(document, "question")
    kind = _optional_text(question, "type")
    try:
        number = None if kind is None else parse_type(kind)
    except ValueError as err:
        raise EventFormatError(f"question.type: {err}") from err
    return Question(name=_text(question, "name"), type=number)


def _reason(reason: _Document) -> Reason:
    return Reason(
        code=_choice(reason, "code", ReasonCode),
        rule=_optional_text(reason, "rule"),
        file=_optional_text(reason, "file"),
        line=_optional_number(reason, "line"),
    )


def _endpoint(document: _Document, key: str, protocol: int) -> Endpoint | None:
    if document.get(key) is None:
        return None
    endpoint = _object(document, key)
    address = _address(_text(endpoint, "address"))
    port = _number(endpoint, "port")
    if port > 0xFFFF:
        _fail(f"{key}.port", "0-65535", port)
    return Endpoint(address, port, protocol)


@lru_cache(maxsize=32768)
def _address(text: str) -> IPAddress:
    try:
        if "%" not in text:
            return ip_address(text)
    except ValueError:
        pass
    _fail("address", "an IP address", text)


@lru_cache(maxsize=4096)
def _time(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as err:
        raise EventFormatError(f"time: {err}") from err


def _choice(document: _Document, key: str, choices: type[_Choice]) -> _Choice:
    value = document.get(key)
    found = choices._value2member_map_.get(value) if isinstance(value, str) else None
    if found is None:
        _fail(key, "one of " + ", ".join(str(choice.value) for choice in choices), value)
    return cast("_Choice", found)


def _object(document: _Document, key: str) -> dict[str, object]:
    value = document.get(key)
    if not isinstance(value, dict):
        _fail(key, "an object", value)
    return value


def _text(document: _Document, key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        _fail(key, "text", value)
    return value


def _optional_text(document: _Document, key: str) -> str | None:
    return None if document.get(key) is None else _text(document, key)


def _number(document: _Document, key: str) -> int:
    value = document.get(key)
    if type(value) is not int or not 0 <= value <= _LAST_U64:
        _fail(key, "a whole number of 64 bits", value)
    return value


def _optional_number(document: _Document, key: str) -> int | None:
    return None if document.get(key) is None else _number(document, key)


def _fail(key: str, expected: str, got: object) -> NoReturn:
    raise EventFormatError(f"{key}: expected {expected}, got {_brief(got)}")


def _brief(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case str():
            return repr(value if len(value) <= 60 else value[:57] + "...")
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return repr(value)[:60]


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is out of range")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
