# SPDX-License-Identifier: Apache-2.0
"""Findings that a reader takes for one."""

from __future__ import annotations

from dataclasses import replace

from rig.records import MINING, detection, endpoint, process
from sinks.test_findings import ENDS

from agentwall.sinks.finding_groups import collapse_findings
from agentwall.sinks.findings import FindingTable


def grouped(*flows, source="x.pcap"):
    table = FindingTable()
    for ends in flows:
        table.add_captured(source, MINING, ends, judged=None)
    return collapse_findings(table.rows())


def ends(port=40000, client="10.0.0.5", server="203.0.113.10", service=3333):
    return replace(
        ENDS, local=endpoint(client, port), remote=endpoint(server, service), begin_ns=port
    )


def test_many_flows_between_a_pair():
    """A miner that connects again and again, also to another port, is one."""
    (group,) = grouped(*(ends(port, service=3333 + port % 2) for port in range(40000, 40030)))

    assert group.count == len(group.rows) == 30
    assert group.ports == (3333, 3334)
    assert [str(address) for address in group.addresses] == ["203.0.113.10"]


def test_many_peers_of_one_client():
    """A node that talks to many is one; to a few, each is told."""
    few = grouped(*(ends(server=f"203.0.113.{host}") for host in range(3)))
    (many,) = grouped(*(ends(server=f"203.0.113.{host}") for host in range(9)))

    assert len(few) == 3
    assert (many.count, len(many.addresses)) == (9, 9)


def test_other_clients_are_others():
    """Each client is told of."""
    assert len(grouped(ends(client="10.0.0.5"), ends(client="10.0.0.6"))) == 2


def test_events_go_by_program():
    """In event files programs tell rows apart, and the sandbox's own address does not."""
    table = FindingTable()
    for port in range(5):
        ends_ = {"local": endpoint(f"10.0.0.{port}", 1), "remote": endpoint("203.0.113.1", port)}
        table.add_detection("e", detection(**ends_))
        table.add_detection("e", detection(process=process("xmrig", 9), **ends_))

    assert [group.count for group in collapse_findings(table.rows())] == [5, 5]


def test_order_is_kept():
    """Groups stand where their first rows stood."""
    table = FindingTable()
    for severity in (1, 3, 2):
        finding = replace(MINING, severity=type(MINING.severity)(severity))
        table.add_captured("x", finding, ends(40000 + severity), judged=None)

    assert [g.first.severity for g in collapse_findings(table.rows())] == [3, 2, 1]
