# SPDX-License-Identifier: Apache-2.0
"""Waiting until no program run can hold any more what was taken out of a map."""

from __future__ import annotations

import contextlib
import sys

from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.libbpf import MapType

_INNER = MapShape(name="aw_inner", type=MapType.ARRAY, key_size=4, value_size=4, max_entries=1)
_OUTER = MapShape(
    name="aw_outer", type=MapType.ARRAY_OF_MAPS, key_size=4, value_size=4, max_entries=1
)


def wait_for_programs() -> None:
    """Return when every program run that had begun has ended; in some 10 to 50 ms.

    Linux does so for each update of a map of maps: ``maybe_wait_bpf_programs()`` in
    kernel/bpf/syscall.c.

    Raises:
        KernelError: This kernel refuses such a map.
    """
    with (
        contextlib.closing(BpfMap.create(_INNER)) as inner,
        contextlib.closing(BpfMap.create(_OUTER, inner=inner)) as outer,
    ):
        outer.update(bytes(4), inner.fd.to_bytes(4, sys.byteorder))
