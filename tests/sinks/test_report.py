# SPDX-License-Identifier: Apache-2.0
"""Reports: equal flows in one row, denials first, everything bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.records import (
    CURL,
    DENIED,
    FINISHED,
    SANDBOX,
    SECOND,
    START_NS,
    STARTED,
    detection,
    endpoint,
    flow,
    permitted,
    process,
    rome_day,
    scanned,
    state,
    totals,
)
from rig.strategies_of_records import RECORDS

from agentwall.flow.record import HOST, GapRecord, ProcessSource, Sandbox
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Direction, Hook, Verdict
from agentwall.sinks import report as report_module
from agentwall.sinks.event_json import FIRST_PREV, LoggedEvent
from agentwall.sinks.eventlog import Damage, LogError
from agentwall.sinks.report import Filters, ReportBuilder


def report_on(records, **filters):
    builder = ReportBuilder(Filters(**filters))
    builder.begin("e.jsonl")
    for number, record in enumerate(records, 1):
        builder.add(LoggedEvent(id=f"r-{number}", record=record, prev=FIRST_PREV))
    return builder.report()


def test_equal_denials_are_one_row():
    """The same program, destination and reason is one row, whatever pid, hook and time."""
    later = flow(
        time_ns=START_NS + SECOND,
        process=replace(CURL, pid=4300),
        hook=Hook.EGRESS,
        errno=None,
    )

    (row,) = report_on([flow(), later, later]).denials

    assert row.count == 3
    assert row.pids == (4242, 4300)
    assert row.hooks == (Hook.CONNECT4, Hook.EGRESS)
    assert (row.first_ns, row.last_ns) == (START_NS, START_NS + SECOND)
    assert row.permit == "under allow: - {cidr: 203.0.113.7, ports: [443]}"


@pytest.mark.parametrize(
    "other",
    [
        flow(remote=endpoint("203.0.113.8", 443)),
        flow(remote=endpoint("203.0.113.7", 444)),
        flow(process=process("wget", 1)),
        flow(reason=DENIED),
        flow(verdict=Verdict.WOULD_DENY),
        flow(sandbox=Sandbox(id="other", cgroup="/x")),
        flow(direction=Direction.IN),
    ],
)
def test_different_denials_are_two_rows(other):
    """Another address, port, program, rule, verdict, sandbox or direction is another row."""
    assert len(report_on([flow(), other]).denials) == 2


def test_a_name_is_one_row():
    """Addresses of one name are one row that lists them; its totals find it."""
    sight = permitted(name="a.example")
    other = replace(sight, remote=endpoint("198.51.100.11", 443))

    found = report_on([sight, other, totals(sight, out=1, back=2), totals(other, out=3, back=4)])
    (row,) = found.permitted

    assert (row.name, row.count, row.bytes_out, row.bytes_in) == ("a.example", 2, 4, 6)
    assert [str(address) for address in row.addresses] == ["198.51.100.10", "198.51.100.11"]
    assert found.processes[0].destinations == 2


def test_addresses_that_were_not_learned_are_no_lost_events():
    """They are told as a gap, and do not count as events."""
    gap = GapRecord(sandbox=SANDBOX, time_ns=START_NS, mono_ns=1, where="names", lost=3)
    found = report_on([gap])

    assert (found.totals.lost, found.gaps) == (0, (gap,))
    assert found.severity is Severity.INFO


def test_visitors_are_judged_by_the_sandboxes_port():
    """Inward the visitor's own port does not make a row; the port it came to does."""

    def visit(local_port, remote_port):
        return flow(
            direction=Direction.IN,
            local=endpoint("10.0.0.2", local_port),
            remote=endpoint("10.0.0.1", remote_port),
        )

    rows = report_on([visit(80, 40001), visit(80, 40002), visit(81, 40003)]).denials

    assert [(row.port, row.count) for row in rows] == [(80, 2), (81, 1)]
    assert rows[0].permit == "under inbound: - {cidr: 10.0.0.1, ports: [80]}"


