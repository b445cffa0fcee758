# SPDX-License-Identifier: Apache-2.0
"""Which names may be asked for, and why."""

from __future__ import annotations

import pytest

from agentwall.flow.verdict import Verdict
from agentwall.policy.load import load_policy
from agentwall.policy.question import AskReason, describe_question, judge_question

POLICY = """\
version: 1
name: p
dns: {servers: [10.0.0.53], search: [ns.svc.example, svc.example, corp.example], names: NAMES}
allow:
  - {host: hub.example.com}
  - {host: "**.cdn.example.com", ports: [443, 80]}
  - {host: db.ns.svc.example, ports: [5432]}
  - {host: "*.corp.example"}
deny:
  - {host: bad.cdn.example.com}
  - {host: half.cdn.example.com, ports: [80]}
  - {host: most.cdn.example.com, ports: [1-442, 443-65535]}
  - {host: evil.example.com}
  - {host: db.corp.example}
"""


def _policy(tmp_path, names="allowed-only"):
    path = tmp_path / "p.yaml"
    path.write_text(POLICY.replace("NAMES", names))
    return load_policy(path)


@pytest.mark.parametrize(
    ("name", "why", "rule", "matched"),
    [
        ("hub.example.com", "rule", "p:allow[0]", "hub.example.com"),
        ("a.b.cdn.example.com", "rule", "p:allow[1]", "a.b.cdn.example.com"),
        ("half.cdn.example.com", "rule", "p:allow[1]", "half.cdn.example.com"),
        # denied as a whole, by one rule or by ranges that leave nothing
        ("bad.cdn.example.com", "denied", "p:deny[0]", "bad.cdn.example.com"),
        ("most.cdn.example.com", "denied", "p:deny[2]", "most.cdn.example.com"),
        ("evil.example.com", "denied", "p:deny[3]", "evil.example.com"),
        ("example.com", "no-rule", None, None),
        ("cdn.example.com", "no-rule", None, None),
        # ndots: a whole name is first tried under each suffix
        ("hub.example.com.ns.svc.example", "suffix", "p:allow[0]", "hub.example.com"),
        ("hub.example.com.svc.example", "suffix", "p:allow[0]", "hub.example.com"),
        ("x.cdn.example.com.svc.example", "suffix", "p:allow[1]", "x.cdn.example.com"),
        ("bad.cdn.example.com.svc.example", "no-rule", None, None),
        ("secret.hub.example.com.svc.example", "no-rule", None, None),
        # a short name is tried under each suffix until one answers
        ("db.ns.svc.example", "rule", "p:allow[2]", "db.ns.svc.example"),
        ("db.svc.example", "search", "p:allow[2]", "db.ns.svc.example"),
        ("web.ns.svc.example", "search", "p:allow[3]", "web.corp.example"),
        ("web.corp.example", "rule", "p:allow[3]", "web.corp.example"),
        ("a.web.ns.svc.example", "no-rule", None, None),
        ("db.ns.corp.example", "search", "p:allow[2]", "db.ns.svc.example"),
        # but a rule on exactly that name decides
        ("db.corp.example", "denied", "p:deny[4]", "db.corp.example"),
        ("svc.example", "no-rule", None, None),
    ],
)
def test_allowed_only(tmp_path, name, why, rule, matched):
    """What rules permit may be asked for, and what a search list makes of it."""
    found = judge_question(_policy(tmp_path), name)

    assert (found.why, found.rule and found.rule.id, found.matched) == (
        AskReason(why),
        rule,
        matched,
    )
    assert (found.verdict is Verdict.ALLOW) == (why in ("rule", "search", "suffix"))
    assert (found.pattern is None) == (rule is None)
    if found.pattern:
        assert found.pattern.pattern.matches(matched)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hub.example.com", "rule"),
        ("anything.example.org", "any"),
        ("db.svc.example", "any"),
        ("evil.example.com", "denied"),
        ("most.cdn.example.com", "denied"),
    ],
)
def test_any(tmp_path, name, why):
    """With names: any all may be asked for but what is denied as a whole."""
    found = judge_question(_policy(tmp_path, "any"), name)

    assert found.why is AskReason(why)
    assert (found.verdict is Verdict.ALLOW) == (why != "denied")


@pytest.mark.parametrize(
    ("denied", "why"),
    [
        ("[80]", "rule"),
        ("[443]", "rule"),
        ("[80-200, 202-443]", "rule"),
        ("[80-200, 201-443]", "denied"),
        ("[1-65535]", "denied"),
        ("[udp/80-443]", "rule"),
    ],
)
def test_one_port_is_enough(tmp_path, denied, why):
    """A name may be asked for as long as denies leave some port of an allowed range."""
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: 1\n"
        "dns: {servers: [10.0.0.53]}\n"
        "allow: [{host: x.example.com, ports: [80-443]}]\n"
        f"deny: [{{host: x.example.com, ports: {denied}}}]\n"
    )

    assert judge_question(load_policy(path), "x.example.com").why is AskReason(why)


def test_without_servers(tmp_path):
    """Where no DNS server is declared nothing can be asked."""
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\n")
    found = judge_question(load_policy(path), "hub.example.com")

    assert (found.verdict, found.why) == (Verdict.DENY, AskReason.NO_SERVERS)
    assert describe_question(found) == "no: the policy declares no DNS servers"


@pytest.mark.parametrize(
    ("name", "names", "text"),
    [
        ("hub.example.com", "allowed-only", "yes: permitted by p:allow[0] at {}:5:12"),
        ("x.example.org", "any", "yes: names: any"),
        ("x.example.org", "allowed-only", "no: no rule permits a port of it"),
        ("evil.example.com", "any", "no: denied by p:deny[3] at {}:13:12"),
        (
            "db.svc.example",
            "allowed-only",
            "yes, it opens nothing: under another suffix of dns.search it is db.ns.svc.example, "
            "permitted by p:allow[2] at {}:7:12",
        ),
        (
            "hub.example.com.svc.example",
            "allowed-only",
            "yes, it opens nothing: a suffix of dns.search after hub.example.com, permitted by "
            "p:allow[0] at {}:5:12",
        ),
    ],
)
def test_describe_question(tmp_path, name, names, text):
    """One line says whether and why, and where that is written."""
    found = judge_question(_policy(tmp_path, names), name)

    assert describe_question(found) == text.format(tmp_path / "p.yaml")
