# SPDX-License-Identifier: Apache-2.0
"""Timelines: a bounded number of steps, and no event lost between them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rig.records import SECOND, START_NS, flow, permitted

from agentwall.flow.verdict import Verdict
from agentwall.sinks.timeline import MAX_BUCKETS, Timeline


def timeline_of(records):
    timeline = Timeline()
    for record in records:
        denied = int(record.verdict is not Verdict.ALLOW)
        timeline.add(record.time_ns, denied=denied, permitted=1 - denied, record=record)
    return timeline


@given(
    st.lists(
        st.tuples(st.integers(0, 253_402_300_799_999_999_999), st.booleans()),
        min_size=1,
        max_size=80,
    )
)
def test_every_event_is_in_its_step(moments):
    """From nanoseconds to millennia, in any order: counts add up and steps hold their events."""
    records = [flow(time_ns=t) if denied else permitted(time_ns=t) for t, denied in moments]

    timeline = timeline_of(records)

    buckets = timeline.buckets()
    assert 1 <= len(buckets) <= MAX_BUCKETS
    for bucket in buckets:
        held = [
            record
            for record in records
            if bucket.start_ns <= record.time_ns < bucket.start_ns + timeline.width_ns
        ]
        denied = [record for record in held if record.verdict is Verdict.DENY]
        assert (bucket.denied, bucket.permitted) == (len(denied), len(held) - len(denied))
        if denied:
            assert bucket.first_denial.time_ns == min(record.time_ns for record in denied)


def test_short_runs_have_short_steps():
    """A run of a tenth of a second is told in hundredths, one of an hour in minutes."""
    short = timeline_of([flow(time_ns=START_NS + n * 10_000_000) for n in range(10)])
    long = timeline_of([flow(time_ns=START_NS + n * SECOND) for n in range(3600)])

    assert short.width_ns == 10_000_000
    assert long.width_ns == 300 * SECOND
