# SPDX-License-Identifier: Apache-2.0
"""Matches and excerpts of what was said inside TLS: evidence, ends of flows, and privacy."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.records import CURL
from rig.sights import (
    ALL,
    ATTEMPT,
    ESCAPED,
    KEY,
    KILL,
    POLICY,
    SSH,
    SUBSCRIBE,
    TABLES,
    engine_of,
    excerpt,
    matched,
)
from rig.tls_records import hello_read, named_hello

from agentwall.engine.commands import Report
from agentwall.engine.engine import Engine
from agentwall.engine.events import AttemptSeen, ExcerptsSeen, RulesApplied
from agentwall.engine.excerpts import Excerpts, key_of
from agentwall.flow.finding import Stage
from agentwall.flow.record import DetectionRecord, FlowRecord
from agentwall.flow.verdict import Hook, Mode, ReasonCode, Verdict
from agentwall.policy.model import Inspect

UNKNOWN = {"hook": Hook.PLAIN, "remote": None, "local": None, "cookie": 0}
"""Of an attempt inside TLS whose flow nobody knows yet."""


@pytest.fixture
def engine() -> Engine:
    return engine_of()


def see(engine: Engine, attempt) -> list[object]:
    return list(engine.handle(AttemptSeen(attempt=attempt, process=CURL)))


def decode(engine: Engine, *pieces) -> list[object]:
    return list(engine.handle(ExcerptsSeen(excerpts=tuple((each, CURL) for each in pieces))))


def test_evidence(engine):
    """A match has what the hello of its socket offered, and says what its bytes are bytes of."""
    hello = named_hello(b"pool.example", b"stratum", b"h2")
    [told] = engine.handle(hello_read(hello, cookie=ATTEMPT.cookie))
    kill, report = see(engine, matched(ALL, SUBSCRIBE, Verdict.DENY, hook=Hook.PLAIN, left_bytes=7))

    assert kill == KILL
    assert report.record.bytes_left == 7
    evidence = report.record.finding.evidence
    assert evidence["inside"] == "tls"
    assert evidence["bytes_left_of"] == "text"
    assert evidence["sni"] == "pool.example"
    assert evidence["alpn"] == ["stratum", "h2"]
    assert evidence["ja4"] == told.record.ja4


def test_a_hello_that_is_not_known(engine):
    """Without it the rest holds; nothing that was not cut has bytes that left."""
    list(engine.handle(hello_read(cookie=ATTEMPT.cookie + 1)))
    [report] = see(engine, matched(SSH, b"SSH-2.0-", Verdict.WOULD_DENY, hook=Hook.PLAIN))

    evidence = report.record.finding.evidence
    assert evidence["inside"] == "tls"
    assert not {"sni", "alpn", "ja4", "bytes_left_of"} & set(evidence)


def test_clear_text_is_not_inside(engine):
    """What the same socket says in clear is no match inside TLS."""
    list(engine.handle(hello_read(cookie=ATTEMPT.cookie)))
    _, report = see(engine, matched(SSH, b"SSH-2.0-", Verdict.DENY))

    assert "inside" not in report.record.finding.evidence


def test_a_flow_that_is_not_known_yet(engine):
    """A match is told of at once; the flow is ended when its first packet is dropped."""
    first = see(engine, matched(SSH, b"SSH-2.0-", Verdict.DENY, **UNKNOWN))
    dropped = replace(ATTEMPT, verdict=Verdict.DENY, code=ReasonCode.SIGNATURE)
    kill, report = see(engine, dropped)

    [detection] = first
    assert isinstance(detection, Report)
    assert isinstance(detection.record, DetectionRecord)
    assert (detection.record.verdict, detection.record.remote) == (Verdict.DENY, None)
    assert kill == KILL
    assert isinstance(report.record, FlowRecord)


@pytest.mark.parametrize("changes", [UNKNOWN, {"hook": Hook.PLAIN}])
def test_a_match_that_no_signature_explains(engine, changes):
    """It is told of as a denial, whatever is known of its flow."""
    commands = see(engine, matched(len("none"), b"x", Verdict.DENY, table=9, **changes))

    assert isinstance(commands[-1].record, FlowRecord)
    assert commands[-1].record.hook is Hook.PLAIN
    assert (commands[0] == KILL) is (changes is not UNKNOWN)


def test_two_conversations_of_one_socket(engine):
    """Text and what is encrypted of it do not mix, and each is decoded for itself."""
    encrypted = b"\x17\x03\x03\x01\x00" + b"\xaa" * 100
    pieces = [excerpt(encrypted, 0), excerpt(ESCAPED, 0, hook=Hook.PLAIN)]
    kill, report = decode(engine, *pieces)

    assert kill == KILL
    assert report.record.verdict is Verdict.DENY
    assert report.record.bytes_left == len(ESCAPED)
    assert report.record.finding.stage is Stage.DECODER
    assert report.record.finding.evidence["inside"] == "tls"
    assert report.record.finding.evidence["bytes_left_of"] == "text"
    assert decode(engine, excerpt(ESCAPED, len(ESCAPED), hook=Hook.PLAIN)) == []


def test_http_inside(engine):
    """Decoders read HTTP inside TLS as they do in clear."""
    request = b"POST / HTTP/1.1\r\nHost: pool.example\r\nContent-Length: %d\r\n\r\n" % len(ESCAPED)
    kill, report = decode(engine, excerpt(request + ESCAPED, 0, hook=Hook.PLAIN))

    assert kill == KILL
    assert report.record.finding.evidence["pool"] == "pool.example"


def test_websocket_inside(engine):
    """Masked frames are read, which no automaton can."""
    request = (
        b"GET /ws HTTP/1.1\r\nHost: pool.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    mask = b"\x01\x02\x03\x04"
    masked = bytes(octet ^ mask[at % 4] for at, octet in enumerate(SUBSCRIBE))
    frame = b"\x81" + bytes([0x80 | len(SUBSCRIBE)]) + mask + masked
    kill, report = decode(
        engine,
        excerpt(request, 0, hook=Hook.PLAIN),
        excerpt(answer, 0, hook=Hook.PLAIN, from_client=False),
        excerpt(frame, len(request), hook=Hook.PLAIN),
    )

    assert kill == KILL
    assert report.record.finding.evidence["via"] == ["websocket"]


def test_decoded_before_the_flow_is_known(engine):
    """An alert until it is known which flow to cut; then it is cut."""
    [alert] = decode(engine, excerpt(ESCAPED, 0, **UNKNOWN))
    quiet = decode(engine, excerpt(b'{"id": 2}\n', len(ESCAPED), **UNKNOWN))
    kill, report = decode(engine, excerpt(b'{"id": 3}\n', len(ESCAPED) + 10, hook=Hook.PLAIN))

    assert (alert.record.verdict, alert.record.response) == (Verdict.ALLOW, "block")
    assert alert.record.bytes_left is None
    assert quiet == []
    assert kill == KILL
    assert report.record.verdict is Verdict.DENY
    assert report.record.remote == ATTEMPT.remote


def test_the_flow_becomes_known_in_one_batch(engine):
    """What came before and after is told at once: it is decoded as one text, and cut."""
    kill, report = decode(
        engine, excerpt(ESCAPED, 0, **UNKNOWN), excerpt(b"\n", len(ESCAPED), hook=Hook.PLAIN)
    )

    assert kill == KILL
    assert report.record.verdict is Verdict.DENY


@pytest.mark.parametrize("mode", [Mode.AUDIT, Mode.OBSERVE])
def test_modes(mode):
    """Where nothing is cut nothing is ended, and the verdict says what would be."""
    [report] = decode(engine_of(mode=mode), excerpt(ESCAPED, 0, hook=Hook.PLAIN))

    assert report.record.verdict is (Verdict.WOULD_DENY if mode is Mode.AUDIT else Verdict.ALLOW)
    assert "bytes_left_of" not in report.record.finding.evidence


@pytest.mark.parametrize(
    ("inspect", "inside", "clear"),
    [(Inspect.ALL, 1, 1), (Inspect.WIRE, 0, 1), (Inspect.NONE, 0, 0)],
)
def test_what_a_rule_has_inspected(inspect, inside, clear):
    """Nothing is found inside TLS behind a rule that says so, whoever hands it over."""
    engine = engine_of()
    tables = replace(TABLES, rules=tuple(replace(rule, inspect=inspect) for rule in TABLES.rules))
    applied = RulesApplied(key=KEY, mono_ns=6, generation=3, policy=POLICY, tables=tables)
    list(engine.handle(applied))
    found = [
        see(engine, matched(SSH, b"SSH-2.0-", Verdict.ALLOW, hook=hook))
        + decode(engine, excerpt(ESCAPED, 0, hook=hook))
        for hook in (Hook.PLAIN, Hook.EGRESS)
    ]
    counts = [
        sum(isinstance(getattr(each, "record", None), DetectionRecord) for each in commands)
        for commands in found
    ]

    assert counts == [2 * inside, 2 * clear]


def test_connections_of_a_process_whose_flows_are_not_known():
    """What begins anew is another connection, not the first one again."""
    flows = Excerpts()
    flows.add(excerpt(b"first", 0, **UNKNOWN))
    flows.add(excerpt(b"another", 0, **UNKNOWN))
    waiting = key_of(replace(ATTEMPT, **UNKNOWN))
    flows.add(excerpt(b"x", 0, cookie=5))

    assert flows.conversation(waiting).client_head == b"another"
    assert flows.conversation((5, False, 0)).client_head == b"x"


def test_a_beginning_is_taken_over():
    """Once the flow is known, what was said before is the beginning of its conversation."""
    flows = Excerpts()
    flows.add(excerpt(b"abc", 0, **UNKNOWN))
    flows.add(excerpt(b"OK", 0, hook=Hook.PLAIN, from_client=False, mono_ns=2000))
    found = flows.conversation(key_of(replace(ATTEMPT, hook=Hook.PLAIN)))

    assert (found.client_head, found.server_head) == (b"abc", b"OK")
    assert (found.server, found.begin_ns) == (ATTEMPT.remote, 1000)


def test_a_cut_of_an_unknown_flow_ends_no_other(engine):
    """The next connection of the process is decoded again."""
    see(engine, matched(SSH, b"SSH-2.0-", Verdict.DENY, **UNKNOWN))

    assert len(decode(engine, excerpt(ESCAPED, 0, **UNKNOWN))) == 1


# Two letters that stand nowhere else in evidence: whatever has one was said beside the line.
MARK = st.text("QX", min_size=1, max_size=24)
NEIGHBOURS = st.one_of(
    MARK,
    MARK.map("Authorization: Bearer {}".format),
    MARK.map("User-Agent: {}".format),
    MARK.map("Host: {}".format),
    MARK.map("POST /{} HTTP/1.1".format),
    MARK.map('{{"id": 1, "method": "mining.authorize", "params": ["{0}.{0}", "{0}"]}}'.format),
    MARK.map('{{"id": 2, "method": "login", "params": {{"login": "{0}", "pass": "{0}"}}}}'.format),
    MARK.map('{{"id": 3, "method": "mining.hello", "params": {{"host": "{0}"}}}}'.format),
    st.just(""),
)
LINES = st.sampled_from(
    [
        SUBSCRIBE.strip(),
        SUBSCRIBE[:37],
        b'{"id": 1, "method": "eth_submitLogin", "params": ["0x1"]}',
        b"SSH-2.0-OpenSSH_9.2",
        b"plain text",
    ]
)


@given(st.lists(NEIGHBOURS, max_size=6), st.sampled_from(["\n", "\r\n"]), LINES, st.booleans())
def test_only_the_matched_line_is_told(neighbours, end, line, is_cut):
    """No octet that was said beside the matched line is in the record, whatever decoders read."""
    before = "".join(each + end for each in neighbours).encode()
    text = (before + line)[-512:]
    left = len(before + line) if is_cut else 0
    attempt = matched(
        ALL, text, Verdict.DENY, hook=Hook.PLAIN, position=max(left, len(text)), left_bytes=0
    )
    _, report = see(engine_of(), attempt)

    evidence = json.dumps(dict(report.record.finding.evidence))
    assert not set(evidence) & set("QX")
    assert report.record.finding.evidence["excerpt"] or not line


@given(st.binary(max_size=512), st.integers(0, 2000), st.booleans())
def test_any_text(text, more, from_client):
    """Whatever was said, a match is told of, and its excerpt is short."""
    attempt = matched(
        ALL,
        text,
        Verdict.DENY,
        hook=Hook.PLAIN,
        position=len(text) + more,
        from_client=from_client,
    )
    _, report = see(engine_of(), attempt)

    assert len(report.record.finding.evidence["excerpt"]) <= 256


def test_evidence_of_the_line_alone(engine):
    """What decoders read in other lines is not told either."""
    text = SUBSCRIBE + b'{"id": 2, "method": "mining.authorize", "params": ["a.b", "secret"]}\n'
    _, report = see(engine, matched(ALL, text, Verdict.DENY, hook=Hook.PLAIN))

    evidence = report.record.finding.evidence
    assert evidence["methods"] == ["mining.authorize"]
    assert "secret" not in evidence["excerpt"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": 1, "method": "login", "params": {"login": "a", "pass": "hunter2"}}',
        b'{"id": 1, "method": "mining.authorize", "params": ["a.b", "hunter2"]}',
        b'{"id": 1, "worker": "a", "params": ["a.b", "hunter2"]',
        b"Authorization: Bearer hunter2",
        b"authorization: Basic " + b"QUJD" * 45 + b" hunter2",
        b"Cookie: sid=hunter2; theme=dark",
        b"GET http://me:hunter2@pool.example/ HTTP/1.1",
        b"POST /?token=hunter2 HTTP/1.1",
        b"hunter2 " * 40,
    ],
)
@pytest.mark.parametrize("head", [b"", b"POST / HTTP/1.1\r\nAuthorization: Bearer hunter2\r\n\r\n"])
def test_secrets_are_not_told(engine, line, head):
    """What signs in is not shown, in the matched line itself or before it."""
    _, report = see(engine, matched(ALL, head + line, Verdict.DENY, hook=Hook.PLAIN))

    assert "hunter2" not in json.dumps(dict(report.record.finding.evidence))
