# SPDX-License-Identifier: Apache-2.0
"""Detections and findings of captures become rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.records import ALLOWED, MINING, SCAN, detection, endpoint, process, scanned, state

from agentwall.flow.finding import Confidence, DetectionClass, Stage
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Direction, Verdict
from agentwall.sinks import findings
from agentwall.sinks.findings import FindingTable, Judged, detection_key
from agentwall.sinks.report_rows import FlowEnds

ENDS = FlowEnds(
    direction=Direction.OUT,
    protocol=6,
    local=endpoint("10.0.0.5", 40000),
    remote=endpoint("203.0.113.10", 3333),
    name=None,
    begin_ns=5,
    end_ns=9,
    bytes_out=1,
    bytes_in=2,
)
RHYTHM = replace(
    MINING,
    signature="behaviour/mining-rhythm",
    dialect="mining-rhythm",
    confidence=Confidence.LOW,
    severity=Severity.CRITICAL,
    stage=Stage.BEHAVIOUR,
    evidence={"shares": 4, "pool": "other"},
)


def rows(*records):
    table = FindingTable()
    for record in records:
        table.add_detection("e.jsonl", record)
    return table.rows()


def captured(*found, judged=None):
    table = FindingTable()
    for finding, ends in found:
        table.add_captured("x.pcap", finding, ends, judged=judged, at_ns=7)
    return table.rows()


def test_equal_detections_are_one_row():
    """Time, port of one's own and pid do not matter; the count and the bytes that left add up."""
    other = process("python3", 124)
    later = detection(time_ns=detection().time_ns + 5, process=other, bytes_left=7)
    (row,) = rows(detection(), replace(later, local=endpoint("10.20.0.50", 40001)))

    assert (row.count, row.bytes_left) == (2, 7)
    assert (row.last_ns or 0) - (row.at_ns or 0) == 5
    assert row.remedy is not None
    assert row.remedy.startswith("except: [mining/stratum-v1] on rl-rollout:allow[0]")


@pytest.mark.parametrize(
    "changes",
    [
        {"remote": endpoint("203.0.113.10", 3334)},
        {"verdict": Verdict.ALLOW},
        {"process": process("xmrig", 123)},
        {"finding": replace(MINING, dialect="cryptonote")},
        {"reason": replace(ALLOWED, line=99)},
    ],
)
def test_different_detections_are_rows_of_their_own(changes):
    """Where, what, who, why and what came of it each tell them apart."""
    assert len(rows(detection(), detection(**changes))) == 2
    assert detection_key(detection()) != detection_key(detection(**changes))


def test_a_scan_grows():
    """Told again, by whichever program, it is one scan, with the numbers it had last."""
    grown = replace(SCAN, evidence={**SCAN.evidence, "addresses": 80})
    again = replace(scanned(process=process("curl", 7)), finding=grown)
    (row,) = rows(scanned(), again)

    assert (row.count, row.evidence["addresses"]) == (2, 80)
    assert row.process == scanned().process
    assert (row.flow, row.remedy) == (None, "detect: {scan: off}")


def test_one_flow_of_a_capture_is_one_row_a_class():
    """The surest leads; it takes the evidence it lacks and names the others."""
    (row,) = captured((RHYTHM, ENDS), (MINING, ENDS))

    assert (row.signature, row.dialect, row.confidence) == (
        *("mining/stratum-v1", "stratum-v1"),
        Confidence.HIGH,
    )
    assert row.severity is Severity.CRITICAL
    assert row.evidence == {
        **MINING.evidence,
        "shares": 4,
        "also": ["behaviour/mining-rhythm"],
    }
    assert (row.count, row.at_ns, row.last_ns) == (1, 5, 9)
    assert (row.verdict, row.remedy, row.sandbox) == (None, None, None)


def test_other_flows_and_classes_are_rows_of_their_own():
    """Another port, another beginning, another class."""
    tunnel = replace(MINING, cls=DetectionClass.TUNNEL)
    found = captured(
        (MINING, ENDS),
        (MINING, replace(ENDS, local=endpoint("10.0.0.5", 40001))),
        (MINING, replace(ENDS, begin_ns=6)),
        (tunnel, ENDS),
    )

    assert len(found) == 4


