# SPDX-License-Identifier: Apache-2.0
"""What the daemon counts: by what, and never without bounds."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from rig.records import DENIED, SANDBOX, detection, flow, permitted, state
from rig.strategies_of_records import RECORDS
from rig.tls_records import READ, STATIC, tls

from agentwall.flow.record import GapRecord, PolicyInForce
from agentwall.flow.verdict import Verdict
from agentwall.sinks.figures import ADMISSION_BOUNDS_S, MAX_SERIES, OTHER, Figures, Histogram


def counted(*records):
    figures = Figures()
    for record in records:
        figures.count(record)
    return figures


def test_denials_and_detections():
    """Counts of records add up by policy, reason and verdict; what is permitted is not counted."""
    managed = replace(SANDBOX, policy=PolicyInForce(name="rl", phase="agent"))
    figures = counted(
        flow(sandbox=managed, count=5),
        flow(sandbox=managed, reason=DENIED),
        flow(verdict=Verdict.WOULD_DENY),
        permitted(),
        detection(count=2),
    )

    assert figures.denials == {
        ("rl", "no-rule", "deny"): 5,
        ("rl", "rule", "deny"): 1,
        ("none", "no-rule", "would-deny"): 1,
    }
    assert figures.detections == {("mining", "block", "deny"): 2}


def test_tls_sessions():
    """Sessions by whether they were read, and by which library or why not."""
    figures = counted(
        tls(count=3),
        tls(STATIC, count=2),
        tls(READ, is_joined=False),
        tls(STATIC, is_joined=True),
        tls(None),
    )

    assert figures.tls == {
        ("yes", "openssl"): 3,
        ("no", "static"): 2,
        ("no", "own-tls"): 1,
        ("yes", "unknown"): 1,
        ("no", "unknown"): 1,
    }


def test_gaps_and_states():
    """Losses by place, responses by outcome, damages, and how long sandboxes were unwatched."""
    gap = GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where="flows", lost=7)
    figures = counted(
        gap,
        gap,
        state("response", {"response": "kill", "problem": None}),
        state("response", {"response": "freeze", "problem": "gone"}),
        state("damaged", {"what": "x"}),
        state("started", {"unwatched_ms": 40}),
        state("started", {"unwatched_ms": None}),
    )

    assert figures.lost == {("flows",): 14}
    assert figures.responses == {("kill", "done"): 1, ("freeze", "failed"): 1}
    assert figures.damages == 1
    assert sum(figures.unwatched.counts) == 1
    assert figures.unwatched.sum_s == 0.04


def test_series_are_bounded():
    """Who makes up names adds to one series, and nothing is lost from the sum."""
    gap = GapRecord(sandbox=SANDBOX, time_ns=1, mono_ns=1, where="", lost=1)
    figures = counted(*(replace(gap, where=f"place {n}") for n in range(MAX_SERIES + 50)))

    assert len(figures.lost) == MAX_SERIES + 1
    assert figures.lost[(OTHER,)] == 50


@given(st.lists(st.floats(0, 100), max_size=50))
def test_histograms(values):
    """Each bucket has all that took no longer than its bound, the last of them everything."""
    histogram = Histogram(ADMISSION_BOUNDS_S)
    for value in values:
        histogram.observe(value)
    buckets = histogram.cumulative()

    assert [number for _, number in buckets[:-1]] == [
        sum(value <= bound for value in values) for bound in ADMISSION_BOUNDS_S
    ]
    assert buckets[-1] == ("+Inf", len(values))


@given(RECORDS)
def test_any_record(record):
    """Any record can be counted, and labels are of bounded length."""
    figures = counted(record)

    for series in (*figures.denials, *figures.lost, *figures.states, *figures.responses):
        assert all(len(label) <= 128 for label in series)
