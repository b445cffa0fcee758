# SPDX-License-Identifier: Apache-2.0
"""How much a wall can hold is what its maps are declared with."""

from __future__ import annotations

import resource

import pytest

from agentwall.kernel.capacity import Capacity, raise_descriptor_limit
from agentwall.kernel.objects import BpfObject


@pytest.mark.kernel
def test_defaults_are_what_is_declared(compile_bpf):
    """Without a word from the caller the maps are as large as bpf/maps.bpf.h has them."""
    with BpfObject.open(compile_bpf("maps_alone")) as bpf:
        bpf.load()
        declared = {name: found.shape.max_entries for name, found in bpf.maps().items()}

    assert Capacity().entries().items() <= declared.items()


def test_every_size_reaches_a_map():
    """Each field is the size of a map; counters have one entry more, settings twice as many."""
    entries = Capacity(names=1, known=2, bound=3, sandboxes=4).entries()

    assert (entries["aw_names"], entries["aw_known"], entries["aw_bound"]) == (1, 2, 3)
    assert (entries["aw_slots"], entries["aw_counters"]) == (4, 5)
    assert entries["aw_sandboxes"] == 8


def test_descriptors():
    """The soft limit becomes the hard one."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        raised = raise_descriptor_limit()
        after = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert (raised, after) == (before[1], (before[1], before[1]))
