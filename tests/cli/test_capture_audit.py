# SPDX-License-Identifier: Apache-2.0
"""Captures into a report, one after the other."""

from __future__ import annotations

import pytest
from capture.making import handshake, pcap, say
from capture.signatures import AUTOMATON, SIGNATURES

from agentwall.cli import capture_audit
from agentwall.cli.capture_audit import CaptureAudit
from agentwall.policy.load import load_policy
from agentwall.sinks.report import Filters, ReportBuilder


@pytest.fixture(autouse=True)
def _signatures(monkeypatch):
    """The few of these tests, compiled already."""
    monkeypatch.setattr(capture_audit, "read_signatures", lambda extra: SIGNATURES)
    monkeypatch.setattr(capture_audit, "automaton_of", lambda signatures: AUTOMATON)


def write(path, *said):
    packets = []
    for number, text in enumerate(said):
        ports = (40000 + number, 99)
        packets += [*handshake(ports=ports), say(text, sequence=1001, ports=ports)]
    path.write_bytes(pcap(packets))
    return str(path)


def audited(paths, *, policy=None, **filters):
    builder = ReportBuilder(Filters(**filters))
    audit = CaptureAudit(builder, policy=policy, filters=Filters(**filters))
    audit.read(paths)
    return builder.report()


def test_each_capture_is_a_source(tmp_path):
    """Counts are of all, findings and errors name their capture."""
    good = write(tmp_path / "good.pcap", b"TUNNEL 1\n", b"nothing")
    bad = tmp_path / "bad.pcap"
    bad.write_bytes(b"?")
    report = audited([good, str(bad)])

    assert report.sources == (good, str(bad))
    assert (report.captures.count, report.captures.packets, report.captures.conversations) == (
        *(2, 8),
        2,
    )
    assert [(row.source, row.signature) for row in report.findings] == [(good, "tunnel/greeting")]
    assert [error.source for error in report.errors] == [str(bad)]
    assert not report.is_judged


def test_findings_wait_for_names_and_no_longer(tmp_path, monkeypatch):
    """With a policy findings are judged at the end; where too many wait, at once."""
    rules = tmp_path / "p.yaml"
    rules.write_text("version: 1\nname: p\nallow:\n  - {cidr: 198.51.100.20, ports: [99]}\n")
    path = write(tmp_path / "x.pcap", *[b"TUNNEL 1\n"] * 5)
    policy = load_policy(rules)
    waited = audited([path], policy=policy)
    monkeypatch.setattr(capture_audit, "MAX_WAITING", 2)
    at_once = audited([path], policy=policy)

    assert len(waited.findings) == 5
    assert waited.findings == at_once.findings
    assert waited.is_judged
    assert {row.response for row in waited.findings} == {"block"}
    assert waited.totals.permitted == 5


def test_since(tmp_path):
    """What had ended by then is left out."""
    path = write(tmp_path / "x.pcap", b"TUNNEL 1\n")
    end_ns = audited([path]).findings[0].last_ns

    assert len(audited([path], since_ns=end_ns).findings) == 1
    assert audited([path], since_ns=end_ns + 1).findings == ()