def test_a_contradiction_does_not_outlive_a_surer_finding():
    """Decoders that found mining after all settle it."""
    quoted = replace(MINING, confidence=Confidence.LOW, evidence={"contradicted": "why"})
    (row,) = captured((quoted, ENDS), (MINING, ENDS))

    assert "contradicted" not in row.evidence


def test_the_gravest_verdict_of_a_flow_counts():
    """What would be cut off for one reason would be cut off."""
    table = FindingTable()
    alert = Judged(verdict=Verdict.ALLOW, response="alert", reason=ALLOWED)
    block = Judged(verdict=Verdict.WOULD_DENY, response="block", reason=ALLOWED)
    table.add_captured("x.pcap", MINING, ENDS, judged=alert)
    table.add_captured("x.pcap", RHYTHM, ENDS, judged=block)
    (row,) = table.rows()

    assert (row.verdict, row.response, row.signature) == (
        *(Verdict.WOULD_DENY, "block"),
        "mining/stratum-v1",
    )
    assert str(row.remedy).endswith("detect: {mining: alert}")


def test_no_remedy_where_the_flow_is_denied_anyway():
    """Letting the bytes pass would not help."""
    judged = Judged(verdict=Verdict.WOULD_DENY, response="block", reason=ALLOWED, is_denied=True)
    (row,) = captured((MINING, ENDS), judged=judged)

    assert row.remedy is None


def test_scans_of_clients():
    """What is about no flow is told apart by client, and has the time it is given."""
    first, second = (
        replace(SCAN, evidence={"client": client}) for client in ("10.0.0.5", "10.0.0.6")
    )
    found = captured((first, None), (second, None), (first, None))

    assert [(row.count, row.at_ns) for row in found] == [(2, 7), (1, 7)]


def test_most_serious_first():
    """Order is by severity, then by confidence."""
    found = rows(
        detection(replace(MINING, severity=Severity.LOW, dialect="b")),
        detection(replace(MINING, confidence=Confidence.LOW, dialect="a")),
        detection(),
    )

    assert [(row.severity, row.confidence) for row in found] == [
        (Severity.HIGH, Confidence.HIGH),
        (Severity.HIGH, Confidence.LOW),
        (Severity.LOW, Confidence.HIGH),
    ]


def test_room_is_bounded(monkeypatch):
    """What finds no room is counted, and the most serious one is among those kept."""
    monkeypatch.setattr(findings, "MAX_ROWS", 3)
    table = FindingTable()
    for port in range(1, 6):
        table.add_detection("e", detection(remote=endpoint("203.0.113.1", port)))
    table.add_detection("e", detection(replace(MINING, severity=Severity.CRITICAL)))

    assert (len(table.rows()), table.unlisted) == (3, 3)
    assert table.rows()[0].severity is Severity.CRITICAL


def test_text_is_bounded(monkeypatch):
    """Long evidence and arguments use up the room for text."""
    monkeypatch.setattr(findings, "MAX_CHARS", 1000)
    table = FindingTable()
    long = replace(process("x", 1), argv=("y" * 2000,))
    for port in range(1, 4):
        table.add_detection("e", detection(process=long, remote=endpoint("203.0.113.1", port)))

    assert (len(table.rows()), table.unlisted) == (1, 2)


def test_the_wall_itself():
    """A damaged wall is a finding of its own kind."""
    table = FindingTable()
    table.add_wall("e.jsonl", state("damaged", {"what": "x" * 999}))
    (row,) = table.rows()

    assert (row.kind, row.severity, row.signature) == ("wall", Severity.CRITICAL, None)
    assert len(str(row.evidence["what"])) == 200


def test_inside_tls_is_a_row_of_its_own():
    """Clear text and text inside TLS to one port are two; without a flow it is still somebody's."""
    inside = replace(MINING, evidence={"inside": "tls"})
    unknown = detection(inside, remote=None, local=None)
    found = rows(
        detection(),
        detection(inside),
        unknown,
        replace(unknown, process=process("node", 7)),
        replace(unknown, process=process("node", 8)),
    )

    assert [row.count for row in found] == [1, 1, 1, 2]
