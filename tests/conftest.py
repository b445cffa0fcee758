# SPDX-License-Identifier: Apache-2.0
"""What every test shares: kernel tests are skipped, with the reason, where they cannot run."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from agentwall.daemon.leftovers import clear_leftover, find_leftovers

# How long an example takes says what else the machine does.
settings.register_profile("agentwall", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agentwall")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked ``kernel`` for a user who may not load programs."""
    if item.get_closest_marker("kernel") and os.geteuid() != 0:
        pytest.skip("needs root: loads BPF programs")


@pytest.fixture(scope="session", autouse=True)
def _no_leftovers() -> None:
    """Clear what runs of an earlier session that was killed left: ``run`` would speak of it."""
    if os.geteuid() == 0:
        for leftover in find_leftovers():
            if not leftover.pids:
                clear_leftover(leftover)
