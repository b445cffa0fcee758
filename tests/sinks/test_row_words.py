# SPDX-License-Identifier: Apache-2.0
"""The words for rows of a report."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.records import (
    CURL,
    FINISHED,
    SANDBOX,
    STARTED,
    UDP,
    asked,
    detection,
    endpoint,
    flow,
    process,
    rome_day,
    scanned,
    state,
)

from agentwall.flow.record import Sandbox
from agentwall.flow.verdict import Direction, Hook, Verdict
from agentwall.sinks import row_words
from agentwall.sinks.eventlog import Damage, LogError
from agentwall.sinks.report import ReportBuilder
from agentwall.sinks.report_rows import CaptureFlaw, Captures
from agentwall.sinks.scans import collapse


def report_on(*records):
    builder = ReportBuilder()
    for record in records:
        builder.add_record(record)
    return builder.report()


def group_of(*records):
    (group,) = collapse(report_on(*records).denials)
    return group


def visits(protocol=6):
    return [
        flow(
            direction=Direction.IN,
            protocol=protocol,
            local=endpoint("10.0.0.2", 80, protocol),
            remote=endpoint(f"203.0.113.{n}", 5, protocol),
        )
        for n in range(1, 6)
    ]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([flow(name="a.example\n")], "tcp a.example\\x0a:443 (203.0.113.7)"),
        (
            [flow(remote=endpoint(f"203.0.113.{n}", 443), name="a.example") for n in (7, 8, 9)],
            "tcp a.example:443 (203.0.113.7 and 2 more)",
        ),
        (
            [flow(remote=endpoint("203.0.113.1", n), name="a.example") for n in range(1, 6)],
            "tcp a.example, 5 ports, 1 to 5",
        ),
        ([asked("a\n.example", 28)], "DNS question for a\\x0a.example (AAAA) to 10.20.0.2"),
        (
            [asked(f"{n}.evil.example", 16) for n in range(7)],
            "7 DNS questions to 10.20.0.2, the first for 0.evil.example (TXT)",
        ),
        (
            [flow(remote=endpoint(f"203.0.113.{n}", 22)) for n in range(1, 6)],
            "tcp port 22 at 5 addresses, 203.0.113.1 to 203.0.113.5",
        ),
        (
            [flow(remote=endpoint("203.0.113.1", n)) for n in range(1, 6)],
            "tcp 203.0.113.1, 5 ports, 1 to 5",
        ),
        (visits(), "tcp port 80 from 5 addresses, 203.0.113.1 to 203.0.113.5"),
        (visits(1), "icmp from 5 addresses, 203.0.113.1 to 203.0.113.5"),
    ],
)
def test_targets(records, words):
    """A row names its destination, a scan its range."""
    assert row_words.group_target(group_of(*records)) == words


def test_outcomes():
    """Every hook that saw it is named once, the errno with the first, and what was asked for."""
    first = flow(claimed=endpoint("10.0.0.1", 53, UDP))
    again = replace(first, hook=Hook.EGRESS, errno=None)

    assert (
        row_words.row_outcome(group_of(first, again).first)
        == "denied (connect, EPERM; outgoing packet), asked for 10.0.0.1:53"
    )


def test_processes_of_a_group():
    """More processes of the same name are counted."""
    records = [flow(process=replace(CURL, pid=pid)) for pid in (1, 2, 3)]

    assert row_words.group_process(group_of(*records)) == "curl[1] and 2 more"
    assert row_words.group_process(group_of(flow())) == "curl[4242]"


def test_permits_of_a_group():
    """A line of YAML says how many more like it there are; a sentence stands alone."""
    scan = [flow(remote=endpoint(f"203.0.113.{n}", 22)) for n in range(1, 6)]

    assert (
        row_words.group_permit(group_of(*scan))
        == "allow: - {cidr: 203.0.113.1, ports: [22]} and 4 more like it"
    )
    assert row_words.group_permit(group_of(flow())) == "allow: - {cidr: 203.0.113.7, ports: [443]}"


def test_totals():
    """Sums are phrases, each with the verdict it is about."""
    found = report_on(*rome_day())

    words = list(row_words.totals_words(found.totals, len(found.denials)))

    assert words == [
        (Verdict.DENY, "51 denied"),
        (None, "38 distinct"),
        (Verdict.ALLOW, "6 permitted"),
        *((None, "48.2 kB out"), (None, "9.8 MB in"), (None, "3 probes")),
        (None, "2 events lost"),
    ]
    assert row_words.period_words(found.totals) == "2026-09-21 14:13:21 to 14:14:20 UTC"


def test_totals_in_audit_mode():
    """Where everything passes, no zero denials are claimed beside what would be denied."""
    found = report_on(*rome_day(Verdict.WOULD_DENY))

    words = [text for _, text in row_words.totals_words(found.totals, 1)]

    assert words[0] == "51 would be denied"


def test_totals_of_nothing():
    """Without a flow there is no period and nothing was denied."""
    found = report_on()

    assert row_words.period_words(found.totals) == ""
    assert next(row_words.totals_words(found.totals, 0)) == (Verdict.DENY, "0 denied")


def test_sandboxes():
    """A sandbox tells policy, coverage and end; one that still runs says so."""
    whole = report_on(*rome_day()).sandboxes[0]
    running = report_on(STARTED).sandboxes[0]

    assert list(row_words.sandbox_words(whole)) == [
        *("policy rl-rollout (enforce)", "coverage partial", "exit code 1"),
        "episode=41 step=7",
    ]
    assert list(row_words.sandbox_words(running))[1] == "not finished"
    assert row_words.sandbox_command(whole) == "python3 agent.py --episode 41"


def test_commands_are_escaped():
    """The command of a sandbox is one line, whatever its arguments hold."""
    (row,) = report_on(state("started", {"command": ["sh", "-c", "a\nb\x1b[m"]})).sandboxes

    assert row_words.sandbox_command(row) == "sh -c a\\x0ab\\x1b[m"


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((5, 5, 0), ""),
        ((5, 7, 0), "2 more rows; --format json lists them"),
        ((5, 5, 9), "9 more attempts counted but not listed"),
    ],
)
def test_what_is_not_shown(numbers, words):
    """A table that leaves something out says how much."""
    assert row_words.unlisted_words(*numbers) == words


def test_sources():
    """The number of events and the first names of files."""
    builder = ReportBuilder()
    for name in ("a", "b\n", "c", "d", "e"):
        builder.begin(name)
    builder.add_record(FINISHED)
    builder.add_record(flow(process=process("x", 1)))

    assert row_words.sources_words(builder.report()) == "0 events from a, b\\x0a, c and 2 more"


def test_sources_with_captures():
    """Captures are counted apart from events, which are left out where there are none."""
    builder = ReportBuilder()
    builder.begin("x.pcap")
    builder.count_captures(Captures(count=1, packets=1, conversations=2))

    assert row_words.sources_words(builder.report()) == "1 capture (1 packet, 2 flows) from x.pcap"


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ((), ""),
        ((flow(),), ""),
        ((scanned(),), "1 finding"),
        ((detection(), detection(), scanned()), "3 findings, 2 cut off"),
    ],
)
def test_findings(records, words):
    """How much was recognised, and how much of that was cut off."""
    report = report_on(*records)

    assert row_words.findings_words(report) == words
    assert ("else" in row_words.nothing_denied(report)) == ("cut off" in words)


def test_programs_of_several_sandboxes():
    """Equal programs are told apart by their sandboxes, where there are several."""
    one, other = flow(), flow(sandbox=Sandbox(id="other", cgroup="/o"))
    where = [words for _, words in row_words.programs_words(report_on(one, other))]

    assert where == [f"{CURL.exe}  in {SANDBOX.id}", f"{CURL.exe}  in other"]
    assert [words for _, words in row_words.programs_words(report_on(one))] == [CURL.exe]


def test_no_process():
    """Where no process is known, as in captures, the client or sandbox stands for it."""
    group = group_of(flow(process=None, sandbox=Sandbox(id="10.0.0.5", cgroup="")))
    (row,) = report_on(*(flow(process=None),)).processes

    assert row_words.group_process(group) == "10.0.0.5"
    assert row_words.program_name(row) == SANDBOX.id
    assert row_words.client_name("") == "unknown process"


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ((CaptureFlaw(source="x", offset=None, problem="p"),), "Captures are"),
        ((LogError(source="e", line=1, offset=0, damage=Damage.EMPTY, problem="p"),), "The event"),
        (
            (
                CaptureFlaw(source="x", offset=1, problem="p"),
                LogError(source="e", line=1, offset=0, damage=Damage.EMPTY, problem="p"),
            ),
            "Inputs are",
        ),
    ],
)
def test_titles_of_errors(errors, words):
    """The heading says what is damaged: captures, event files or both."""
    builder = ReportBuilder()
    for error in errors:
        builder.add_error(error)

    assert row_words.errors_title(builder.report()).startswith(words)
