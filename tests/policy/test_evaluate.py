# SPDX-License-Identifier: Apache-2.0
"""What a policy says about a flow."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.destination import parse_destination
from agentwall.net.endpoint import Endpoint
from agentwall.policy.evaluate import evaluate, loopback_scope, resolve_line
from agentwall.policy.load import load_policy
from agentwall.policy.model import LoopbackScope

POLICY = """\
version: 1
name: p
allow:
  - {cidr: any, ports: [443, udp/443]}
  - {cidr: 10.20.0.0/24, ports: [8000-8010]}
  - {cidr: 10.0.0.0/8, ports: [22]}
  - {cidr: 100.64.0.0/10, ports: [any]}
  - {cidr: 169.254.169.254, ports: [80]}
  - {cidr: 127.0.0.1, ports: [5432]}
  - {cidr: 203.0.113.7, ports: [icmp, ip/132]}
deny:
  - cidr: 10.20.0.9
  - {cidr: 203.0.113.0/24, ports: [udp/443]}
  - {cidr: 127.0.0.66}
inbound:
  - {cidr: 10.0.0.0/8, ports: [8000]}
  - {cidr: any, ports: [9000]}
"""


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(POLICY)
    return load_policy(path)


@pytest.mark.parametrize(
    ("to", "verdict", "rule"),
    [
        ("8.8.8.8:443", "allow", "p:allow[0]"),
        ("8.8.8.8:80", "deny", None),
        ("udp/8.8.8.8:443", "allow", "p:allow[0]"),
        ("[2001:db8::1]:443", "allow", "p:allow[0]"),
        # deny wins, over a wider and over a narrower allow
        ("10.20.0.9:8000", "deny", "p:deny[0]"),
        ("udp/203.0.113.7:443", "deny", "p:deny[1]"),
        ("203.0.113.7:443", "allow", "p:allow[0]"),
        ("icmp/203.0.113.7", "allow", "p:allow[6]"),
        ("ip/132/203.0.113.7", "allow", "p:allow[6]"),
        ("ip/47/203.0.113.7", "deny", None),
        # any does not open reserved blocks; rules inside them do
        ("10.20.0.7:443", "deny", None),
        ("10.20.0.7:8010", "allow", "p:allow[1]"),
        ("10.20.0.7:22", "allow", "p:allow[2]"),
        ("192.168.0.1:443", "deny", None),
        ("[fd00::1]:443", "deny", None),
        ("[64:ff9b:1::1]:443", "deny", None),
        # nor do blocks open the metadata services inside them
        ("100.64.0.1:443", "allow", "p:allow[3]"),
        ("100.100.100.200:443", "deny", None),
        ("169.254.169.254:80", "allow", "p:allow[4]"),
        ("168.63.129.16:443", "deny", None),
        # IPv4 in IPv6 is IPv4
        ("[::ffff:10.20.0.9]:8000", "deny", "p:deny[0]"),
        ("[64:ff9b::a14:7]:8000", "allow", "p:allow[1]"),
        ("[2002:a9fe:a9fe::]:443", "deny", None),
        # loopback, and what stands for it
        ("127.0.0.1:5432", "allow", "p:allow[5]"),
        ("0.0.0.0:5432", "allow", "p:allow[5]"),
        ("127.0.0.2:5432", "deny", None),
        ("[::1]:5432", "deny", None),
        ("[::]:5432", "deny", None),
    ],
)
def test_outbound(policy, to, verdict, rule):
    """The deciding rule is the first deny that matches, else the first allow that may open it."""
    decision = evaluate(
        policy,
        direction=Direction.OUT,
        remote=parse_destination(to),
        loopback=LoopbackScope.CLOSED,
    )

    assert decision.verdict is Verdict(verdict)
    assert (decision.rule and decision.rule.id) == rule
    assert decision.code is (ReasonCode.RULE if rule else ReasonCode.NO_RULE)
    assert (decision.prefix is None) == (rule is None)


@pytest.mark.parametrize(
    ("remote", "port", "protocol", "verdict", "rule"),
    [
        ("10.1.1.1", 8000, 6, "allow", "p:inbound[0]"),
        ("10.1.1.1", 8000, 17, "deny", None),
        ("10.1.1.1", 8001, 6, "deny", None),
        ("11.1.1.1", 8000, 6, "deny", None),
        ("::ffff:10.1.1.1", 8000, 6, "allow", "p:inbound[0]"),
        ("192.168.0.1", 9000, 6, "allow", "p:inbound[1]"),  # blocks do not matter
        ("10.20.0.9", 9000, 6, "allow", "p:inbound[1]"),  # neither does deny
        ("fe80::1", 9000, 6, "allow", "p:inbound[1]"),
    ],
)
def test_inbound(policy, remote, port, protocol, verdict, rule):
    """Inbound rules go by the remote address and the sandbox's own port."""
    decision = evaluate(
        policy,
        direction=Direction.IN,
        remote=Endpoint(ip_address(remote), 443, protocol),
        local_port=port,
        loopback=LoopbackScope.CLOSED,
    )

    assert decision.verdict is Verdict(verdict)
    assert (decision.rule and decision.rule.id) == rule


