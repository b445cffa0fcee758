# SPDX-License-Identifier: Apache-2.0
"""Sandboxes, as their state records tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
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


@pytest.mark.parametrize("later", ["inspected", "finished"])
def test_the_last_coverage_holds(later):
    """What is found later, or at the end, replaces what the start said."""
    row = update_sandbox(None, STARTED)
    row = update_sandbox(row, state(later, {"coverage": "full"}))

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


def test_the_labels_of_the_end_count():
    """A row shows the labels that a sandbox had last."""
    row = update_sandbox(None, STARTED)
    later = replace(FINISHED, sandbox=replace(FINISHED.sandbox, labels={"episode": "42"}))

    assert update_sandbox(row, later).sandbox.labels == {"episode": "42"}
