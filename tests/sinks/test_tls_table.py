# SPDX-License-Identifier: Apache-2.0
"""TLS sessions in a report: sums, and a row for each program that was not read."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from rig.records import CURL, SECOND, START_NS, process
from rig.strategies_of_records import TEXT
from rig.tls_records import READ, STATIC, tls

from agentwall.flow.tls import TlsLibrary
from agentwall.sinks.report_rows import InsideTls
from agentwall.sinks.tls_table import MAX_ROWS, TlsTable

NSS = replace(READ, library=TlsLibrary.NSS)
SESSIONS = st.builds(
    tls,
    st.sampled_from([None, READ, NSS, STATIC]),
    process=st.none() | st.builds(process, st.sampled_from("ab"), st.integers(1, 20)),
    server_name=st.none() | TEXT,
    is_joined=st.booleans(),
    count=st.integers(0, 2**40),
)


def table_of(*records) -> InsideTls:
    table = TlsTable()
    for record in records:
        table.add(record)
    return table.report()


def test_sums():
    """Processes and sessions, those of them that were read, and by which library."""
    inside = table_of(
        tls(count=5),
        tls(NSS, process=replace(CURL, pid=2)),
        tls(NSS),
        tls(None, is_joined=True, process=replace(CURL, pid=3)),
        tls(STATIC, process=replace(CURL, pid=4), count=7),
        tls(STATIC, process=None, count=100),
    )

    assert (inside.sessions, inside.read_sessions) == (115, 8)
    assert (inside.processes, inside.read_processes) == (4, 3)
    assert inside.by_library == {TlsLibrary.OPENSSL: 1, TlsLibrary.NSS: 2, None: 1}


def test_rows():
    """A row for each program and reason, most sessions first, with its names and pids."""
    later = START_NS + SECOND
    inside = table_of(
        tls(STATIC, server_name="a.example"),
        tls(STATIC, process=replace(CURL, pid=7), server_name="b.example", time_ns=later),
        tls(STATIC, process=process("node", 9), count=9, server_name=None, name="c.example"),
        tls(READ, is_joined=False),
        tls(READ),
    )

    node, curl, other = inside.not_read
    assert (node.sessions, node.server_names, node.pids) == (9, ("c.example",), (9,))
    assert (curl.sessions, curl.server_names) == (2, ("a.example", "b.example"))
    assert (curl.pids, curl.first_ns, curl.last_ns) == ((4242, 7), START_NS, later)
    assert (other.sessions, other.reading) == (1, READ)


def test_rows_are_bounded():
    """What finds no row is counted."""
    records = [tls(STATIC, process=process(f"p{n}", n), count=2) for n in range(MAX_ROWS + 3)]
    inside = table_of(*records)

    assert len(inside.not_read) == MAX_ROWS
    assert inside.unlisted == 6
    assert inside.sessions == 2 * (MAX_ROWS + 3)


@given(st.lists(SESSIONS, max_size=20))
def test_sessions_add_up(records):
    """Each session is in the sums once, and in one row if it was not read."""
    inside = table_of(*records)

    assert inside.sessions == sum(each.count for each in records)
    rows = sum(row.sessions for row in inside.not_read)
    assert inside.read_sessions + rows + inside.unlisted == inside.sessions
    assert all(len(row.pids) <= 8 and len(row.server_names) <= 8 for row in inside.not_read)
