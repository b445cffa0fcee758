# SPDX-License-Identifier: Apache-2.0
"""Conversations of a capture are judged by a policy as the sandbox's flows would have been."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from rig.lookups import CLIENT, SERVER, answer, lookup
from scapy.layers.dns import DNS, DNSQR

from agentwall.detect.conversation import Conversation, Datagram
from agentwall.detect.replay import Replay, declared_servers, judge_conversation
from agentwall.detect.resolved import ResolvedNames
from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.destination import parse_destination
from agentwall.net.endpoint import Endpoint, L4Protocol
from agentwall.policy.load import load_policy

TEXT = """\
version: 1
dns: {servers: [10.20.0.2]}
allow:
  - {cidr: 198.51.100.0/24, ports: [443, icmp], except: [tunnel/ssh]}
  - {host: hub.example.com, ports: [443, udp/5000]}
deny:
  - {cidr: 198.51.100.9}
  - {host: bad.example.com}
inbound:
  - {cidr: 192.0.2.1, ports: [8000]}
"""


@pytest.fixture
def policy(tmp_path):
    """A policy with rules of every kind."""
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    return load_policy(path)


@pytest.fixture
def names(policy):
    """What a capture teaches that has one look-up of each name."""
    found = ResolvedNames(declared_servers(policy))
    found.learn(lookup(answer("hub.example.com", "203.0.113.7")))
    found.learn(lookup(answer("bad.example.com", "198.51.100.20")))
    return found


def _conversation(to: str, client=CLIENT, **values) -> Conversation:
    remote = parse_destination(to)
    return Conversation(
        client=Endpoint(client, 40000, remote.protocol),
        server=remote,
        begin_ns=0,
        end_ns=1,
        packets=2,
        client_bytes=1,
        server_bytes=1,
        **values,
    )


@pytest.mark.parametrize(
    ("to", "code", "rule"),
    [
        ("198.51.100.7:443", "rule", "p:allow[0]"),
        ("icmp/198.51.100.7", "rule", "p:allow[0]"),
        ("198.51.100.7:80", "no-rule", None),
        ("198.51.100.9:443", "rule", "p:deny[0]"),
        ("203.0.113.7:443", "rule", "p:allow[1]"),
        ("udp/203.0.113.7:5000", "rule", "p:allow[1]"),
        ("203.0.113.7:80", "no-rule", None),
        ("203.0.113.8:443", "no-rule", None),
        ("198.51.100.20:443", "rule", "p:deny[1]"),
        ("127.0.0.1:80", "loopback", None),
        ("10.20.0.2:53", "resolver", "p:dns.servers"),
    ],
)
def test_outward(policy, names, to, code, rule):
    """Addresses are judged by rules on them, and by names that the capture's answers teach."""
    decision = judge_conversation(policy, _conversation(to), names)
    allowed = (rule or to).startswith(("p:allow", "p:dns", "127."))

    assert decision.code is ReasonCode(code)
    assert (decision.rule and decision.rule.id) == rule
    assert (decision.verdict is Verdict.ALLOW) is allowed


def test_names_are_the_clients_own(policy, names):
    """A name that one client learned opens nothing to another."""
    other = _conversation("203.0.113.7:443", client=ip_address("10.20.0.8"))

    assert judge_conversation(policy, other, names).code is ReasonCode.NO_RULE


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (None, "rule"),
        ("hub.example.com", "rule"),
        ("other.example.com", "server-name"),
        ("bad.example.com", "server-name"),
    ],
)
def test_what_the_flow_says(policy, names, said, code):
    """Where a name opened the way, the server name of TLS or HTTP has to be permitted too."""
    decision = judge_conversation(policy, _conversation("203.0.113.7:443", name=said), names)

    assert decision.code is ReasonCode(code)
    assert (decision.verdict is Verdict.ALLOW) is (code == "rule")


def test_addresses_open_whatever_is_said(policy, names):
    """Where a rule on addresses allows, nothing is judged by name."""
    conversation = _conversation("198.51.100.7:443", name="other.example.com")

    assert judge_conversation(policy, conversation, names).verdict is Verdict.ALLOW


def _query(name: str) -> bytes:
    return bytes(DNS(id=7, rd=1, qd=DNSQR(qname=name)))


@pytest.mark.parametrize("protocol", [L4Protocol.UDP, L4Protocol.TCP])
@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["hub.example.com"], "resolver"),
        (["hub.example.com", "data.evil.example"], "question"),
        ([b"no question"], "not-a-question"),
    ],
)
def test_questions(policy, names, protocol, messages, code):
    """Each question to a declared server is judged by its name."""
    said = [_query(one) if isinstance(one, str) else one for one in messages]
    conversation = replace(
        _conversation("udp/10.20.0.2:53" if protocol is L4Protocol.UDP else "10.20.0.2:53"),
        datagrams=tuple(Datagram(one, len(one), from_client=True) for one in said)
        if protocol is L4Protocol.UDP
        else (),
        client_head=b"".join(len(one).to_bytes(2, "big") + one for one in said)
        if protocol is L4Protocol.TCP
        else b"",
    )
    decision = judge_conversation(policy, conversation, names)

    assert decision.code is ReasonCode(code)
    assert (decision.verdict is Verdict.ALLOW) is (code == "resolver")
    if code == "question":
        assert decision.name == "data.evil.example"


@pytest.mark.parametrize(
    ("sandboxes", "direction", "verdict"),
    [
        ([], "out", "deny"),
        ([ip_address("192.0.2.1")], "out", "deny"),
        ([SERVER], "in", "allow"),
        ([ip_address("::ffff:10.20.0.2")], "in", "allow"),
        ([SERVER, ip_address("192.0.2.1")], "out", "deny"),
    ],
)
def test_inward(policy, names, sandboxes, direction, verdict):
    """Where the server alone is a sandbox, the flow goes inward, and the inbound rules decide."""
    conversation = _conversation("10.20.0.2:8000", client=ip_address("192.0.2.1"))
    replay = Replay(policy, names, sandboxes=sandboxes)

    assert replay.direction(conversation) is Direction(direction)
    assert replay.judge(conversation).verdict is Verdict(verdict)


def test_many_are_judged_as_one(policy, names):
    """A decision that was kept is the one that would be made anew."""
    replay = Replay(policy, names, sandboxes=[SERVER])
    many = [
        _conversation(to, client=ip_address(client), name=name)
        for to in ("203.0.113.7:443", "198.51.100.7:443", "10.20.0.2:8000", "10.20.0.2:8001")
        for client in ("10.20.0.7", "10.20.0.8", "192.0.2.1")
        for name in (None, "other.example.com")
    ]

    assert [replay.judge(one) for one in many * 2] == [
        judge_conversation(policy, one, names, sandboxes=[SERVER]) for one in many * 2
    ]


def test_without_name_servers(tmp_path):
    """A policy that declares none believes no answer."""
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\n")

    assert declared_servers(load_policy(path)) == frozenset()
