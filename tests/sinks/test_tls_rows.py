# SPDX-License-Identifier: Apache-2.0
"""The words for TLS in a report."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from rig.strategies_of_records import tls_sessions
from rig.tls_records import LIBSSL, READ, STATIC, tls

from agentwall.flow.tls import TlsLibrary
from agentwall.sinks.escape import printable
from agentwall.sinks.report_rows import InsideTls
from agentwall.sinks.tls_rows import (
    inside_words,
    tls_row_names,
    tls_row_where,
    tls_row_who,
    tls_row_why,
)
from agentwall.sinks.tls_table import TlsTable


def rows_of(*records):
    table = TlsTable()
    for record in records:
        table.add(record)
    return table.report().not_read


def test_sums_in_words():
    """How many processes spoke, how many were read by what, and how many sessions."""
    inside = InsideTls(
        sessions=12,
        read_sessions=9,
        processes=4,
        read_processes=3,
        by_library={None: 1, TlsLibrary.OPENSSL: 2},
    )

    assert inside_words(inside) == (
        "4 processes spoke TLS, 3 were read (2 OpenSSL, 1 another); of 12 sessions 9 read"
    )
    assert inside_words(InsideTls(sessions=1, processes=1)) == (
        "1 process spoke TLS, 0 were read; of 1 session 0 read"
    )


def test_a_row_in_words():
    """Who it was and how many more, with whom, and why it was not read."""
    [row] = rows_of(tls(STATIC), tls(STATIC, process=replace(tls().process, pid=9)))
    [several] = rows_of(tls(READ, is_joined=False, process=None, server_name=None))

    assert tls_row_who(row) == ("curl[4242] and 1 more", "/usr/bin/curl")
    assert tls_row_names(row) == "hub.example"
    assert tls_row_where(row) == "in run-7f3a"
    assert tls_row_why(row) == ("static binary: its TLS has no names to probe", "")
    assert tls_row_who(several) == ("several processes", "")
    assert tls_row_names(several) == "no name"
    assert tls_row_why(several)[1] == f"OpenSSL at {LIBSSL}"


@given(tls_sessions())
def test_any_row_is_safe(record):
    """Whatever a sandbox chose acts on no terminal."""
    for row in rows_of(record):
        texts = [*tls_row_who(row), tls_row_names(row), tls_row_where(row), *tls_row_why(row)]

        assert all(text == printable(text) for text in texts)
