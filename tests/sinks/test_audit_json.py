# SPDX-License-Identifier: Apache-2.0
"""The report as a document."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from rig.records import FINISHED, STARTED, detection, flow, rome_day, state
from rig.strategies_of_records import RECORDS
from rig.tls_records import STATIC, tls

from agentwall.sinks.audit_json import encode_report
from agentwall.sinks.eventlog import Damage, LogError
from agentwall.sinks.report import ReportBuilder
from agentwall.sinks.report_rows import CaptureFlaw, Captures

ERROR = LogError(source="e", line=3, offset=90, damage=Damage.BAD_LINE, problem="not JSON")


def document_of(items):
    builder = ReportBuilder()
    builder.begin("e.jsonl")
    for item in items:
        if isinstance(item, LogError):
            builder.add(item)
        else:
            builder.add_record(item)
    return json.loads(json.dumps(encode_report(builder.report()), allow_nan=False))


def test_the_documented_keys():
    """The schema comes first; the documented keys are there, captures being none."""
    document = document_of(rome_day())

    assert list(document)[:4] == ["schema", "captures", "events", "severity"]
    assert document["schema"] == "agentwall.audit/1"
    assert document["captures"] == 0
    assert {"denials", "findings", "gaps", "errors", "totals"} <= set(document)


def test_a_denial_in_full():
    """A denial says what, who, where to, which rule, how often, when and what would permit it."""
    (denial,) = document_of([STARTED, flow(), flow(), FINISHED])["denials"]

    assert denial["severity"] == "low"
    assert denial["remote"] == {"address": "203.0.113.7", "port": 443, "name": None}
    assert denial["process"]["comm"] == "curl"
    assert denial["reason"]["code"] == "no-rule"
    assert denial["hooks"] == ["connect4"]
    assert denial["count"] == 2
    assert denial["first"] == denial["last"] == "2026-09-21T14:13:20.123456789Z"
    assert denial["permit"] == "under allow: - {cidr: 203.0.113.7, ports: [443]}"


def test_what_is_wrong_is_in_it():
    """Errors, gaps and findings each have their place."""
    document = document_of([*rome_day(), ERROR, state("damaged", {"what": "egress"})])

    assert document["errors"] == [
        {
            **{"source": "e", "line": 3, "offset": 90, "damage": "bad-line"},
            **{"severity": "medium", "problem": "not JSON"},
        }
    ]
    assert [(gap["where"], gap["lost"]) for gap in document["gaps"]] == [("flows", 2)]
    (finding,) = document["findings"]
    assert (finding["class"], finding["severity"]) == ("wall", "critical")
    assert document["severity"] == "critical"


@given(st.lists(RECORDS, max_size=6))
def test_any_report_is_a_document(records):
    """Whatever the records are, the report is JSON."""
    assert document_of(records)["schema"] == "agentwall.audit/1"


def test_a_finding_in_full():
    """A finding has the keys of findings, the flow it is about, and what a policy made of it."""
    (found,) = document_of([detection(name="pool.example")])["findings"]

    assert list(found) == [
        *("source", "class", "signature", "dialect", "severity", "confidence", "stage", "flow"),
        *("at", "last", "count", "verdict", "response", "reason", "bytes_left", "sandbox"),
        *("process", "evidence", "remedy"),
    ]
    assert (found["class"], found["dialect"], found["stage"]) == (
        *("mining", "stratum-v1"),
        "signature",
    )
    assert found["flow"] == {
        "direction": "out",
        "protocol": "tcp",
        "local": {"address": "10.20.0.50", "port": 40000},
        "remote": {"address": "203.0.113.10", "port": 3333, "name": "pool.example"},
        **dict.fromkeys(("begin", "end", "bytes_out", "bytes_in")),
    }
    assert found["evidence"]["pool"] == "pool.example"
    assert found["remedy"].startswith("except: [mining/stratum-v1] on rl-rollout:allow[0]")


def test_captures():
    """Captures are counted, and what is wrong with one has no line."""
    builder = ReportBuilder()
    builder.add_error(CaptureFlaw(source="x.pcap", offset=24, problem="record cut short"))
    builder.count_captures(Captures(count=2, packets=90, conversations=16))
    document = encode_report(builder.report())

    assert (document["captures"], document["packets"], document["conversations"]) == (2, 90, 16)
    assert document["errors"] == [
        {
            **{"source": "x.pcap", "line": None, "offset": 24, "damage": "capture"},
            **{"severity": "low", "problem": "record cut short"},
        }
    ]
    assert document["severity"] == "low"


def test_inside_tls():
    """Sums, and a row for each program that was not read."""
    inside = document_of([tls(), tls(None, is_joined=True), tls(STATIC, count=7)])["inside_tls"]

    (row,) = inside.pop("not_read")
    assert inside == {
        "sessions": 9,
        "read_sessions": 2,
        "processes": 1,
        "read_processes": 1,
        "by_library": {"openssl": 1, "unknown": 1},
        "unlisted": 0,
    }
    assert row["reading"] == {"library": None, "path": None, "unread": "static"}
    assert (row["sessions"], row["server_names"], row["pids"]) == (7, ["hub.example"], [4242])
    assert row["process"]["comm"] == "curl"
    assert row["first"] == row["last"] == "2026-09-21T14:13:20.123456789Z"
