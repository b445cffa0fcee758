# SPDX-License-Identifier: Apache-2.0
"""Targets into rules, and when a wildcard stands for names."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agentwall.flow.verdict import Direction
from agentwall.policy.learned_evidence import Evidence, Target
from agentwall.policy.learned_rules import allow_rules, inbound_rules


def found(*names: str, port: int = 443) -> dict[Target, Evidence]:
    """Return a target for each name, each at an address of its own."""
    return {
        Target(Direction.OUT, name, ip_address(f"192.0.2.{number}"), 6, port): Evidence(attempts=1)
        for number, name in enumerate(names, 1)
    }


def rules(targets: dict[Target, Evidence], wildcards: int | None = None) -> list[str]:
    return [
        f"{rule.subject} {','.join(str(port) for _, port in rule.services)}"
        for rule in allow_rules(targets, has_servers=True, wildcards=wildcards)
    ]


def test_no_wildcards_unless_told():
    """However many names share a parent, each has its rule."""
    names = [f"n{number}.cdn.example.com" for number in range(9)]

    assert rules(found(*names)) == [f"{name} 443" for name in names]


def test_wildcards():
    """From so many names of one parent on there is one rule, which lists them."""
    targets = found("a.cdn.example.com", "b.cdn.example.com", "z.other.example.com")

    assert rules(targets, 3) == ["a.cdn.example.com 443", "b.cdn.example.com 443", *OTHER]
    assert rules(targets, 2) == ["*.cdn.example.com 443", *OTHER]
    rule = allow_rules(targets, has_servers=True, wildcards=2)[0]
    assert rule.remarks == ("seen: a.cdn.example.com, b.cdn.example.com", "at 192.0.2.1, 192.0.2.2")
    assert rule.evidence.count == 2


OTHER = ["z.other.example.com 443"]


def test_wildcards_by_port():
    """A port that few of the names were reached at stays theirs."""
    targets = found("a.cdn.example.com", "b.cdn.example.com") | found("a.cdn.example.com", port=22)

    assert rules(targets, 2) == ["a.cdn.example.com 22", "*.cdn.example.com 443"]


@pytest.mark.parametrize(
    "names",
    [
        ["a.com", "b.com"],
        ["a.co.uk", "b.co.uk"],
        ["a.github.io", "b.github.io"],
        ["a.s3.amazonaws.com", "b.s3.amazonaws.com"],
        ["hub", "registry"],
    ],
)
def test_no_wildcard_of_strangers(names):
    """Names whose parent is a public suffix, or no name, keep their rules."""
    assert rules(found(*names), 2) == [f"{name} 443" for name in names]


def test_addresses_are_not_merged():
    """Neighbours keep their rules, in the order of numbers."""
    targets = {
        Target(direction, None, ip_address(text), 6, 443): Evidence(attempts=1)
        for direction in Direction
        for text in ("192.0.2.10", "192.0.2.9", "2001:db8::1")
    }

    expected = ["192.0.2.9", "192.0.2.10", "2001:db8::1"]
    assert rules(targets) == [f"{text} 443" for text in expected]
    assert [str(rule.subject) for rule in inbound_rules(targets)] == expected


def test_without_servers():
    """No name can be a rule where the policy has no DNS server."""
    targets = found("hub.example.com")

    (rule,) = allow_rules(targets, has_servers=False, wildcards=None)

    assert str(rule.subject) == "192.0.2.1"
