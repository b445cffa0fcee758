# SPDX-License-Identifier: Apache-2.0
"""What is said of one event: every kind, every gap in what is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from rig.daemon_log import COMMIT, WEB
from rig.records import (
    APPLIED,
    DENIED,
    SANDBOX,
    asked,
    detection,
    endpoint,
    flow,
    permitted,
    scanned,
    state,
    totals,
)
from rig.strategies_of_records import RECORDS
from rig.tls_records import LIBSSL, STATIC, tls

from agentwall.flow.record import GapRecord, Record
from agentwall.flow.verdict import Verdict
from agentwall.sinks.escape import printable
from agentwall.sinks.event_json import FIRST_PREV, LoggedEvent
from agentwall.sinks.explain_event import Case, RuleText, explain, headline

INSIDE = replace(
    detection().finding,
    evidence={"inside": "tls", "sni": "pool.example", "ja4": "t13d", "bytes_left_of": "text"},
)
READ_BY = f"processes: read (OpenSSL at {LIBSSL})"


def case_of(record: Record, **found: object) -> Case:
    event = LoggedEvent(id="d1-42", record=record, prev=FIRST_PREV)
    known = {"source": "events.jsonl", "rule": None, "applied": None, **found}
    return Case(event=event, **known)


def lines(record: Record, **found: object) -> dict[str, str]:
    """Return what is said by heading, lines that go on joined to it."""
    said: dict[str, str] = {}
    heading = ""
    for name, words in explain(case_of(record, **found)):
        heading = name or heading
        said[heading] = f"{said[heading]}\n{words}" if heading in said else words
    return said


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (flow(count=3), "denied: tcp 203.0.113.7:443, 3 times"),
        (flow(verdict=Verdict.WOULD_DENY), "would be denied: tcp 203.0.113.7:443"),
        (permitted(), "permitted: tcp 198.51.100.10:443"),
        (asked("x.example", 1), "denied: DNS question for x.example (A) to 10.20.0.2"),
        (detection(), "detected: mining (stratum-v1)"),
        (scanned(), "detected: scan (scan-horizontal)"),
        (detection(INSIDE), "detected: mining (stratum-v1) inside TLS"),
        (tls(process=None, server_name=None), f"TLS to 198.51.100.10:443 by several {READ_BY}"),
        (state("finished"), "finished"),
    ],
)
def test_headlines(record, words):
    """What happened, in a few words."""
    assert headline(record) == words


def test_a_denial():
    """All that a reader asks is there under its own heading."""
    said = lines(flow(sandbox=WEB, reason=DENIED, claimed=endpoint("192.0.2.1", 80)))

    assert list(said) == [
        *("event", "time", "sandbox", "made by", "episode", "labels", "process", "where to"),
        *("how", "why", "policy", "remedy"),
    ]
    assert said["where to"].endswith("connect() was asked for 192.0.2.1:80")
    assert said["policy"] == f"rl-rollout, phase agent, commit {COMMIT}"


def test_the_line_of_the_rule():
    """The line that was written is quoted with its number, or it is said why not."""
    denied = flow(reason=DENIED)
    quoted = lines(denied, rule=RuleText(text="  - cidr: 203.0.113.0/24"))
    gone = lines(denied, rule=RuleText(text=None, note="x cannot be read here"))

    assert quoted["why"] == (
        "rl-rollout:deny[0] at policies/rl-rollout.yaml:21\n21 |   - cidr: 203.0.113.0/24"
    )
    assert gone["why"].endswith("\nx cannot be read here")


def test_the_policy_of_a_run():
    """Where events do not name it, the rules that were applied do, by name and digest."""
    said = lines(flow(), applied=APPLIED)

    assert said["policy"] == f"rl-rollout, digest {'ab' * 8}"
    assert "policy" not in lines(flow())


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (permitted(), "connect; the first sight of the flow"),
        (flow(verdict=Verdict.WOULD_DENY, errno=None), "connect; let through: the policy only"),
        (totals(permitted(), out=10, back=20), "end of flow; 10 B out, 20 B in"),
    ],
)
def test_what_became_of_it(record, words):
    """What left and what came is said of each kind."""
    assert lines(record)["how"].startswith(words)


def test_who():
    """A process that has gone, or that nobody knows, is said as such."""
    gone = replace(flow().process, exe=None, argv=None, ppid=None)

    assert lines(flow(process=gone))["process"] == "curl[4242], uid 1000, which had gone already"
    assert lines(flow(process=None))["process"].startswith("not known")


def test_detections_and_remedies():
    """A cut says what would let it pass, an alert what would silence it."""
    assert lines(detection())["remedy"].startswith("to let it pass, except: [mining/stratum-v1]")
    assert lines(scanned())["remedy"] == "to silence it, detect: {scan: off}"
    assert "remedy" not in lines(permitted())


def test_states_and_gaps():
    """A state shows what it holds; of a gap it is said what it means."""
    gap = GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where="flows", lost=2)

    assert lines(state("mode", {"reason": "3 a.m."}))["reason"] == "3 a.m."
    assert "verdicts stood" in lines(gap)["meaning"]


@given(RECORDS)
def test_any_record(record):
    """Whatever is in it, each line is one line that acts on no terminal, and of bounded length."""
    said = [
        headline(record),
        *(words for pair in explain(case_of(record, rule=RuleText(text="x"))) for words in pair),
    ]

    assert all(words == printable(words) for words in said)
    assert all(len(words) <= 3000 for words in said)


def test_a_tls_session():
    """With whom, what was offered, whether it is read, and which rule permits it."""
    said = lines(tls(STATIC, count=3))

    assert said["where to"] == "to hub.example at 198.51.100.10:443"
    assert said["hello"] == (
        "server name hub.example, ALPN h2 http/1.1, JA4 t13d1516h2_8daaf6152771_e5627efa2ab1"
    )
    assert said["inside"].startswith("not read: static binary")
    assert "rhythm" in said["inside"]
    assert said["sessions"] == "3 sessions"
    assert said["why"].startswith("rl-rollout:allow[0]")
    assert "remedy" not in said


def test_a_tls_session_without_an_offer():
    """What is not known has no line."""
    said = lines(tls(server_name=None, alpn=(), ja4=None))

    assert "hello" not in said
    assert said["inside"] == f"read (OpenSSL at {LIBSSL})"


def test_what_was_found_inside_tls():
    """What the hello offered is evidence, and what had left is counted in text."""
    said = lines(detection(INSIDE, bytes_left=512))

    assert "SNI pool.example, JA4 t13d" in said["what"]
    assert "after 512 B of its text were out" in said["outcome"]
