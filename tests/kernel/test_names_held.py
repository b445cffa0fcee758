# SPDX-License-Identifier: Apache-2.0
"""What a hostile sandbox tries against names: forged answers, questions nobody reads, streams."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import struct
from collections.abc import Iterator

import pytest
from rig.dns import name_server
from rig.enclosure import enclosure, parse_policy
from rig.lab import OUTSIDE, PERMITTED, lab
from rig.listeners import tcp_server
from rig.namebench import NameBench
from rig.puppet import PATIENCE_S, SILENCE_S, Puppet

from agentwall.flow.verdict import ReasonCode

pytestmark = pytest.mark.kernel

RESOLVER = "198.51.100.53"
DOCKER = "127.0.0.11"
SLOW = "198.51.100.54"
HUB, EVIL = "hub.example.com", "evil.example"
A = 1
OPT = 41
POLICY = f"""
    name: held
    dns: {{servers: [{RESOLVER}, {DOCKER}]}}
    allow:
      - {{host: {HUB}, ports: [443]}}
"""
SERVED = f"""
    name: served
    dns: {{servers: [{SLOW}]}}
    allow:
      - {{host: {HUB}, ports: [443]}}
      - {{cidr: {PERMITTED}, ports: [udp/9]}}
    inbound:
      - {{cidr: 0.0.0.0/0, ports: [udp/5000]}}
"""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def bench() -> Iterator[NameBench]:
    with (
        lab() as made,
        enclosure(made.near) as wall,
        tcp_server(made.far, PERMITTED, 443),
        tcp_server(made.far, OUTSIDE, 443),
        name_server(made, RESOLVER, {HUB: PERMITTED, EVIL: OUTSIDE}) as resolver,
    ):
        yield NameBench(lab=made, enclosure=wall, resolver=resolver)


def question(name: str, number: int, options: bytes | None = None) -> bytes:
    """Return one question; *options* are the data of an EDNS record behind it."""
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split(".")) + b"\0"
    header = struct.pack("!6H", number, 0x0100, 1, 0, 0, 0 if options is None else 1)
    message = header + labels + struct.pack("!2H", A, 1)
    if options is not None:
        message += b"\0" + struct.pack("!2HIH", OPT, 1232, 0, len(options)) + options
    return message


def answer(asked: bytes, address: str) -> bytes:
    """Return the answer to *asked*, a question without options, that gives *address*."""
    packed = ipaddress.ip_address(address).packed
    record = b"\xc0\x0c" + struct.pack("!2HIH", A, 1, 600, len(packed)) + packed
    return asked[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + asked[12:] + record


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def reach(actor: Puppet, address: str) -> None:
    sock = actor.open("tcp")
    try:
        sock.connect(address, 443)
    finally:
        sock.close()


def test_own_listener_is_no_moved_server(bench: NameBench) -> None:
    """The last claim of a socket is not where its next packet goes."""
    with bench.sandbox(parse_policy(POLICY)) as (_, actor):
        forger, asker = actor.open("udp"), actor.open("udp")
        forger.bind(DOCKER, 6379)
        asker.connect(DOCKER, 6379)
        asker.sendto(question(HUB, next(_numbers)), DOCKER, 53)
        asker.send(question(HUB, next(_numbers)))
        asked, address, port = forger.recvfrom()
        try:
            forger.sendto(answer(asked, OUTSIDE), address, port)
            asker.recv(SILENCE_S)
        except (PermissionError, TimeoutError):
            pass
        with pytest.raises(PermissionError):
            reach(actor, OUTSIDE)


def test_a_server_is_no_caller(bench: NameBench) -> None:
    """What a server answers lets nothing be sent to it but questions, whoever may call."""
    server = bench.lab.far.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((SLOW, 53))
    server.settimeout(PATIENCE_S)
    with server, bench.sandbox(parse_policy(SERVED)) as (key, actor):
        asker = actor.open("udp")
        asker.bind("0.0.0.0", 5000)
        asker.sendto(question(HUB, next(_numbers)), SLOW, 53)
        asked, peer = server.recvfrom(512)
        asker.sendto(b"elsewhere", PERMITTED, 9)
        server.sendto(answer(asked, OUTSIDE), peer)
        asker.recv()
        asker.connect(SLOW, 53)  # so that only egress sees what follows
        with pytest.raises(PermissionError):
            asker.send(question(EVIL, next(_numbers)))
        server.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            server.recv(512)
        refused = [e.code for e in bench.enclosure.refusals(key)]
        assert refused == [ReasonCode.QUESTION]
        reach(actor, OUTSIDE)  # learned all the same


def test_urgent_octet_hides_nothing(bench: NameBench) -> None:
    """Who reads a stream misses an urgent octet, and takes what follows for something else."""
    listener = bench.lab.far.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((SLOW, 53))
    listener.listen()
    listener.settimeout(PATIENCE_S)
    with listener, bench.sandbox(parse_policy(SERVED)) as (key, actor):
        asker = actor.open("tcp")
        asker.connect(SLOW, 53)
        server, _ = listener.accept()
        server.settimeout(PATIENCE_S)
        with server:
            asker.send(framed(question(HUB, next(_numbers))))
            assert HUB.partition(".")[0].encode() in server.recv(512)
            asker.send_urgent(framed(question(HUB, next(_numbers), b"option")))
            server.settimeout(SILENCE_S)
            with pytest.raises(TimeoutError):
                server.recv(512)
        assert bench.enclosure.await_event(key, lambda e: e.code is ReasonCode.NOT_A_QUESTION)
