# SPDX-License-Identifier: Apache-2.0
"""A wall is put in force in a process of its own, which says what that took."""

from __future__ import annotations

import json

import pytest

from bench.footprint import measure_footprint
from bench.ground import make_cgroup, run
from bench.policies import write_policy
from bench.stand import Step, stand

pytestmark = pytest.mark.kernel


def test_stand_leaves_nothing(tmp_path):
    """Every step takes time, the memory is told, and the cgroup is free again."""
    policy = write_policy(tmp_path / "policy", names=10)
    with make_cgroup() as cgroup:
        took = stand(policy, cgroup)
        left = json.loads(run("bpftool", "--json", "cgroup", "show", cgroup).strip() or "[]")

    assert left == []
    assert all(took[step.name] > 0 for step in Step)
    assert took["peak"] >= took["resident"] > 1 << 20
    assert took["maps"] > 1 << 20


def test_memory_is_of_a_process_of_its_own(tmp_path):
    """What this process holds does not count, and never did."""
    held = bytearray(256 << 20)
    policy = write_policy(tmp_path / "policy")

    footprints = measure_footprint({"few": policy}, 1, lambda _: None)

    assert footprints["few"][0]["peak"] < len(held)
