# SPDX-License-Identifier: Apache-2.0
"""The table of findings, as people see it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len
from rig.records import (
    APPLIED,
    FINISHED,
    MINING,
    SCAN,
    START_NS,
    STARTED,
    detection,
    endpoint,
    scanned,
)
from sinks.test_findings import ENDS
from sinks.test_pretty import flat, report_on

from agentwall.sinks.pretty import export_svg, format_plain
from agentwall.sinks.pretty_findings import MAX_FINDINGS
from agentwall.sinks.report import ReportBuilder
from agentwall.sinks.report_rows import CaptureFlaw, Captures

GOLDEN = """\
2 captures (90 packets, 16 flows) from lab/miner.pcap
4 findings

Found
Severity        Times   What and where          Who             Why
────────────────────────────────────────────────────────────────────────────────────────────────────
high                3   mining (stratum-v1)     10.0.0.5        mining/stratum-v1, high confidence
           2026-09-21   tcp 203.0.113.10:3333   miner.pcap      pool pool.example
             14:13:20   found by its                            "{"id": 1, "method":
                        signature                               "mining.subscribe""
high                1   scan                    10.0.0.5        behaviour/scan-horizontal, medium
           2026-09-21   (scan-horizontal)       miner.pcap      confidence
             14:13:20   found by its                            13 addresses, 12 of them private, 1
                        behaviour                               port, 13 refused, in 2.5 s

Captures are damaged or incomplete
  low      lab/cut.pcap: byte 24: record cut short
"""


def captures(*found, errors=()):
    builder = ReportBuilder()
    builder.begin("lab/miner.pcap")
    for finding, ends in found:
        builder.findings.add_captured("lab/miner.pcap", finding, ends, judged=None, at_ns=START_NS)
    for error in errors:
        builder.add_error(error)
    builder.count_captures(Captures(count=2, packets=90, conversations=16))
    return builder.report()


def lab():
    flows = [
        replace(ENDS, local=endpoint("10.0.0.5", port), begin_ns=START_NS, end_ns=START_NS)
        for port in (40000, 40001, 40002)
    ]
    scan = replace(SCAN, evidence={"client": "10.0.0.5", **SCAN.evidence})
    flaw = CaptureFlaw(source="lab/cut.pcap", offset=24, problem="record cut short")
    return captures(*((MINING, ends) for ends in flows), (scan, None), errors=[flaw])


def test_a_report_on_captures():
    """What was read, what was found in it and by what, and what is broken."""
    assert format_plain(lab(), "utf-8", 100) == GOLDEN


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_width_holds(width):
    """No line is wider than asked for, and everything is said in each."""
    text = format_plain(lab(), "utf-8", width)

    assert max(cell_len(line) for line in text.splitlines()) <= width
    for words in ("mining (stratum-v1)", "tcp 203.0.113.10:3333", "10.0.0.5", "miner.pcap"):
        assert words in flat(text)


def test_nothing_found_is_said():
    """Of a clean capture it is said that nothing was found, and nothing of denials."""
    text = format_plain(captures(), "utf-8")

    assert "0 findings" in text
    assert "Nothing was found" in text
    assert "denied" not in text


def test_events_are_told_with_what_lets_them_pass():
    """Detections stand before denials: outcome, program, permitting rule and remedy."""
    report = report_on(STARTED, APPLIED, detection(), scanned(), FINISHED)
    text = flat(format_plain(report, "utf-8", 200))

    assert "2 findings, 1 cut off" in text
    assert "cut off by its signature before any of it was out" in text
    assert "permitted by rl-rollout:allow[0] at policies/rl-rollout.yaml:12; to let it pass" in text
    assert "to silence it, detect: {scan: off}" in text
    assert "Nothing else was denied" in text
    assert "/usr/bin/python3" in text


def test_several_sandboxes_are_told_apart():
    """Where there are more than one, each row names its own."""
    other = replace(detection().sandbox, id="run-\x1b2")
    text = format_plain(report_on(detection(), detection(sandbox=other)), "utf-8")

    assert "in run-7f3a" in text
    assert "in run-\\x1b2" in text


def test_long_tables_end_in_a_note():
    """What does not fit is counted, with the way to see it."""
    rows = [
        (replace(MINING, dialect=f"d{number}"), replace(ENDS, begin_ns=number))
        for number in range(MAX_FINDINGS + 3)
    ]

    assert "3 more rows; --format json lists them" in format_plain(captures(*rows), "utf-8")


def test_markup_in_evidence_is_text():
    """What a flow said is shown as it is, in the picture as well."""
    said = replace(MINING, evidence={"excerpt": "[bold]<b>&x\x1b[31m"})

    svg = export_svg(captures((said, ENDS)))

    assert "&lt;b&gt;&amp;x\\x1b" in svg
    assert "\x1b" not in svg
