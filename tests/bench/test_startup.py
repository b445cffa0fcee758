# SPDX-License-Identifier: Apache-2.0
"""Runs are timed from start to end, with and without signatures."""

from __future__ import annotations

import pytest

from bench.startup import INSIDE, SHIPPED, WITHOUT, Started, measure_startup, startup_table


@pytest.mark.kernel
def test_runs_are_measured(tmp_path):
    """Each command ends well, takes time, and its own process holds memory."""
    started = measure_startup(tmp_path / "startup", 1, lambda _: None)

    assert list(started)[1:] == [WITHOUT, SHIPPED, INSIDE]
    for one in started.values():
        assert one.seconds[0] > 0
        assert one.processor[0] > 0
    # What signatures add, 0.3 MB, is hardly more than what runs differ by.
    assert all(started[name].peak[0] > 20e6 for name in (WITHOUT, SHIPPED, INSIDE))


def test_table_of_starts():
    """Processor time is compared, for waiting is not what a run costs."""
    started = {
        WITHOUT: Started(seconds=[3.0], processor=[1.0], peak=[50e6]),
        SHIPPED: Started(seconds=[2.0], processor=[1.5], peak=[100e6]),
    }

    assert startup_table(started).rows[1][1:] == [
        "2000 ms (2000-2000)",
        "1500 ms (1500-1500)",
        "1.500 (1.500-1.500)",
        "100.0 MB",
    ]
