# SPDX-License-Identifier: Apache-2.0
"""The rule of the declared DNS servers."""

from __future__ import annotations

from agentwall.policy.load import load_policy
from agentwall.policy.model import Section
from agentwall.policy.resolver import resolver_rule


def test_without_dns(tmp_path):
    """A policy without DNS servers has no such rule."""
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\n")

    assert resolver_rule(load_policy(path)) is None


def test_ports_and_place(tmp_path):
    """It holds for port 53 of each server, UDP and TCP, and for nothing else."""
    path = tmp_path / "p.yaml"
    path.write_text('version: 1\ndns: {servers: [10.20.0.2, "fd00::53"]}\n')
    rule = resolver_rule(load_policy(path))
    assert rule is not None
    held = [
        (protocol, port)
        for protocol in (1, 6, 17)
        for port in (0, 52, 53, 54, 853)
        if any(r.holds(protocol, port) for r in rule.ports)
    ]

    assert (rule.id, rule.section) == ("p:dns.servers", Section.RESOLVER)
    assert held == [(6, 53), (17, 53)]
    assert [str(found.network) for found in rule.prefixes] == ["10.20.0.2/32", "fd00::53/128"]
    assert rule.where.line == 2
