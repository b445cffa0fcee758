# SPDX-License-Identifier: Apache-2.0
"""Scans: many rows in one for people."""

from __future__ import annotations

from ipaddress import ip_address

from rig.records import DENIED, asked, endpoint, flow, process

from agentwall.flow.verdict import Reason, ReasonCode
from agentwall.sinks.report import ReportBuilder
from agentwall.sinks.scans import FEWEST, collapse


def groups_of(records):
    builder = ReportBuilder()
    for record in records:
        builder.add_record(record)
    return collapse(builder.report().denials)


def test_a_scan_of_addresses_is_one_group():
    """The same port at many addresses is told by the first and the last of them."""
    records = [flow(remote=endpoint(f"10.0.0.{n}", 22)) for n in (9, 2, 200, 31, 2)]

    (group,) = groups_of(records)

    assert group.addresses == (ip_address("10.0.0.2"), ip_address("10.0.0.200"))
    assert (len(group.rows), group.count, group.ports) == (4, 5, None)


def test_a_scan_of_ports_is_one_group():
    """Many ports of one address are told by the lowest and the highest."""
    (group,) = groups_of([flow(remote=endpoint("10.0.0.1", n)) for n in (80, 22, 443, 8080)])

    assert (group.ports, group.addresses) == ((22, 8080), None)


def test_many_questions_are_one_group():
    """A tunnel through DNS is one thing, and never a scan of the server's address."""
    (group,) = groups_of([asked(f"{n}.evil.example", 16) for n in range(300)])

    assert (group.questions, group.count, group.addresses, group.ports) == (300, 300, None, None)


def test_few_questions_stay_rows():
    """Below the limit each question stands for itself."""
    groups = groups_of([asked(f"{n}.example", 1) for n in range(1, FEWEST)])

    assert [group.questions for group in groups] == [0] * (FEWEST - 1)


def test_names_are_no_scan():
    """Many names at one port are not many addresses."""
    records = [
        flow(remote=endpoint(f"203.0.113.{n}", 443), name=f"{n}.example") for n in range(1, 9)
    ]

    assert [group.addresses for group in groups_of(records)] == [None] * 8


def test_few_rows_stay_rows():
    """Below the limit each row stands for itself, in the report's order."""
    records = [flow(remote=endpoint(f"10.0.0.{n}", 22)) for n in range(1, FEWEST)]

    groups = groups_of(records)

    assert [group.first.remote.address for group in groups] == [
        record.remote.address for record in records
    ]


def test_groups_do_not_mix():
    """Another program, reason or family is another group, and each row is in exactly one."""
    records = [
        *(flow(remote=endpoint(f"203.0.113.{n}", 22)) for n in range(1, 6)),
        *(flow(remote=endpoint(f"203.0.113.{n}", 22), reason=DENIED) for n in range(1, 6)),
        *(flow(remote=endpoint(f"2001:db8::{n}", 22)) for n in range(1, 6)),
        *(
            flow(remote=endpoint(f"203.0.113.{n}", 22), process=process("ssh", n))
            for n in range(1, 6)
        ),
    ]

    groups = groups_of(records)

    assert [len(group.rows) for group in groups] == [5, 5, 5, 5]
    assert len({id(row) for group in groups for row in group.rows}) == 20


def test_sockets_without_an_address_stay_rows():
    """Refused sockets know no address and are never a scan."""
    kinds = [
        flow(remote=None, protocol=n, reason=Reason(code=ReasonCode.SOCKET_TYPE))
        for n in range(100, 110)
    ]

    assert [len(group.rows) for group in groups_of(kinds)] == [1] * 10
