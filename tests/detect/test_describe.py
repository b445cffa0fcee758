# SPDX-License-Identifier: Apache-2.0
"""Facts for reports are small, printable, and taken from inside what wraps them."""

from __future__ import annotations

import json
import ssl
from ipaddress import IPv4Address

from agree.hellos import python_hello
from hypothesis import given
from hypothesis import strategies as st
from rig.dialogues import conversation, http

from agentwall.detect.conversation import Datagram
from agentwall.detect.describe import describe
from agentwall.net.endpoint import Endpoint, L4Protocol

QUESTION = b"\x00\x01\x01\x00\x00\x01" + bytes(6) + b"\x03www\x07example\x00\x00\x1c\x00\x01"
CONNECT = b"CONNECT hub.example:443 HTTP/1.1\r\n\r\n"


def udp(port: int) -> Endpoint:
    """A server."""
    return Endpoint(IPv4Address("192.0.2.1"), port, L4Protocol.UDP)


def test_tls_behind_a_proxy():
    """Name, protocols and fingerprint of the hello that went through the proxy."""
    hello = python_hello("hub.example", ssl.TLSVersion.TLSv1_3)
    facts = describe(conversation(CONNECT + hello, b"HTTP/1.1 200 OK\r\n\r\n"))

    assert facts["proxy"] == [{"kind": "http-connect", "target": "hub.example:443"}]
    tls = facts["tls"]
    assert isinstance(tls, dict)
    assert tls["sni"] == "hub.example"
    assert str(tls["ja4"]).startswith("t13d")


def test_ssh_and_http():
    """Software of both sides; method, host, agent and status."""
    said = describe(conversation(b"SSH-2.0-a\r\n", b"Hi\r\nSSH-2.0-b\r\n"))
    assert said == {"ssh": {"client": "a", "server": "b"}}

    asked = http(b"", "Host: a.example", "User-Agent: x\xff", first="GET / HTTP/1.1")
    answered = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n"
    assert describe(conversation(asked, answered))["http"] == {
        "method": "GET",
        "host": "a.example",
        "agent": "x..",
        "status": 101,
        "websocket": True,
    }


def test_dns_and_quic():
    """A question over UDP and TCP; a datagram that opens QUIC."""
    asked = {"dns": {"name": "www.example", "type": 28}}
    talk = conversation(server=udp(53), datagrams=(Datagram(QUESTION, len(QUESTION), True),))
    assert describe(talk) == asked

    framed = len(QUESTION).to_bytes(2) + QUESTION
    assert describe(conversation(framed)) == {}
    at_53 = Endpoint(IPv4Address("192.0.2.1"), 53, L4Protocol.TCP)
    assert describe(conversation(framed, server=at_53)) == asked

    initial = Datagram(b"\xc0\x00\x00\x00\x01" + bytes(1195), 1200, True)
    assert describe(conversation(server=udp(443), datagrams=(initial,))) == {"quic": True}


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x16\x03\x01\x00\x20\x01\x00", CONNECT]))
def test_any_bytes(data, begin):
    """Any bytes give JSON values."""
    json.dumps(dict(describe(conversation(begin + data, data))))
    talk = conversation(server=udp(53), datagrams=(Datagram(data, len(data), True),))
    json.dumps(dict(describe(talk)))
