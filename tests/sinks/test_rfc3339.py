# SPDX-License-Identifier: Apache-2.0
"""Times: RFC 3339 with nanoseconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from rig.strategies_of_records import TIMES

from agentwall.sinks.rfc3339 import format_time, parse_time


@given(TIMES)
def test_times_survive(time_ns):
    """Reading what was written gives the same nanosecond."""
    assert parse_time(format_time(time_ns)) == time_ns


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.5Z", 500_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T19:00:00-05:00", 0),
        ("2026-01-31 12:00:00z", 1_769_860_800_000_000_000),
    ],
)
def test_known_times(text, time_ns):
    """Offsets, fractions, a blank for the T and small letters are read."""
    assert parse_time(text) == time_ns


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T00:00:00Z"),
        *("2026-01-31T12:00:00.1234567890Z", "2026-01-31T25:00:00Z", "0000-01-01T00:00:00Z"),
        "2026-01-31T12:00:00Z\n",
    ],
)
def test_other_text_is_refused(text):
    """What is not a moment of the calendar with an offset raises."""
    with pytest.raises(ValueError, match="expected an RFC 3339 time"):
        parse_time(text)
