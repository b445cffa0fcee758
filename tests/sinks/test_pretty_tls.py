# SPDX-License-Identifier: Apache-2.0
"""The section of a report on what was said inside TLS."""

from __future__ import annotations

import pytest
from rig.records import SANDBOX, flow, process
from rig.tls_records import STATIC, tls

from agentwall.sinks.markdown import format_markdown
from agentwall.sinks.pretty import format_plain
from agentwall.sinks.pretty_tls import MAX_ROWS
from agentwall.sinks.report import Filters, ReportBuilder
from agentwall.sinks.report_rows import AuditReport


def report_of(*records, **filters) -> AuditReport:
    builder = ReportBuilder(Filters(**filters))
    for record in records:
        builder.add_record(record)
    return builder.report()


@pytest.mark.parametrize("width", [80, 140])
def test_section(width):
    """The sums, then who was not read, with whom and why, however wide the terminal is."""
    report = report_of(tls(), tls(STATIC, process=process("node", 7), count=3))
    text = " ".join(format_plain(report, "utf-8", width).split())

    assert "Inside TLS 2 processes spoke TLS, 1 was read (1 OpenSSL); of 4 sessions 1 read" in text
    assert "node[7]" in text
    assert "static binary: its TLS has no names to probe" in text


def test_where_all_were_read():
    """There is no table of nobody."""
    text = format_plain(report_of(tls()), "ascii")

    assert "of 1 session 1 read" in text
    assert "Server names" not in text


def test_without_tls():
    """A report of no TLS says nothing of it."""
    report = report_of(flow())

    assert "Inside TLS" not in format_plain(report, "ascii")
    assert "Inside TLS" not in format_markdown(report)


def test_many_rows():
    """What is not shown is counted; of several sandboxes it is said whose it was."""
    other = type(SANDBOX)(id="other", cgroup="/o")
    rows = [tls(STATIC, process=process(f"p{n}", n)) for n in range(MAX_ROWS + 5)]
    text = format_plain(report_of(*rows, tls(STATIC, sandbox=other)), "utf-8", 140)

    assert "6 more" in text
    assert "in run-7f3a" in text
    assert "`in other` |" in format_markdown(report_of(rows[0], tls(STATIC, sandbox=other)))
    assert "`in run-7f3a` |" not in format_markdown(report_of(*rows))


def test_markdown():
    """Markdown has the same, and what a sandbox chose is no markup."""
    evil = tls(STATIC, server_name="a|`b`\u202e", process=process("<b>", 7))
    text = format_markdown(report_of(evil))

    assert "## Inside TLS" in text
    assert "1 process spoke TLS, 0 were read; of 1 session 0 read." in text
    assert "`a\\x7c\\x60b\\x60\\u202e`" in text


@pytest.mark.parametrize(
    ("filters", "sessions"),
    [
        ({"process": "node"}, 3),
        ({"process": "wget"}, 0),
        ({"since_ns": tls().time_ns + 1}, 0),
        ({}, 4),
    ],
)
def test_filters(filters, sessions):
    """Sessions are of processes and of times as flows are."""
    report = report_of(tls(), tls(STATIC, process=process("node", 7), count=3), **filters)

    assert report.inside_tls.sessions == sessions
