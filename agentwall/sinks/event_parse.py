# SPDX-License-Identifier: Apache-2.0
"""JSON lines of ``agentwall.event/1`` as records: the inverse of ``event_json``. Pure.

A line may come from anywhere, so nothing in it is taken on trust: every type and range is checked.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from ipaddress import ip_address
from typing import NoReturn

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
    TlsRecord,
)
from agentwall.flow.severity import Severity
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, IPAddress
from agentwall.net.ports import protocol_name
from agentwall.sinks.event_json import ORIGIN_TEXTS, SCHEMA, LoggedEvent
from agentwall.sinks.json_fields import (
    Document,
    brief,
    choice_of,
    fail,
    flag_of,
    number_of,
    object_of,
    optional_number,
    optional_text,
    text_of,
    texts_of,
)
from agentwall.sinks.json_fields import EventFormatError as EventFormatError
from agentwall.sinks.rfc3339 import parse_time
from agentwall.sinks.rrtypes import parse_type

_PROTOCOLS = {protocol_name(number): number for number in range(256)}
_SEVERITIES = {severity.label: severity for severity in Severity}


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
        raise EventFormatError(f"expected a JSON object, got {brief(document)}")
    return parse(document)


def parse(document: Document) -> LoggedEvent:
    """Return the event that *document* describes; raises as :func:`parse_line`."""
    schema = document.get("schema")
    if schema != SCHEMA:
        raise UnknownSchemaError(f"schema: expected {SCHEMA}, got {brief(schema)}")
    prev = text_of(document, "prev")
    if len(prev) != 64 or not set(prev) <= set("0123456789abcdef"):
        fail("prev", "64 hexadecimal digits", prev)
    return LoggedEvent(id=text_of(document, "id"), record=_record(document), prev=prev)


def _record(document: Document) -> Record:
    kind = document.get("kind")
    sandbox = _sandbox(object_of(document, "sandbox"))
    time_ns = _time(text_of(document, "time"))
    mono_ns = number_of(document, "mono_ns")
    if kind == "flow":
        return _flow(document, sandbox, time_ns, mono_ns)
    if kind == "gap":
        return GapRecord(
            sandbox=sandbox,
            time_ns=time_ns,
            mono_ns=mono_ns,
            where=text_of(document, "where"),
            lost=number_of(document, "lost"),
        )
    if kind == "state":
        return StateRecord(
            sandbox=sandbox,
            time_ns=time_ns,
            mono_ns=mono_ns,
            state=text_of(document, "state"),
            detail=object_of(document, "detail"),
        )
    if kind == "detection":
        return _detection(document, sandbox, time_ns, mono_ns)
    if kind == "tls":
        return _tls(document, sandbox, time_ns, mono_ns)
    expected = "flow, detection, tls, gap or state"
    raise UnknownSchemaError(f"kind: expected {expected}, got {brief(kind)}")


def _flow(document: Document, sandbox: Sandbox, time_ns: int, mono_ns: int) -> FlowRecord:
    protocol = _protocol(document)
    return FlowRecord(
        sandbox=sandbox,
        time_ns=time_ns,
        mono_ns=mono_ns,
        process=_process(document),
        direction=choice_of(document, "direction", Direction),
        protocol=protocol,
        local=_endpoint(document, "local", protocol),
        remote=_endpoint(document, "remote", protocol),
        claimed=_endpoint(document, "claimed", protocol),
        verdict=choice_of(document, "verdict", Verdict),
        reason=_reason(object_of(document, "reason")),
        hook=choice_of(document, "hook", Hook),
        errno=optional_number(document, "errno"),
        socket_type=number_of(document, "socket_type"),
        bytes_out=optional_number(document, "bytes_out"),
        bytes_in=optional_number(document, "bytes_in"),
        duration_ns=optional_number(document, "duration_ns"),
        count=number_of(document, "count"),
        name=_name(document),
        question=_question(document),
    )


def _detection(document: Document, sandbox: Sandbox, time_ns: int, mono_ns: int) -> DetectionRecord:
    protocol = _protocol(document)
    return DetectionRecord(
        sandbox=sandbox,
        time_ns=time_ns,
        mono_ns=mono_ns,
        process=_process(document),
        finding=_finding(document),
        verdict=choice_of(document, "verdict", Verdict),
        response=text_of(document, "response"),
        direction=choice_of(document, "direction", Direction),
        protocol=protocol,
        local=_endpoint(document, "local", protocol),
        remote=_endpoint(document, "remote", protocol),
        name=_name(document),
        reason=_reason(object_of(document, "reason")),
        bytes_left=optional_number(document, "bytes_left"),
        count=1 if document.get("count") is None else number_of(document, "count"),
    )


def _tls(document: Document, sandbox: Sandbox, time_ns: int, mono_ns: int) -> TlsRecord:
    protocol = _protocol(document)
    return TlsRecord(
        sandbox=sandbox,
        time_ns=time_ns,
        mono_ns=mono_ns,
        process=_process(document),
        direction=choice_of(document, "direction", Direction),
        protocol=protocol,
        local=_endpoint(document, "local", protocol),
        remote=_endpoint(document, "remote", protocol),
        name=_name(document),
        server_name=optional_text(document, "server_name"),
        alpn=texts_of(document, "alpn"),
        ja4=optional_text(document, "ja4"),
        reading=_reading(document),
        is_joined=flag_of(document, "read"),
        reason=_reason(object_of(document, "reason")),
        count=number_of(document, "count"),
    )


def _reading(document: Document) -> TlsReading | None:
    if document.get("reading") is None:
        return None
    reading = object_of(document, "reading")
    library, unread = reading.get("library"), reading.get("unread")
    return TlsReading(
        library=None if library is None else choice_of(reading, "library", TlsLibrary),
        path=optional_text(reading, "path"),
        unread=None if unread is None else choice_of(reading, "unread", Unread),
    )


def _finding(document: Document) -> Finding:
    severity = _SEVERITIES.get(text_of(document, "severity"))
    if severity is None:
        fail("severity", "one of " + ", ".join(_SEVERITIES), document["severity"])
    return Finding(
        cls=choice_of(document, "class", DetectionClass),
        signature=text_of(document, "signature"),
        dialect=text_of(document, "dialect"),
        severity=severity,
        confidence=choice_of(document, "confidence", Confidence),
        stage=choice_of(document, "stage", Stage),
        evidence=object_of(document, "evidence"),
    )


def _protocol(document: Document) -> int:
    text = text_of(document, "protocol")
    protocol = _PROTOCOLS.get(text)
    if protocol is None:
        fail("protocol", "tcp, udp, icmp, icmp6 or ip/N", text)
    return protocol


def _name(document: Document) -> str | None:
    remote = document.get("remote")
    return optional_text(remote, "name") if isinstance(remote, dict) else None


def _sandbox(document: Document) -> Sandbox:
    labels = object_of(document, "labels")
    for key, value in labels.items():
        if not isinstance(value, str):
            fail(f"labels.{key}", "text", value)
    return _known_sandbox(
        text_of(document, "id"),
        text_of(document, "cgroup"),
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


def _origin(document: Document) -> tuple[str | None, ...] | None:
    """Return the runtime and then what else is known, as something that can be compared."""
    if document.get("origin") is None:
        return None
    origin = object_of(document, "origin")
    runtime = choice_of(origin, "runtime", Runtime).value
    return (runtime, *(optional_text(origin, key) for key in ORIGIN_TEXTS))


def _policy(document: Document) -> PolicyInForce | None:
    if document.get("policy") is None:
        return None
    policy = object_of(document, "policy")
    return PolicyInForce(
        name=text_of(policy, "name"),
        phase=optional_text(policy, "phase"),
        commit=optional_text(policy, "commit"),
    )


def _process(document: Document) -> Process | None:
    if document.get("process") is None:
        return None
    process = object_of(document, "process")
    argv = process.get("argv")
    if argv is not None and not (
        isinstance(argv, list) and all(isinstance(item, str) for item in argv)
    ):
        fail("argv", "a list of text or null", argv)
    return Process(
        pid=number_of(process, "pid"),
        ppid=optional_number(process, "ppid"),
        uid=number_of(process, "uid"),
        comm=text_of(process, "comm"),
        exe=optional_text(process, "exe"),
        argv=None if argv is None else tuple(argv),
        source=choice_of(process, "source", ProcessSource),
    )


def _question(document: Document) -> Question | None:
    if document.get("question") is None:
        return None
    question = object_of(document, "question")
    kind = optional_text(question, "type")
    try:
        number = None if kind is None else parse_type(kind)
    except ValueError as err:
        raise EventFormatError(f"question.type: {err}") from err
    return Question(name=text_of(question, "name"), type=number)


def _reason(reason: Document) -> Reason:
    return Reason(
        code=choice_of(reason, "code", ReasonCode),
        rule=optional_text(reason, "rule"),
        file=optional_text(reason, "file"),
        line=optional_number(reason, "line"),
    )


def _endpoint(document: Document, key: str, protocol: int) -> Endpoint | None:
    if document.get(key) is None:
        return None
    endpoint = object_of(document, key)
    address = _address(text_of(endpoint, "address"))
    port = number_of(endpoint, "port")
    if port > 0xFFFF:
        fail(f"{key}.port", "0-65535", port)
    return Endpoint(address, port, protocol)


@lru_cache(maxsize=32768)
def _address(text: str) -> IPAddress:
    try:
        if "%" not in text:
            return ip_address(text)
    except ValueError:
        pass
    fail("address", "an IP address", text)


@lru_cache(maxsize=4096)
def _time(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as err:
        raise EventFormatError(f"time: {err}") from err


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is out of range")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
