# SPDX-License-Identifier: Apache-2.0
"""Reading lines that may come from anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.records import FINISHED, detection, flow
from rig.strategies_of_records import JSON_VALUES
from rig.tls_records import tls

from agentwall.flow.record import Record
from agentwall.sinks.event_json import FIRST_PREV, LoggedEvent, encode
from agentwall.sinks.event_parse import EventFormatError, UnknownSchemaError, parse, parse_line


def document(record: Record | None = None) -> dict[str, Any]:
    event = LoggedEvent(id="r-1", record=record or flow(), prev=FIRST_PREV)
    return json.loads(json.dumps(encode(event)))


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("id", 7, "id: expected text, got 7"),
        ("prev", "xyz", "prev: expected 64 hexadecimal digits, got 'xyz'"),
        ("time", "yesterday", "time: expected an RFC 3339 time"),
        ("mono_ns", -1, "mono_ns: expected a whole number of 64 bits, got -1"),
        ("mono_ns", True, "mono_ns: expected a whole number of 64 bits, got True"),
        ("count", 2**64, "count: expected a whole number of 64 bits"),
        ("bytes_out", 1.5, "bytes_out: expected a whole number of 64 bits, got 1.5"),
        ("sandbox", None, "sandbox: expected an object, got nothing"),
        ("sandbox.labels", [], "labels: expected an object, got a list"),
        ("sandbox.labels.step", 7, "labels.step: expected text, got 7"),
        (
            "sandbox.origin",
            {"runtime": "vm"},
            "runtime: expected one of agentwall, docker",
        ),
        ("sandbox.origin", {"runtime": "docker", "name": 7}, "name: expected text, got 7"),
        ("sandbox.policy", {"phase": "agent"}, "name: expected text, got nothing"),
        ("protocol", "quic", "protocol: expected tcp, udp, icmp, icmp6 or ip/N, got 'quic'"),
        ("remote.address", "300.1.1.1", "address: expected an IP address, got '300.1.1.1'"),
        ("remote.address", "fe80::1%eth0", "address: expected an IP address"),
        ("remote.port", 70000, "remote.port: expected 0-65535, got 70000"),
        ("verdict", "maybe", "verdict: expected one of allow, deny, would-deny, got 'maybe'"),
        ("verdict", ["deny"], "verdict: expected one of allow, deny, would-deny, got a list"),
        ("hook", "lsm", "hook: expected one of connect4"),
        ("reason.code", None, "code: expected one of rule"),
        ("question", "a.example", "question: expected an object, got 'a.example'"),
        ("question", {"name": 7, "type": "A"}, "name: expected text, got 7"),
        ("question", {"name": "a", "type": 1}, "type: expected text, got 1"),
        (
            "question",
            {"name": "a", "type": "TYPE65536"},
            "question.type: expected a DNS record type such as AAAA or TYPE65280, got 'TYPE65536'",
        ),
        ("process.argv", ["a", 1], "argv: expected a list of text or null, got a list"),
        ("process.comm", "x" * 5 + "\n", None),
    ],
)
def test_wrong_values_are_named(path, value, problem):
    """A wrong type or range raises, with the key, what was expected and what was found."""
    found = document()
    *parents, last = path.split(".")
    place = found
    for key in parents:
        place = place[key]
    place[last] = value

    if problem is None:
        assert parse(found).record.process.comm == value
    else:
        with pytest.raises(EventFormatError) as caught:
            parse(found)
        assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("class", "worms", "class: expected one of mining, tunnel, p2p"),
        ("severity", "grave", "severity: expected one of info, low, medium, high, critical, got"),
        ("confidence", 1, "confidence: expected one of high, medium, low, got 1"),
        ("stage", None, "stage: expected one of signature, decoder"),
        ("response", 7, "response: expected text, got 7"),
        ("evidence", [], "evidence: expected an object, got a list"),
        ("bytes_left", -1, "bytes_left: expected a whole number"),
    ],
)
def test_wrong_values_of_a_detection(key, value, problem):
    """A detection that is not one is named as such: it must not be passed over."""
    with pytest.raises(EventFormatError) as caught:
        parse({**document(detection()), key: value})

    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("read", None, "read: expected true or false, got nothing"),
        ("read", "yes", "read: expected true or false, got 'yes'"),
        ("alpn", "h2", "alpn: expected a list of text, got 'h2'"),
        ("alpn", [1], "alpn: expected a list of text, got a list"),
        ("ja4", 4, "ja4: expected text, got 4"),
        ("server_name", [], "server_name: expected text, got a list"),
        ("reading", "openssl", "reading: expected an object, got 'openssl'"),
        ("reading", {"library": "own"}, "library: expected one of openssl, gnutls, nss, got 'own'"),
        ("reading", {"unread": "lazy"}, "unread: expected one of static, go"),
        ("reading", {"path": 1}, "path: expected text, got 1"),
        ("count", None, "count: expected a whole number"),
    ],
)
def test_wrong_values_of_a_tls_session(key, value, problem):
    """A session that is not one is named as such."""
    with pytest.raises(EventFormatError) as caught:
        parse({**document(tls()), key: value})

    assert str(caught.value).startswith(problem)


def test_a_newer_detection():
    """Keys and responses of later versions do not hide a detection."""
    found = parse({**document(detection()), "response": "freeze", "frozen": True}).record

    assert found == detection(response="freeze")


def test_a_line_without_a_question():
    """Lines from before questions were logged are read as having none."""
    found = document()
    del found["question"]

    assert parse(found).record == flow()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "expected a JSON object, got a list"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b"[" * 100_000, "not JSON"),
        (b'{"schema":' + b"1" * 5000 + b"}", "not JSON"),
        (b'{"schema":NaN}', "not JSON: NaN is not JSON"),
        (b'{"schema":1e999}', "not JSON: 1e999 is out of range"),
    ],
)
def test_lines_that_are_not_documents(line, problem):
    """Bytes that are no JSON object are refused, however deep or long."""
    with pytest.raises(EventFormatError) as caught:
        parse_line(line)

    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    "changes", [{"schema": "agentwall.event/2"}, {"schema": None}, {"kind": "alarm"}]
)
def test_other_schemas_are_told_apart(changes):
    """A line for another reader is not a broken one."""
    with pytest.raises(UnknownSchemaError):
        parse({**document(), **changes})


@given(
    st.dictionaries(
        st.sampled_from([*document(), *document(FINISHED), *document(detection())]), JSON_VALUES
    )
)
def test_any_values_parse_or_raise(changes):
    """Whatever the values are, the only error is the documented one."""
    for record in (flow(), FINISHED, detection()):
        try:
            event = parse({**document(record), **changes})
        except EventFormatError:
            continue
        assert isinstance(event, LoggedEvent)
