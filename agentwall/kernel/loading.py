# SPDX-License-Identifier: Apache-2.0
"""The object before it is loaded, and what is expected of it afterwards."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from agentwall.errors import KernelError
from agentwall.flow.record import SandboxKey
from agentwall.kernel import abi, features
from agentwall.kernel.belt import new_mark
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.capacity import Capacity
from agentwall.kernel.objects import BpfObject

OBJECT_PATH = Path(__file__).parents[1] / "_bpf" / "agentwall.bpf.o"
"""The shipped object."""


def configure(
    bpf: BpfObject, capacity: Capacity, test_sandbox: SandboxKey | None, event_budget: int
) -> None:
    """Set constants and sizes: see :meth:`agentwall.kernel.wall.Wall.load`.

    Raises:
        KernelError: The object lacks one, or was made for tests.
    """
    if bpf.constant("aw_test_sandbox") != 0:
        raise KernelError(errno.EINVAL, f"{bpf.path}: expected aw_test_sandbox 0: a test object")
    bpf.set_constant("aw_test_sandbox", test_sandbox or 0)
    bpf.set_constant("aw_have_set_retval", int(features.has_set_retval()))
    bpf.set_constant("aw_belt_mark", new_mark())
    # Unknown to the sandbox, which could else look for names of one hash.
    bpf.set_constant("aw_hash_seed", int.from_bytes(os.urandom(8), sys.byteorder))
    if bpf.has_constant("aw_event_budget"):
        bpf.set_constant("aw_event_budget", event_budget)
    for name, entries in capacity.entries().items():
        bpf.set_max_entries(name, entries)


def checked_maps(bpf: BpfObject) -> dict[str, BpfMap]:
    """Return the maps of a loaded object by name.

    Raises:
        KernelError: One is missing, or is not as ``bpf/abi.h`` has it.
    """
    maps = bpf.maps()
    for name, layout in abi.MAP_LAYOUTS.items():
        shape = maps[name].shape if name in maps else None
        found = abi.MapLayout(shape.key_size, shape.value_size) if shape else None
        if found != layout:
            raise KernelError(
                errno.EINVAL,
                f"{bpf.path}: map {name}: expected {layout}, got {found}: rebuild the object",
            )
    for name in (*abi.RINGS, abi.EXCERPTS):
        if name not in maps:
            raise KernelError(errno.ENOENT, f"{bpf.path}: expected a ring buffer {name}")
    return maps
