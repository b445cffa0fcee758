# SPDX-License-Identifier: Apache-2.0
"""Event files that nobody watched when they were written."""

from __future__ import annotations

import pytest
from rig.records import CURL, FINISHED, STARTED, flow, permitted, rome_day, scanned

from agentwall.flow.finding import DetectionClass
from agentwall.policy.model import DETECT_DEFAULTS, Detect, Response
from agentwall.sinks.event_json import FIRST_PREV, LoggedEvent
from agentwall.sinks.eventlog import Damage, LogError
from agentwall.sinks.report import Filters, ReportBuilder
from agentwall.sinks.watched import WatchedEvents


def watched(*files, filters=None, detect=None):
    builder = ReportBuilder(filters)
    taker = WatchedEvents(builder, detect)
    for number, records in enumerate(files):
        taker.begin(f"{number}.jsonl")
        for record in records:
            is_error = isinstance(record, LogError)
            taker.add(record if is_error else LoggedEvent(id="r-1", record=record, prev=FIRST_PREV))
    taker.end()
    return builder.report()


def scans(report):
    return [row for row in report.findings if row.kind == "scan"]


def test_probing_is_found():
    """An agent that tries thirty addresses of the internal network has scanned it."""
    (row,) = scans(watched(rome_day()))

    assert (row.source, row.dialect, row.sandbox) == ("0.jsonl", "scan-horizontal", "run-7f3a")
    assert row.evidence["private"] >= 30
    assert row.response == "alert"


def test_what_the_file_tells_is_not_told_again():
    """A scan that was seen live is in the file already, wherever it stands there."""
    (row,) = scans(watched([*rome_day()[:-1], scanned(), FINISHED]))

    assert row.evidence == scanned().finding.evidence


def test_each_file_is_watched_on_its_own():
    """Half a scan in each of two files is none."""
    half = [flow(remote=None)] * 3 + rome_day()[2:9]
    report = watched(half, half)

    assert scans(report) == []
    assert report.sources == ("0.jsonl", "1.jsonl")


def test_nothing_happened():
    """A clean run and a damaged line make no finding."""
    broken = LogError(source="0", line=1, offset=0, damage=Damage.BAD_LINE, problem="x")
    report = watched([STARTED, broken, permitted(), FINISHED])

    assert report.findings == ()
    assert (report.events, len(report.errors)) == (3, 1)


def test_a_policy_decides_what_is_looked_for():
    """A class that is off is not watched for."""
    off = Detect(responses={**DETECT_DEFAULTS, DetectionClass.SCAN: Response.OFF})

    assert scans(watched(rome_day(), detect=off)) == []


@pytest.mark.parametrize(("filters", "count"), [(Filters(process=CURL.comm), 0), (Filters(), 1)])
def test_filters_hold(filters, count):
    """Everything is watched, and what does not fit the filters is not told."""
    found = scans(watched(rome_day()[:34], filters=filters))

    assert len(found) == count
