# SPDX-License-Identifier: Apache-2.0
"""Conversations judged: signatures, decoders, names and behaviour together."""

from __future__ import annotations

import struct

from capture.making import ethernet, flow, handshake, ip, pcap, read, say, udp
from capture.signatures import AUTOMATON, SIGNATURES

from agentwall.capture.audit import Audit, audit_conversation, may_say_more
from agentwall.detect.signature import Side
from agentwall.flow.finding import DetectionClass, Stage

LOGIN = b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"%s","pass":"x",' % (b"4" * 95)
LOGIN += b'"agent":"XMRig/6.20.0","algo":["rx/0"]}}\n'


def _tcp(tmp_path, client: bytes, server: bytes = b""):
    frames = [*handshake(), say(client, sequence=1001)]
    if server:
        frames.append(say(server, back=True, sequence=5001))
    return flow(tmp_path, frames)


def _audit(conversation):
    return audit_conversation(conversation, SIGNATURES, AUTOMATON)


def test_signature(tmp_path):
    """A match is a finding, with the bytes that led to it."""
    (found,) = _audit(_tcp(tmp_path, b"TUNNEL 12\nmore"))

    assert (found.signature, found.stage) == ("tunnel/greeting", Stage.SIGNATURE)
    assert str(found.evidence["excerpt"]).startswith("TUNNEL")


def test_hand_over_is_no_finding(tmp_path):
    """A signature that only asks for a closer look finds nothing itself."""
    assert _audit(_tcp(tmp_path, b"LOOK here")) == []


def test_decoders(tmp_path):
    """What no signature matches, decoders find: mining, from its beginning and from the middle."""
    for conversation in (
        _tcp(tmp_path, LOGIN),
        flow(tmp_path, [say(LOGIN, sequence=7)]),
    ):
        found = _audit(conversation)
        assert [(f.cls, f.stage) for f in found] == [(DetectionClass.MINING, Stage.DECODER)]


def test_names(tmp_path):
    """A name on a list is a finding of its own stage."""
    (found,) = _audit(_tcp(tmp_path, b"GET / HTTP/1.1\r\nHost: a.pool.example\r\n\r\n"))

    assert (found.signature, found.stage) == ("mining/pools", Stage.INDICATOR)


def test_nothing(tmp_path):
    """A document about it, a page and noise are nothing."""
    for client, server in (
        (b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n<html>"),
        (bytes(range(256)), bytes(reversed(range(256)))),
        (b"", b"220 ready\r\n"),
    ):
        assert _audit(_tcp(tmp_path, client, server)) == []


def test_many_at_once(tmp_path):
    """Findings come with their conversations, whatever others lie in the same batch."""
    frames = []
    for port in range(2000, 2300):
        payload = b"TUNNEL 1\n" if port % 100 == 7 else b"nothing\n"
        frames += [*handshake(ports=(port, 80)), say(payload, sequence=1001, ports=(port, 80))]
    conversations, _ = read(tmp_path, pcap(frames))
    said = [
        (audited.conversation.client.port, finding.signature)
        for audited in Audit(SIGNATURES, AUTOMATON).audit(conversations)
        for finding in audited.findings
        if finding.stage is Stage.SIGNATURE
    ]

    assert said == [(port, "tunnel/greeting") for port in (2007, 2107, 2207)]


def test_behaviour(tmp_path):
    """What an address does over many conversations is found at their end."""
    frames = []
    for port in range(1, 400):
        segment = struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 100, 0, 0)
        frames.append(ethernet(ip(segment, 6, "10.0.0.5", "10.0.0.9")))
    conversations, _ = read(tmp_path, pcap(frames))
    found = [f for a in Audit(SIGNATURES, AUTOMATON).audit(conversations) for f in a.findings]

    assert DetectionClass.SCAN in {finding.cls for finding in found}


def test_questions_of_dns(tmp_path):
    """A question for a name on a list is found in the conversation that asks it."""
    labels = b"\1a\4pool\7example\0"
    question = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0\1\0\1"
    conversation = flow(tmp_path, [ethernet(ip(udp(question), 17))])
    (found,) = _audit(conversation)

    assert found.evidence["asked"] == "a.pool.example"


def test_of_what_more_is_worth_keeping():
    """Of TLS only the hello can be read; anything else may say more."""
    hello, page = b"\x16\x03\x01\x02\x00\x01" + bytes(100), b"GET / HTTP/1.1\r\n"

    assert may_say_more([(Side.CLIENT, hello), (Side.SERVER, page)]) == [False, True]
