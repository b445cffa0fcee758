# SPDX-License-Identifier: Apache-2.0
"""What a sandbox has in the maps is what was written, or is written again."""

from __future__ import annotations

import sys

import pytest
from rig import temp_cgroup
from rig.lending import lent_wall
from rig.successor import enforcing, permitting

from agentwall.flow.record import SandboxKey

pytestmark = pytest.mark.kernel

KEY = SandboxKey(7)


def bytes_of(number: int) -> bytes:
    return number.to_bytes(8, sys.byteorder)


def test_drift():
    """An entry that was changed or removed, and an identity that was changed, are put back."""
    with lent_wall() as wall, temp_cgroup() as cgroup:
        slots, settings, identities = (
            wall.maps()[name] for name in ("aw_slots", "aw_sandboxes", "aw_sandbox_id")
        )
        place = bytes_of(cgroup.stat().st_ino)
        wall.attach(cgroup, KEY)
        attached = wall.check_maps(KEY)
        wall.apply(1, permitting(1))
        wall.bind(KEY, enforcing(1))
        wall.activate(cgroup, KEY)
        slot = slots.lookup(bytes_of(KEY))
        written = settings.lookup(slot)
        before = wall.check_maps(KEY)
        settings.update(slot, bytes(len(written)))
        identities.update(place, bytes_of(0))
        changed = wall.check_maps(KEY)
        again = settings.lookup(slots.lookup(bytes_of(KEY))), identities.lookup(place)
        slots.update(bytes_of(KEY), slot)
        moved = wall.check_maps(KEY)
        slots.delete(bytes_of(KEY))
        removed = wall.check_maps(KEY)

        assert (attached, before) == ([], [])
        assert changed == [
            "aw_sandboxes: the entry was not the one written",
            "aw_sandbox_id: the cgroup was not this sandbox's",
        ]
        assert again == (written, bytes_of(KEY))
        assert moved == removed == changed[:1]
        assert settings.lookup(slots.lookup(bytes_of(KEY))) == written
        wall.detach(KEY)
        assert wall.check_maps(KEY) == []
        assert slots.lookup(bytes_of(KEY)) is None


def test_a_cgroup_that_has_gone():
    """The identity of a cgroup that was removed is not missed."""
    with lent_wall() as wall:
        with temp_cgroup() as cgroup:
            wall.attach(cgroup, KEY)
            wall.apply(1, permitting(1))
            wall.bind(KEY, enforcing(1))
            wall.activate(cgroup, KEY)

        assert wall.check_maps(KEY) == []


def test_processes_of_a_sandbox():
    """A sandbox's processes are known by its cgroup as long as it stands, moved or not."""
    with lent_wall() as wall, temp_cgroup() as cgroup:
        processes = wall.maps()["aw_plain_cgroups"]
        place = bytes_of(cgroup.stat().st_ino)
        wall.attach(cgroup, KEY)
        wall.apply(1, permitting(1))
        wall.bind(KEY, enforcing(1))
        bound = list(processes.keys())
        wall.activate(cgroup, KEY)
        active = processes.lookup(place)
        wall.detach(KEY)

        assert bound == []
        assert active == bytes_of(KEY)
        assert list(processes.keys()) == []
