# SPDX-License-Identifier: Apache-2.0
"""Sandboxes, as their state records tell."""

from __future__ import annotations

from rig.records import APPLIED, FINISHED, STARTED, state

from agentwall.sinks.sandboxes import update_sandbox


def test_records_add_up():
    """Start, policy and end fill one row."""
    row = None
    for record in (STARTED, APPLIED, FINISHED):
        row = update_sandbox(row, record)

    assert (row.mode, row.policy, row.coverage) == ("enforce", "rl-rollout", "partial")
    assert row.command == ("python3", "agent.py", "--episode", "41")
    assert (row.started_ns, row.finished_ns) == (STARTED.time_ns, FINISHED.time_ns)
    assert (row.exit_code, row.denied, row.probes) == (1, 60, 3)


def test_the_last_coverage_holds():
    """What the end says of coverage replaces what the start said."""
    row = update_sandbox(None, STARTED)
    row = update_sandbox(row, state("finished", {"coverage": "full"}))

    assert (row.coverage, row.open_roads) == ("full", ())


def test_other_states_change_nothing():
    """A state this version does not know leaves the row as it is."""
    row = update_sandbox(None, STARTED)

    assert update_sandbox(row, state("paused", {"mode": "observe"})) == row


def test_long_details_are_cut():
    """No more of a detail is kept than a report shows."""
    row = update_sandbox(None, state("started", {"mode": "x" * 10_000, "command": ["a"] * 1000}))

    assert len(row.mode) == 512
    assert len(row.command) == 32