def test_totals_of_visits_find_their_row():
    """Inward totals go to the row of the port that was visited."""
    visits = [
        permitted(
            direction=Direction.IN,
            local=endpoint("10.0.0.2", port),
            remote=endpoint("10.0.0.1", 40000 + port),
        )
        for port in (80, 81)
    ]
    ends = [totals(visit, out=10, back=20, sockets=1) for visit in visits]

    rows = report_on([*visits, *ends]).permitted

    assert [(row.port, row.count, row.bytes_out) for row in rows] == [(80, 1, 10), (81, 1, 10)]


def test_first_sight_and_totals_are_counted_once():
    """The counters of a flow add bytes and sockets to the row its first sight made."""
    sight = permitted()
    found = report_on([sight, totals(sight, out=100, back=900, sockets=5)])

    (row,) = found.permitted
    assert (row.count, row.bytes_out, row.bytes_in) == (5, 100, 900)
    assert row.hooks == (Hook.CONNECT4,)
    assert row.duration_ns == 5 * 730_000_000
    assert (found.totals.permitted, found.totals.bytes_out) == (5, 100)


def test_totals_of_a_process_that_has_gone():
    """They count with the flow they are of, unless two programs of that name had one."""
    sight = permitted()
    end = totals(sight, out=3, back=5)
    gone = replace(end, process=replace(CURL, exe=None, argv=None, source=ProcessSource.KERNEL))
    other = replace(sight, process=replace(CURL, exe="/tmp/curl"))

    found = report_on([sight, gone])
    (row,) = found.permitted
    both = report_on([sight, other, gone])

    assert (row.process.exe, row.count, row.bytes_out, row.bytes_in) == (CURL.exe, 1, 3, 5)
    assert (found.totals.permitted, len(found.processes)) == (1, 1)
    assert [(each.process.exe, each.bytes_out) for each in both.permitted] == [
        (None, 3),
        (CURL.exe, None),
        ("/tmp/curl", None),
    ]


def test_would_deny_counts_as_denied():
    """In audit mode what passes but is refused by the rules stands among the denials."""
    seen = flow(verdict=Verdict.WOULD_DENY, bytes_out=None, bytes_in=None)
    found = report_on([seen, seen, totals(seen, out=70, back=0, sockets=2)])

    (row,) = found.denials
    assert (row.count, row.bytes_out, row.severity) == (2, 70, Severity.LOW)
    assert (found.totals.denied, found.totals.would_denied) == (0, 2)
    assert found.permitted == ()


def test_the_most_serious_come_first():
    """Denials are sorted by severity, then by how often."""
    rows = report_on(rome_day()).denials

    order = [(-row.severity, -row.count) for row in rows]
    assert order == sorted(order)
    assert rows[0].severity is Severity.MEDIUM


def test_a_day_adds_up():
    """Totals, programs, gaps and sandboxes of a whole run."""
    found = report_on(rome_day())

    assert found.events == len(rome_day())
    assert (found.totals.denied, found.totals.permitted) == (51, 6)
    assert (found.totals.lost, found.totals.probes) == (2, 3)
    assert sum(row.denied for row in found.processes) == 51
    assert found.processes[0].process.comm == "nmap"
    assert found.processes[0].destinations == 30
    (sandbox,) = found.sandboxes
    assert (sandbox.coverage, sandbox.policy, sandbox.exit_code) == ("partial", "rl-rollout", 1)
    assert sum(bucket.denied for bucket in found.timeline) == 51


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 4),
        ({"verdict": Verdict.ALLOW}, 1),
        ({"verdict": Verdict.DENY}, 3),
        ({"verdict": Verdict.WOULD_DENY}, 1),
        ({"since_ns": START_NS + 1}, 1),
        ({"process": "curl"}, 3),
        ({"process": "4242"}, 3),
        ({"process": "/usr/bin/ssh"}, 1),
        ({"process": "c*"}, 3),
        ({"process": "[x"}, 0),
        ({"process": ""}, 0),
        ({"process": "ssh", "verdict": Verdict.ALLOW}, 0),
    ],
)
def test_filters(filters, count):
    """Time, verdict and process each leave what they say; all of them together too."""
    records = [
        permitted(),
        flow(),
        flow(verdict=Verdict.WOULD_DENY),
        flow(process=process("ssh", 7), time_ns=START_NS + 5),
    ]

    found = report_on(records, **filters)

    assert len(found.denials) + len(found.permitted) == count
    assert found.events == 4


