# SPDX-License-Identifier: Apache-2.0
"""Records as JSON lines."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from rig.records import CURL, SANDBOX, STARTED, asked, detection, endpoint, flow, scanned
from rig.strategies_of_records import RECORDS
from rig.tls_records import LIBSSL, STATIC, tls

from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import HOST, PolicyInForce, Record
from agentwall.sinks.event_json import (
    FIRST_PREV,
    LoggedEvent,
    encode,
    encode_sandbox,
    format_line,
    is_host,
)
from agentwall.sinks.event_parse import parse_line


def logged(record: Record) -> LoggedEvent:
    return LoggedEvent(id="run-1-42", record=record, prev=FIRST_PREV)


@given(RECORDS)
def test_records_survive(record):
    """Reading a written line gives the same event, strings to the character."""
    assert parse_line(format_line(logged(record))) == logged(record)


@given(RECORDS)
def test_lines_are_plain_ascii(record):
    """A line is one line of visible ASCII, whatever names a sandbox chose."""
    assert all(0x20 <= byte < 0x7F for byte in format_line(logged(record)))


def test_a_flow_in_full():
    """A flow's line has the documented keys in the documented order."""
    record = flow(
        name="example.com",
        claimed=endpoint("10.0.0.1", 53),
        local=endpoint("10.20.0.50", 40000),
    )

    document = json.loads(format_line(logged(record)))

    assert list(document) == [
        *("schema", "id", "kind", "time", "mono_ns", "sandbox", "process", "direction"),
        *("protocol", "local", "remote", "claimed", "question", "verdict", "reason", "hook"),
        *("errno", "socket_type", "bytes_out", "bytes_in", "duration_ns", "count", "prev"),
    ]
    assert document["schema"] == "agentwall.event/1"
    assert document["time"] == "2026-09-21T14:13:20.123456789Z"
    assert document["protocol"] == "tcp"
    assert document["remote"] == {"address": "203.0.113.7", "port": 443, "name": "example.com"}
    assert document["claimed"] == {"address": "10.0.0.1", "port": 53}
    assert document["question"] is None
    assert document["reason"] == {"code": "no-rule", "rule": None, "file": None, "line": None}
    assert document["process"]["source"] == "proc"


def test_a_detection_in_full():
    """A detection's line has its own keys first, then those that flows have."""
    document = json.loads(format_line(logged(detection(name="pool.example"))))

    assert list(document) == [
        *("schema", "id", "kind", "time", "mono_ns", "sandbox", "class", "signature", "dialect"),
        *("severity", "confidence", "stage", "response", "verdict", "evidence", "bytes_left"),
        *("process", "direction", "protocol", "local", "remote", "reason", "prev"),
    ]
    assert document["kind"] == "detection"
    assert (document["class"], document["dialect"]) == ("mining", "stratum-v1")
    assert (document["verdict"], document["response"], document["bytes_left"]) == (
        *("deny", "block"),
        0,
    )
    assert document["remote"]["name"] == "pool.example"
    assert document["reason"]["code"] == "signature"
    assert document["evidence"]["pool"] == "pool.example"


def test_a_tls_session_in_full():
    """A session's line says what was offered, and whether and how its text is read."""
    document = json.loads(format_line(logged(tls(name="learned.example"))))

    assert list(document) == [
        *("schema", "id", "kind", "time", "mono_ns", "sandbox", "process", "direction"),
        *("protocol", "local", "remote", "server_name", "alpn", "ja4", "read", "reading"),
        *("reason", "count", "prev"),
    ]
    assert document["kind"] == "tls"
    assert (document["server_name"], document["alpn"]) == ("hub.example", ["h2", "http/1.1"])
    assert document["remote"]["name"] == "learned.example"
    assert document["read"] is True
    assert document["reading"] == {"library": "openssl", "path": LIBSSL, "unread": None}


@pytest.mark.parametrize(
    ("reading", "written"),
    [(None, None), (STATIC, {"library": None, "path": None, "unread": "static"})],
)
def test_a_tls_session_that_is_not_read(reading, written):
    """It says why, or that nobody has looked."""
    document = json.loads(format_line(logged(tls(reading))))

    assert (document["read"], document["reading"]) == (False, written)


def test_a_scan_has_no_remote():
    """What is about no single flow says so."""
    document = json.loads(format_line(logged(scanned())))

    assert (document["remote"], document["bytes_left"]) == (None, None)


@pytest.mark.parametrize(
    ("type_", "text"), [(1, "A"), (28, "AAAA"), (65, "HTTPS"), (65280, "TYPE65280"), (None, None)]
)
def test_a_question(type_, text):
    """What was asked stands by itself, its type in words."""
    document = json.loads(format_line(logged(asked("evil.example.net", type_))))

    assert document["question"] == {"name": "evil.example.net", "type": text}


def test_the_schema_is_the_first_key():
    """A reader can tell the schema from a line's first bytes."""
    assert format_line(logged(STARTED)).startswith(b'{"schema":"agentwall.event/1",')


@pytest.mark.parametrize(
    ("text", "written"),
    [("\udcff", "\\xff"), ("a\ud800", "a\\ud800"), ("\\ud", "\\ud"), ("😀", "😀")],
)
def test_no_lone_surrogate_is_written(text, written):
    """A byte that is not UTF-8 is spelled out, as strict readers refuse a line with one."""
    record = flow(process=replace(CURL, comm=text, argv=(text,)))

    found = parse_line(format_line(logged(record))).record

    assert (found.process.comm, found.process.argv) == (written, (written,))


def test_a_sandbox_of_the_daemon():
    """Origin and policy stand beside the labels as far as known; a run has neither."""
    origin = Origin(runtime=Runtime.DOCKER, container="3f2a", labels={"secret": "x" * 10_000})
    policy = PolicyInForce(name="rl", commit="c0ffee")
    managed = replace(SANDBOX, origin=origin, policy=policy)

    assert encode_sandbox(managed) == {
        **encode_sandbox(SANDBOX),
        "origin": {"runtime": "docker", "container": "3f2a"},
        "policy": {"name": "rl", "phase": None, "commit": "c0ffee"},
    }
    assert list(encode_sandbox(SANDBOX)) == ["id", "cgroup", "labels"]


def test_a_detection_that_stands_for_several():
    """The count is written where it is more than one: the log of a run stays as it is."""
    one, many = (
        encode(LoggedEvent(id="r-1", record=detection(count=count), prev=FIRST_PREV))
        for count in (1, 7)
    )

    assert "count" not in one
    assert many["count"] == 7


def test_the_host():
    """The daemon is told from a sandbox that somebody called host."""
    assert is_host(HOST)
    assert not is_host(replace(SANDBOX, id="host"))
