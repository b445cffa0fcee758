# SPDX-License-Identifier: Apache-2.0
"""One loaded wall for one borrower after the other; each has it as it was loaded.

Loading takes most of a second, and emulated machines several: the verifier is thorough.
"""

from __future__ import annotations

import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from agentwall.flow.record import SandboxKey
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.wall import Wall

_RULE_TABLE = struct.Struct("=4xI")
"""Of ``struct aw_rule_key``: the generation, and the direction in the lowest bit."""
_OF_NOBODY = bytes(8)
"""What has no sandbox yet is counted under this key, which is there from the beginning."""
_idle: dict[frozenset[tuple[str, object]], list[Wall]] = defaultdict(list)


@contextmanager
def lent_wall(**options: object) -> Iterator[Wall]:
    """Lend a wall as ``Wall.load(**options)`` makes it; one that a test failed with goes.

    Args:
        options: Those that change what is loaded: not ``pin_dir`` or ``adopt``.
    """
    idle = _idle[frozenset(options.items())]
    wall = idle.pop() if idle else Wall.load(**options)
    try:
        yield wall
        restore(wall)
    except BaseException:
        wall.close()
        raise
    idle.append(wall)


def restore(wall: Wall) -> None:
    """Take everything from an unpinned *wall* that sandboxes, rules and traffic left in it."""
    maps = wall.maps()
    rules = maps["aw_rules"].entries()
    bound = [
        SandboxKey(int.from_bytes(key, sys.byteorder)) for key, _ in maps["aw_slots"].entries()
    ]
    for sandbox in {*bound, *wall._attachments.sandboxes()}:
        wall.detach(sandbox)
    for generation in {_RULE_TABLE.unpack_from(key)[0] >> 1 for key, _ in rules}:
        wall.forget(generation)
    for name, held in maps.items():
        if held.shape.type in (MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE):
            _empty(held, but=_OF_NOBODY if name == "aw_counters" else None)
    maps["aw_counters"].update(_OF_NOBODY, bytes(maps["aw_counters"].shape.value_size))
    wall.attempts()
    wall.excerpts()


def _empty(held: BpfMap, but: bytes | None) -> None:
    for key in list(held.keys()):
        if key != but:
            held.delete(key)
