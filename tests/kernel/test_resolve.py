# SPDX-License-Identifier: Apache-2.0
"""A name is resolved, and what it resolved to can be reached: all the way, with a real dnsmasq."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator

import pytest
from rig.ageing import end_addresses
from rig.dns import name_server
from rig.enclosure import describe, enclosure, parse_policy
from rig.lab import INTERNAL, METADATA, OUTSIDE, PERMITTED, PERMITTED6, lab
from rig.listeners import tcp_server
from rig.namebench import NameBench
from rig.puppet import PATIENCE_S, SILENCE_S, Puppet

from agentwall.flow.verdict import ReasonCode, Verdict

pytestmark = pytest.mark.kernel

RESOLVER = "198.51.100.53"
A, AAAA = 1, 28
HUB, OTHER, INSIDE, EVIL = "hub.example.com", "a.cdn.example.com", "in.example.com", "evil.example"
NAMES = {
    HUB: f"{PERMITTED},{PERMITTED6}",
    OTHER: OUTSIDE,
    INSIDE: INTERNAL,
    "meta.example.com": METADATA,
    EVIL: OUTSIDE,
}
POLICY = f"""
    name: names
    dns: {{servers: [{RESOLVER}], search: [svc.cluster.example, cluster.example]}}
    allow:
      - {{host: {HUB}, ports: [443, 8443]}}
      - {{host: "*.cdn.example.com"}}
      - {{host: "in.example.com"}}
      - {{host: "meta.example.com"}}
