# SPDX-License-Identifier: Apache-2.0
"""Constants and sizes are set before the object is loaded."""

from __future__ import annotations

import pytest

from agentwall.kernel.capacity import Capacity
from agentwall.kernel.loading import OBJECT_PATH, configure
from agentwall.kernel.objects import BpfObject

pytestmark = pytest.mark.kernel


def test_configured():
    """Secrets are new for each object, sizes are the capacity's, the budget is the caller's."""
    seeds = set()
    for _ in range(2):
        with BpfObject.open(OBJECT_PATH) as bpf:
            configure(bpf, Capacity(flows=128), None, 77)
            seeds |= {(bpf.constant("aw_hash_seed"), bpf.constant("aw_belt_mark"))}
            entries = bpf.definitions()["aw_flow_table"].shape.max_entries
            has_budget = bpf.has_constant("aw_event_budget")
            budget = bpf.constant("aw_event_budget") if has_budget else 77

    assert len(seeds) == 2
    assert (entries, budget) == (128, 77)
    assert not bpf_has("aw_no_such_constant")


def bpf_has(name: str) -> bool:
    with BpfObject.open(OBJECT_PATH) as bpf:
        return bpf.has_constant(name)
