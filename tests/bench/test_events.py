# SPDX-License-Identifier: Apache-2.0
"""Rings are filled with what the rows say, and emptied."""

from __future__ import annotations

import pytest

from bench.events import KINDS, measure_events
from bench.policies import write_policy
from bench.toolchain import build
from bench.walls import Agentwall

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """The compiled probe, which resolves names."""
    return build(tmp_path_factory.mktemp("bench")).probe


def test_every_kind_is_drained(probe, tmp_path):
    """One round makes one figure a kind."""
    policy = write_policy(tmp_path / "policy", names=10, by_name=True)

    rates = measure_events(Agentwall.from_file(policy, resolving=probe), 1, lambda _: None)

    assert set(rates) == set(KINDS)
    assert all(len(found) == 1 and found[0] > 0 for found in rates.values())


def test_refused_flood_is_no_sample(tmp_path):
    """Where the name was never resolved, its flows are refused, and nothing is measured."""
    policy = write_policy(tmp_path / "policy", names=10, by_name=True)

    with pytest.raises(RuntimeError, match="PermissionError"):
        measure_events(Agentwall.from_file(policy), 1, lambda _: None)