"""
_ids = itertools.count(1)


@pytest.fixture(scope="module")
def bench() -> Iterator[NameBench]:
    with (
        lab() as made,
        enclosure(made.near) as wall,
        tcp_server(made.far, PERMITTED, 443),
        tcp_server(made.far, PERMITTED6, 443),
        tcp_server(made.far, OUTSIDE, 443),
        tcp_server(made.far, INTERNAL, 443),
        name_server(made, RESOLVER, NAMES) as resolver,
    ):
        yield NameBench(lab=made, enclosure=wall, resolver=resolver)


def question(name: str, kind: int = A, number: int | None = None) -> bytes:
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split("."))
    header = struct.pack("!6H", number or next(_ids), 0x0100, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!2H", kind, 1)


def ask_udp(actor: Puppet, name: str, kind: int = A) -> bytes:
    sock = actor.open("udp")
    sock.connect(RESOLVER, 53)
    sock.send(question(name, kind))
    try:
        return sock.recv()
    finally:
        sock.close()


def ask_tcp(
    actor: Puppet,
    name: str,
    kind: int = A,
    piece: int = 4096,
    within_s: float = PATIENCE_S,
) -> bytes:
    sock = actor.open("tcp")
    sock.connect(RESOLVER, 53)
    message = question(name, kind)
    framed = struct.pack("!H", len(message)) + message
    for i in range(0, len(framed), piece):
        sock.send(framed[i : i + piece])
    try:
        answer = sock.recv(within_s)
        while len(answer) < 2 or len(answer) < 2 + struct.unpack("!H", answer[:2])[0]:
            answer += sock.recv(within_s)
        return answer[2:]
    finally:
        sock.close()


def reach(actor: Puppet, address: str, port: int = 443) -> None:
    sock = actor.open("tcp", address)
    try:
        sock.connect(address, port)
    finally:
        sock.close()


@pytest.mark.parametrize("ask", [ask_udp, ask_tcp])
def test_resolve_then_connect(bench: NameBench, ask: Callable[..., bytes]) -> None:
    with bench.sandbox(parse_policy(POLICY)) as (key, actor):
        with pytest.raises(PermissionError):
            reach(actor, PERMITTED)
        assert ask(actor, HUB)[3] & 15 == 0
        reach(actor, PERMITTED)
        with pytest.raises(PermissionError):
            reach(actor, PERMITTED, 80)
        with pytest.raises(PermissionError):
            reach(actor, PERMITTED6)
        ask(actor, HUB.upper(), AAAA)
        reach(actor, PERMITTED6)
        flows = [e for e in bench.enclosure.events(key) if e.name == HUB]
        assert {e.verdict for e in flows} == {Verdict.ALLOW, Verdict.DENY}, [
            describe(e) for e in bench.enclosure.events(key)
        ]


def test_tcp_byte_by_byte(bench: NameBench) -> None:
    with bench.sandbox(parse_policy(POLICY)) as (_, actor):
        assert ask_tcp(actor, OTHER, piece=1)[3] & 15 == 0
        reach(actor, OUTSIDE)


def test_refused_question_never_leaves(bench: NameBench) -> None:
    with bench.sandbox(parse_policy(POLICY)) as (key, actor):
        bench.resolver.forget()
        with pytest.raises(PermissionError):
            ask_udp(actor, EVIL)
        with pytest.raises(TimeoutError):
            ask_tcp(actor, EVIL, within_s=SILENCE_S)
        for name in ("x.hub.example.com", "example.com", "a.b.cdn.example.com", "cdn.example.com"):
            with pytest.raises(PermissionError):
                ask_udp(actor, name)
        assert bench.resolver.questions() == []
        asked = [e.question for e in bench.enclosure.refusals(key) if e.code is ReasonCode.QUESTION]
        assert [q.name for q in asked if q][:1] == [EVIL]


def test_search_list(bench: NameBench) -> None:
    with bench.sandbox(parse_policy(POLICY)) as (_, actor):
        for suffix in ("svc.cluster.example", "cluster.example"):
            assert ask_udp(actor, f"{HUB}.{suffix}")[3] & 15  # asked, and there is no such name
        with pytest.raises(PermissionError):
            ask_udp(actor, "evil.example.cluster.example")
        with pytest.raises(PermissionError):
            ask_udp(actor, "cluster.example")


@pytest.mark.parametrize(("name", "address"), [(INSIDE, INTERNAL), ("meta.example.com", METADATA)])
def test_rebinding(bench: NameBench, name: str, address: str) -> None:
    with bench.sandbox(parse_policy(POLICY)) as (key, actor):
        ask_udp(actor, name)
        with pytest.raises(PermissionError):
            reach(actor, address)
        seen = [e for e in bench.enclosure.refusals(key) if e.code is ReasonCode.REBINDING]
        assert [(str(e.remote.address), e.question.name) for e in seen] == [(address, name)]


def test_a_rule_on_addresses_opens_the_block_to_names(bench: NameBench) -> None:
    policy = parse_policy(POLICY + f"      - {{cidr: {INTERNAL}, ports: [1]}}\n")
    with bench.sandbox(policy) as (_, actor):
        ask_udp(actor, INSIDE)
        reach(actor, INTERNAL)


def test_learned_by_one_opens_nothing_for_another(bench: NameBench) -> None:
    policy = parse_policy(POLICY)
    with bench.sandbox(policy) as (_, one), bench.sandbox(policy) as (_, other):
        ask_udp(one, HUB)
        reach(one, PERMITTED)
        with pytest.raises(PermissionError):
            reach(other, PERMITTED)


def test_expiry_spares_what_is_open(bench: NameBench) -> None:
    with bench.sandbox(parse_policy(POLICY)) as (key, actor):
        ask_udp(actor, HUB)
        sock = actor.open("tcp")
        sock.connect(PERMITTED, 443)
        end_addresses(bench.enclosure.wall)
        sock.send(b"still open")
        with pytest.raises(PermissionError):
            reach(actor, PERMITTED)
        # Judged again, under another generation, by the name kept in the socket.
        bench.enclosure.bind(key, parse_policy(POLICY))
        sock.send(b"and still")
        assert not [e for e in bench.enclosure.refusals(key) if e.hook.value == "egress"]
        bench.enclosure.bind(key, parse_policy(POLICY.replace(HUB, "gone.example.com")))
        sock.send(b"no more")
        assert bench.enclosure.await_event(key, lambda e: e.hook.value == "egress"), "cut"


def test_switch_keeps_what_was_learned(bench: NameBench) -> None:
    with bench.sandbox(parse_policy(POLICY)) as (key, actor):
        ask_udp(actor, HUB)
        bench.enclosure.bind(key, parse_policy(POLICY.replace(HUB, "gone.example.com")))
        with pytest.raises(PermissionError):
            reach(actor, PERMITTED)
        bench.enclosure.bind(key, parse_policy(POLICY))
        reach(actor, PERMITTED)
