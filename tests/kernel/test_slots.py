# SPDX-License-Identifier: Apache-2.0
"""What a program may be reading stays as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.errors import KernelError
from agentwall.flow.record import SandboxKey
from agentwall.kernel import abi
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.slots import Slots

pytestmark = pytest.mark.kernel

SANDBOXES = 2
SIZE = abi.MAP_LAYOUTS["aw_sandboxes"].value_size


class Ground:
    """Both maps, for two sandboxes, and what a program that never ends may read."""

    def __init__(self, slots: BpfMap, sandboxes: BpfMap) -> None:
        self.maps = slots, sandboxes
        self.slots = Slots(slots, sandboxes, self.wait)
        self.waits = 0
        self.readable: dict[bytes, bytes] = {}

    def wait(self) -> None:
        """No program holds any more what is not there now."""
        self.waits += 1
        self.readable.clear()
        self.look()

    def look(self) -> None:
        """Have a program find whatever is there."""
        self.readable |= self.found().values()

    def found(self) -> dict[bytes, tuple[bytes, bytes]]:
        """Return the slot and the settings of each sandbox, by key."""
        slots, sandboxes = self.maps
        return {key: (slot, sandboxes.lookup(slot) or b"") for key, slot in slots.entries()}

    def changed(self) -> dict[bytes, bytes]:
        """Return what of the readable is not as it was."""
        sandboxes = self.maps[1]
        return {s: held for s, held in self.readable.items() if sandboxes.lookup(s) != held}


@contextmanager
def ground() -> Iterator[Ground]:
    """Maps of the kernel's own, too small to be used for long without a wait."""
    slots = MapShape(
        name="aw_slots", type=MapType.HASH, key_size=8, value_size=4, max_entries=SANDBOXES
    )
    values = MapShape(
        name="aw_sandboxes",
        type=MapType.ARRAY,
        key_size=4,
        value_size=SIZE,
        max_entries=2 * SANDBOXES,
    )
    with closing(BpfMap.create(slots)) as one, closing(BpfMap.create(values)) as other:
        yield Ground(one, other)


def settings_of(number: int) -> bytes:
    return number.to_bytes(8, sys.byteorder) * (SIZE // 8)


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "remove", "check"]), st.integers(1, SANDBOXES)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_nothing_changes_where_it_is_read(steps):
    """Whatever is written and removed, a slot that a program can hold keeps what it had."""
    expected: dict[bytes, bytes] = {}
    with ground() as here:
        for number, (step, sandbox) in enumerate(steps, 1):
            key = sandbox.to_bytes(8, sys.byteorder)
            if step == "write":
                expected[key] = settings_of(number)
                here.slots.write(SandboxKey(sandbox), expected[key])
            elif step == "remove":
                expected.pop(key, None)
                here.slots.remove(SandboxKey(sandbox))
            else:
                assert here.slots.check(SandboxKey(sandbox))
            here.look()

            assert here.changed() == {}
            assert {key: held for key, (_, held) in here.found().items()} == expected
            assert here.slots.is_there(SandboxKey(sandbox)) == (key in expected)


def test_waits_are_few():
    """There is one wait for as many writes as there are sandboxes, however often one is written."""
    with ground() as here:
        for number in range(100):
            here.slots.write(SandboxKey(1), settings_of(number))

        assert here.waits < 100 / SANDBOXES


def test_drift():
    """Settings that were changed, moved or removed are written again, and never in place."""
    with ground() as here:
        slots, sandboxes = here.maps
        key = (1).to_bytes(8, sys.byteorder)
        here.slots.write(SandboxKey(1), settings_of(1))
        first = slots.lookup(key)
        sandboxes.update(first, settings_of(2))
        changed = here.slots.check(SandboxKey(1)), slots.lookup(key)
        slots.update(key, first)
        moved = here.slots.check(SandboxKey(1))
        slots.delete(key)
        removed = here.slots.check(SandboxKey(1))

        assert (changed[0], moved, removed) == (False, False, False)
        assert changed[1] != first
        assert here.found()[key][1] == settings_of(1)
        assert here.slots.check(SandboxKey(1))


def test_no_room():
    """One sandbox more than there is room for is refused, and the others go on."""
    with ground() as here:
        for number in range(1, SANDBOXES + 1):
            here.slots.write(SandboxKey(number), settings_of(number))
        for _ in range(4 * SANDBOXES):
            with pytest.raises(KernelError, match="map aw_slots: update"):
                here.slots.write(SandboxKey(SANDBOXES + 1), settings_of(9))
        here.slots.write(SandboxKey(1), settings_of(8))

        assert sorted(held for _, held in here.found().values()) == [settings_of(2), settings_of(8)]


def test_more_sandboxes_than_slots():
    """Where every slot is in use there is nothing to wait for."""
    with ground() as here:
        slots, sandboxes = here.maps
        shape = MapShape(name="wide", type=MapType.HASH, key_size=8, value_size=4, max_entries=99)
        with closing(BpfMap.create(shape)) as wide:
            crowded = Slots(wide, sandboxes, here.wait)
            for number in range(1, 2 * SANDBOXES + 1):
                crowded.write(SandboxKey(number), settings_of(number))
            with pytest.raises(KernelError, match="map wide: no room for another sandbox"):
                crowded.write(SandboxKey(77), settings_of(77))

        assert (here.waits, slots.entries()) == (0, [])