def test_filters_leave_gaps_and_states():
    """What concerns the log and the wall is told whatever flows were asked for."""
    found = report_on(
        [*rome_day(), state("damaged", {"what": "egress detached"})], process="nobody"
    )

    assert found.denials == ()
    assert len(found.gaps) == len(found.sandboxes) == 1
    (finding,) = found.findings
    assert (finding.severity, finding.kind) == (Severity.CRITICAL, "wall")
    assert (finding.sandbox, finding.evidence) == (SANDBOX.id, {"what": "egress detached"})
    assert found.severity is Severity.CRITICAL


def test_rows_are_bounded(monkeypatch):
    """Past the limit attempts are still counted, and the report says how many have no row."""
    monkeypatch.setattr(report_module, "MAX_ROWS", 3)
    records = [flow(remote=endpoint("203.0.113.7", port)) for port in range(1, 8)]

    found = report_on([*records, records[0]])

    assert len(found.denials) == 3
    assert found.totals.unlisted_denials == 4
    assert found.totals.denied == 8
    assert sum(bucket.denied for bucket in found.timeline) == 8


def test_text_is_bounded(monkeypatch):
    """Long names use up the room of rows: a hostile file cannot fill memory."""
    monkeypatch.setattr(report_module, "MAX_CHARS", 10_000)
    records = [flow(process=process("x" * 3000 + str(n), n)) for n in range(5)]

    found = report_on(records)

    assert len(found.denials) == 1
    assert found.totals.unlisted_denials == 4


def test_the_worst_error_is_kept(monkeypatch):
    """However many errors there are, the most serious one decides."""
    monkeypatch.setattr(report_module, "MAX_ITEMS", 2)
    builder = ReportBuilder()
    for damage in (*[Damage.UNKNOWN_SCHEMA] * 5, Damage.CHAIN_BROKEN):
        builder.add(LogError(source="e", line=1, offset=0, damage=damage, problem="p"))

    found = builder.report()

    assert found.severity is Severity.CRITICAL
    assert (len(found.errors), found.totals.unlisted_errors) == (2, 4)


@given(st.lists(RECORDS, max_size=8))
def test_any_records_make_a_report(records):
    """Whatever a file holds, the report counts every event and every flow."""
    found = report_on(records)

    assert found.events == len(records)
    flows = [*found.denials, *found.permitted]
    assert all(row.first_ns <= row.last_ns for row in flows)


def test_state_details_are_not_trusted():
    """A detail of the wrong type is as if it were not there."""
    strange = state(
        "started", {"coverage": 7, "open_roads": "x", "command": [1, "a"], "mode": ["m"]}
    )

    (row,) = report_on([strange, STARTED, FINISHED, strange]).sandboxes

    assert (row.coverage, row.mode, row.command) == ("partial", None, ("a",))


def test_detections_are_findings():
    """Filters hold for them as for flows, and their severity is the report's."""
    found = report_on([detection(), detection(verdict=Verdict.ALLOW), scanned()])

    assert [row.kind for row in found.findings] == ["mining", "mining", "scan"]
    assert found.severity is Severity.HIGH
    assert [
        row.verdict for row in report_on([detection(), scanned()], verdict=Verdict.DENY).findings
    ] == [Verdict.DENY]
    assert report_on([detection()], process="nobody").findings == ()
    assert report_on([detection()], since_ns=START_NS + 1).findings == ()


def test_packets_for_decoders_are_no_lost_events():
    """They are told of as a gap, at medium: what decoders miss they cannot cut off."""
    gap = GapRecord(sandbox=SANDBOX, time_ns=START_NS, mono_ns=1, where="excerpts", lost=3)
    found = report_on([gap])

    assert (found.totals.lost, found.gaps) == (0, (gap,))
    assert found.severity is Severity.MEDIUM


def test_the_daemons_own_records():
    """What the daemon says of itself makes no sandbox, and detections add up by their counts."""
    builder = ReportBuilder()
    builder.add_record(replace(STARTED, sandbox=HOST))
    builder.add_record(detection())
    builder.add_record(detection(count=41))
    report = builder.report()

    assert report.sandboxes == ()
    assert [row.count for row in report.findings] == [42]
