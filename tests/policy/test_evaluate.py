# SPDX-License-Identifier: Apache-2.0
"""What a policy says about a flow."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.destination import parse_destination
from agentwall.net.endpoint import Endpoint
from agentwall.policy.evaluate import evaluate, evaluate_name, loopback_scope, resolve_line
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


NAMES = """\
version: 1
name: p
dns: {servers: [10.0.0.53, 203.0.113.53]}
allow:
  - {host: "*.hub.example"}
  - {host: x.hub.example, ports: [22, udp/443], sni: optional}
  - {cidr: 192.168.7.0/24, ports: [8000]}
  - {proxy: 10.0.0.5, ports: [3128]}
  - {cidr: 203.0.113.53, ports: [udp/53]}
  - {cidr: 203.0.113.99, ports: [443]}
deny:
  - {host: bad.hub.example}
  - {cidr: 203.0.113.66}
"""


@pytest.fixture
def by_name(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(NAMES)
    return load_policy(path)


@pytest.mark.parametrize(
    ("to", "names", "verdict", "rule"),
    [
        ("203.0.113.7:443", [], "deny", None),
        ("203.0.113.7:443", ["a.hub.example"], "allow", "p:allow[0]"),
        ("203.0.113.7:443", ["hub.example"], "deny", None),
        ("203.0.113.7:443", ["b.a.hub.example"], "deny", None),
        ("203.0.113.7:22", ["a.hub.example"], "deny", None),
        ("203.0.113.7:22", ["x.hub.example"], "allow", "p:allow[1]"),
        ("udp/203.0.113.7:443", ["other", "x.hub.example"], "allow", "p:allow[1]"),
        # a deny of either denies, whichever other names and rules there are
        ("203.0.113.7:443", ["a.hub.example", "bad.hub.example"], "deny", "p:deny[0]"),
        ("203.0.113.99:443", ["bad.hub.example"], "deny", "p:deny[0]"),
        ("203.0.113.66:443", ["a.hub.example"], "deny", "p:deny[1]"),
        # an allow by address goes before one by name
        ("203.0.113.99:443", ["a.hub.example"], "allow", "p:allow[5]"),
        # reserved blocks are opened by rules on addresses, for the ports of the name's own rules
        ("10.0.0.9:443", ["a.hub.example"], "deny", None),
        ("127.0.0.1:443", ["a.hub.example"], "deny", None),
        ("169.254.169.254:443", ["a.hub.example"], "deny", None),
        ("[fd00::1]:443", ["a.hub.example"], "deny", None),
        ("192.168.7.1:443", ["a.hub.example"], "allow", "p:allow[0]"),
        ("192.168.7.1:80", ["a.hub.example"], "deny", None),
        ("192.168.8.1:443", ["a.hub.example"], "deny", None),
        # a proxy opens only itself, and a DNS server too
        ("10.0.0.5:443", ["a.hub.example"], "deny", None),
        ("10.0.0.5:3128", [], "allow", "p:allow[3]"),
        ("10.0.0.53:443", ["a.hub.example"], "deny", None),
        ("10.0.0.53:53", [], "allow", "p:dns.servers"),
        ("udp/203.0.113.53:53", [], "allow", "p:dns.servers"),
        ("udp/10.0.0.54:53", [], "deny", None),
        ("udp/203.0.113.53:53", ["bad.hub.example"], "deny", "p:deny[0]"),
    ],
)
def test_names(by_name, to, names, verdict, rule):
    """Denies come first, then DNS servers, then allows by address, then allows by name."""
    decision = evaluate(
        by_name,
        direction=Direction.OUT,
        remote=parse_destination(to),
        loopback=LoopbackScope.CLOSED,
        names=names,
    )
    found = decision.rule and decision.rule.id
    named = decision.pattern is not None

    assert (decision.verdict, found) == (Verdict(verdict), rule)
    assert (decision.code is ReasonCode.RESOLVER) == (found == "p:dns.servers")
    assert (decision.name in names) == named
    assert (decision.where is None) == (rule is None)
    assert decision.is_proxy == (found == "p:allow[3]")


def test_what_a_decision_by_name_says(by_name):
    """It carries the name, the most specific pattern and the terms of its rule."""
    decision = evaluate_name(by_name, "x.hub.example", 6, 22)

    assert (decision.name, str(decision.pattern.pattern)) == ("x.hub.example", "x.hub.example")
    assert decision.where.line == 6
    assert decision.terms.sni_optional
    assert evaluate_name(by_name, "bad.hub.example", 6, 443).terms is None


@pytest.mark.parametrize(
    ("rules", "name", "verdict"),
    [
        ("allow: [{host: x.example}]", "x.example", "allow"),
        ("allow: [{host: x.example}]", "y.example", "deny"),
        ("allow: [{host: x.example}]\ndeny: [{host: '**.example'}]", "x.example", "deny"),
        ("allow: [{cidr: any, ports: [443]}]", "y.example", "allow"),
        ("allow: [{cidr: any, ports: [443]}]\ndeny: [{host: y.example}]", "y.example", "deny"),
        ("allow: [{host: x.example}]\ndeny: [{cidr: any, ports: [443]}]", "x.example", "deny"),
        # narrower prefixes, and those of IPv6 alone, are no ordinary address
        ("allow: [{cidr: 8.0.0.0/8, ports: [443]}]", "y.example", "deny"),
        ("allow: [{host: x.example}]\ndeny: [{cidr: 8.0.0.0/8}]", "x.example", "allow"),
        ("allow: [{host: x.example}]\ndeny: [{cidr: '::/0'}]", "x.example", "allow"),
    ],
)
def test_evaluate_name(tmp_path, rules, name, verdict):
    """A name is judged as if it had resolved to an ordinary address outside."""
    path = tmp_path / "p.yaml"
    path.write_text(f"version: 1\ndns: {{servers: [10.0.0.53]}}\n{rules}\n")

    assert evaluate_name(load_policy(path), name, 6, 443).verdict is Verdict(verdict)


def test_resolve_line_of_a_name(tmp_path):
    """The line of the most specific pattern, in the list it stands in."""
    (tmp_path / "l.txt").write_text("# list\n**.hub.example\nx.hub.example # narrower\n")
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\ndns: {servers: [10.0.0.53]}\nallow: [{host_file: l.txt}]\n")
    (rule,) = load_policy(path).allow

    assert resolve_line(rule, name="x.hub.example").line == 3
    assert resolve_line(rule, ip_address("8.8.8.8"), "y.x.hub.example").line == 2
    assert resolve_line(rule, ip_address("8.8.8.8")) == rule.where
    assert resolve_line(rule, name="other") == rule.where