@pytest.mark.parametrize(
    ("scope", "own_listener", "verdict", "code"),
    [
        (LoopbackScope.FREE, False, Verdict.ALLOW, ReasonCode.LOOPBACK),
        (LoopbackScope.FREE, True, Verdict.ALLOW, ReasonCode.LOOPBACK),
        (LoopbackScope.OWN_LISTENERS, True, Verdict.ALLOW, ReasonCode.LOOPBACK),
        (LoopbackScope.OWN_LISTENERS, False, Verdict.DENY, ReasonCode.NO_RULE),
        (LoopbackScope.CLOSED, True, Verdict.DENY, ReasonCode.NO_RULE),
    ],
)
@pytest.mark.parametrize("to", ["127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "udp/127.9.9.9:80"])
def test_loopback_scope_decides_what_rules_leave_open(
    policy, scope, own_listener, verdict, code, to
):
    """Where no rule speaks, loopback is free, for own listeners, or closed."""
    decision = evaluate(
        policy,
        direction=Direction.OUT,
        remote=parse_destination(to),
        loopback=scope,
        own_listener=own_listener,
    )

    assert (decision.verdict, decision.code, decision.rule) == (verdict, code, None)


def test_deny_holds_on_free_loopback(policy):
    """A deny rule holds on loopback, however free it is."""
    decision = evaluate(
        policy,
        direction=Direction.OUT,
        remote=parse_destination("127.0.0.66:80"),
        loopback=LoopbackScope.FREE,
        own_listener=True,
    )

    assert decision.rule.id == "p:deny[2]"


def test_loopback_is_not_inbound(policy):
    """What comes from loopback is allowed in."""
    decision = evaluate(
        policy,
        direction=Direction.IN,
        remote=Endpoint(ip_address("127.0.0.1"), 40000, 6),
        local_port=1,
        loopback=LoopbackScope.CLOSED,
    )

    assert (decision.verdict, decision.code) == (Verdict.ALLOW, ReasonCode.LOOPBACK)


@pytest.mark.parametrize(
    ("text", "own_netns", "scope"),
    [
        ("auto", True, LoopbackScope.FREE),
        ("auto", False, LoopbackScope.OWN_LISTENERS),
        ("allow", False, LoopbackScope.FREE),
        ("deny", True, LoopbackScope.CLOSED),
    ],
)
def test_loopback_scope(tmp_path, text, own_netns, scope):
    """auto goes by whose network namespace it is; the others do not."""
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\nloopback: {text}\n")

    assert loopback_scope(load_policy(path), own_netns) is scope


def test_resolve_line(tmp_path):
    """The line of the most specific prefix, in the list it stands in."""
    (tmp_path / "l.txt").write_text(
        "# list\n8.0.0.0/8\n8.8.8.8 # narrower\n2001:db8::/32\n8.8.8.8\n"
    )
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\nallow:\n  - {cidr_file: l.txt, ports: [443]}\n")
    (rule,) = load_policy(path).allow
    lines = {
        text: resolve_line(rule, ip_address(text)).line
        for text in ("8.8.8.8", "8.8.8.9", "2001:db8::1")
    }

    assert lines == {"8.8.8.8": 3, "8.8.8.9": 2, "2001:db8::1": 4}
    assert resolve_line(rule, ip_address("8.8.8.8")).path == str(tmp_path / "l.txt")
    assert resolve_line(rule, ip_address("9.9.9.9")) == rule.where
