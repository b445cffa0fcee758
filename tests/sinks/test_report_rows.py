# SPDX-License-Identifier: Apache-2.0
"""A report's severity."""

from __future__ import annotations

import pytest
from rig.records import endpoint, flow, permitted, state

from agentwall.flow.severity import Severity
from agentwall.sinks.eventlog import Damage, LogError
from agentwall.sinks.report import ReportBuilder

BROKEN = LogError(source="e", line=1, offset=0, damage=Damage.BAD_LINE, problem="p")


@pytest.mark.parametrize(
    ("items", "severity"),
    [
        ([permitted()], Severity.INFO),
        ([permitted(), flow()], Severity.LOW),
        ([flow(), flow(remote=endpoint("10.0.0.1", 22))], Severity.MEDIUM),
        ([BROKEN], Severity.MEDIUM),
        ([flow(), state("damaged")], Severity.CRITICAL),
    ],
)
def test_the_highest_counts(items, severity):
    """A report is as serious as the most serious denial, finding or error in it."""
    builder = ReportBuilder()
    for item in items:
        if isinstance(item, LogError):
            builder.add(item)
        else:
            builder.add_record(item)

    assert builder.report().severity is severity
