# SPDX-License-Identifier: Apache-2.0
"""Pins that an earlier wall left are found, and so are those of walls that never took over."""

from __future__ import annotations

import sys
from contextlib import closing

import pytest

from agentwall.errors import KernelError
from agentwall.kernel import abi, pins
from agentwall.kernel.abi_event import Event
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.layout import of_ctypes
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.links import pin
from agentwall.kernel.predecessor import (
    EVENT_LAYOUTS,
    Predecessor,
    map_info,
    next_staging,
    pin_event_layouts,
)

pytestmark = pytest.mark.kernel

RING = MapShape(name="aw_flows", type=MapType.RINGBUF, key_size=0, value_size=0, max_entries=4096)
KNOWN = MapShape(name="aw_known", type=MapType.HASH, key_size=8, value_size=8, max_entries=2)


@pytest.fixture
def pin_dir(tmp_path):
    """A pin directory on a bpffs of the test's own."""
    point = tmp_path / "bpf"
    pins.make_pin_dir(point / "daemon")
    yield point / "daemon"
    pins.clear_pins(point / "daemon")

    assert pins.unmount_bpffs(point)


def test_nothing(pin_dir):
    """A directory without maps is that of no whole wall."""
    with closing(Predecessor(pin_dir)) as found:
        assert not found.is_whole
        assert found.maps("aw_known") == []
        assert found.highest_generation() == 0
        with pytest.raises(KernelError, match="expected a constant aw_hash_seed, got none"):
            found.constant("aw_hash_seed")


def test_staged(pin_dir):
    """Maps of the same name are told apart by the kernel's id, the newest first."""
    with closing(BpfMap.create(KNOWN)) as one, closing(BpfMap.create(KNOWN)) as other:
        pin(one.fd, pin_dir / pins.MAPS / "aw_known")
        for made in (one, other):
            staging = next_staging(pin_dir)
            pins.make_staging(staging)
            pin(made.fd, staging / pins.MAPS / "aw_known")
        ids = [map_info(made.fd, "x").id for made in (other, one)]
    with closing(Predecessor(pin_dir)) as found:
        assert [path.name for path in found.staged] == ["next-1", "next-2"]
        assert [each.id for each in found.maps("aw_known")] == ids
        assert found.ids_in_force() == {ids[1]}
    assert next_staging(pin_dir).name == "next-3"


def test_layouts_of_events(pin_dir):
    """The layouts of what a ring holds belong to that ring, and to no other."""
    with closing(BpfMap.create(RING)) as ring, closing(BpfMap.create(RING)) as other:
        pin_event_layouts(pin_dir / pins.MAPS, [ring.fd])
        pin(ring.fd, pin_dir / pins.MAPS / "aw_flows")
        pin(other.fd, pin_dir / pins.MAPS / "aw_denials")
    with closing(Predecessor(pin_dir)) as found:
        known = found.event_layouts(found.maps("aw_flows")[0])
        unknown = found.event_layouts(found.maps("aw_denials")[0])

    assert known == EVENT_LAYOUTS
    assert known["aw_event"] == of_ctypes(Event)
    assert unknown == {}
    # By their size it is known which of them a record is.
    assert len({layout.size for layout in EVENT_LAYOUTS.values()}) == len(EVENT_LAYOUTS)


def test_settings_without_types(pin_dir):
    """Settings whose layout is not known are an error: a generation might be used twice."""
    size = abi.MAP_LAYOUTS["aw_sandboxes"].value_size
    shape = MapShape(
        name="aw_sandboxes", type=MapType.HASH, key_size=8, value_size=size, max_entries=1
    )
    with closing(BpfMap.create(shape)) as made:
        made.update((1).to_bytes(8, sys.byteorder), bytes(size))
        pin(made.fd, pin_dir / pins.MAPS / "aw_sandboxes")
    with (
        closing(Predecessor(pin_dir)) as found,
        pytest.raises(KernelError, match="expected a map with types"),
    ):
        found.highest_generation()
