# SPDX-License-Identifier: Apache-2.0
"""Names on lists, wherever a conversation has them."""

from __future__ import annotations

import struct

import pytest
from agree.hellos import hello_message, records, server_name
from capture.making import ethernet, flow, handshake, ip, say, udp

from agentwall.capture.listed import Listed
from agentwall.detect.signature import Indicators
from agentwall.errors import SourceLocation
from agentwall.flow.finding import Confidence, DetectionClass, Stage
from agentwall.flow.severity import Severity

POOLS = Indicators(
    id="mining/pools",
    cls=DetectionClass.MINING,
    dialect="pool-names",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    dated="2026-01-01",
    names=("pool.example", "xmr.example.org"),
    where=SourceLocation("x.yaml", 1, 1),
)
HELLO = records(hello_message([server_name(b"eu.pool.example")]), [])


def _question(name: str) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def _tcp(tmp_path, head: bytes, port: int = 443):
    ports = (40000, port)
    return flow(tmp_path, [*handshake(ports=ports), say(head, sequence=1001, ports=ports)])


@pytest.mark.parametrize(
    ("head", "evidence"),
    [
        (HELLO, {"said": "eu.pool.example", "listed": "pool.example"}),
        (
            b"GET / HTTP/1.1\r\nHost: XMR.example.org:80\r\n\r\n",
            {"said": "xmr.example.org", "listed": "xmr.example.org"},
        ),
        (
            b"CONNECT a.pool.example:3333 HTTP/1.1\r\n\r\n",
            {"through": "a.pool.example", "listed": "pool.example"},
        ),
        (
            b"\x05\x01\x00\x05\x01\x00\x03\x0cpool.example\x01\xbb" + HELLO,
            {"through": "pool.example", "listed": "pool.example"},
        ),
        (b"GET / HTTP/1.1\r\nHost: notpool.example\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", None),
    ],
)
def test_what_streams_say(tmp_path, head, evidence):
    """TLS, HTTP and what proxies are asked for: the name itself, and all below it."""
    found = Listed([POOLS]).find(_tcp(tmp_path, head))

    assert [f.evidence for f in found] == ([{**evidence, "dated": POOLS.dated}] if evidence else [])
    assert all((f.signature, f.stage) == ("mining/pools", Stage.INDICATOR) for f in found)


def test_what_is_asked(tmp_path):
    """DNS questions, over UDP and over TCP; a list is found once."""
    message = _question("stratum.pool.example")
    over_udp = flow(tmp_path, [ethernet(ip(udp(message), 17))] * 2)
    over_tcp = _tcp(tmp_path, struct.pack(">H", len(message)) + message, 53)

    for conversation in (over_udp, over_tcp):
        (found,) = Listed([POOLS]).find(conversation)
        assert found.evidence["asked"] == "stratum.pool.example"


def test_no_lists(tmp_path):
    """Without lists nothing is found."""
    assert Listed([]).find(_tcp(tmp_path, HELLO)) == []
