# SPDX-License-Identifier: Apache-2.0
"""What the rules say of names, as entries of ``aw_names``; ``maps`` writes them. Pure.

Every generation has a number of its own there, of 15 bits: 0 stands for no names at all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from agentwall.kernel import abi
from agentwall.net.domain import name_key
from agentwall.policy.tables import RuleTables

MAX_SLOT = 0x7FFF
"""``aw_name_key.table`` is the slot shifted by one bit."""
NO_SLOT = 0

NAME_KEY = struct.Struct(f"=IH{abi.NAME_LEN}s")
"""``struct aw_name_key``."""
NAME_RULES = struct.Struct("=8s8s8sHHB3x")
"""``struct aw_name_rules``."""
_TABLE_BITS = 16
_SUFFIX = 1
_NO_SET = bytes(8)


class SlotAllocator:
    """Numbers 1 to :data:`MAX_SLOT`; one that was given back is the last to be used again.

    So a program that still runs on the settings of a sandbox's last policy finds nothing under its
    slot, and not another policy.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._last = NO_SLOT

    def allocate(self) -> int | None:
        """Take a number, or return None if all are taken."""
        for step in range(1, MAX_SLOT + 1):
            slot = (self._last + step - 1) % MAX_SLOT + 1
            if slot not in self._taken:
                self._taken.add(slot)
                self._last = slot
                return slot
        return None

    def release(self, slot: int) -> None:
        """Give back what :meth:`allocate` returned; :data:`NO_SLOT` is passed over."""
        self._taken.discard(slot)


def count_names(tables: RuleTables) -> int:
    """Return how many entries of ``aw_names`` *tables* need."""
    return len(tables.names) + len(tables.search)


def pack_names(slot: int, tables: RuleTables, sets: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the keys and values of ``aw_names``.

    Args:
        slot: 1 to :data:`MAX_SLOT`.
        tables: Whose names and search list.
        sets: ``struct aw_interval_set`` of each of the interval sets.
    """
    table = slot << 1
    keys, values = [], []
    for entry in tables.names:
        text = name_key(entry.name)
        asks = sum(may << depth for depth, may in enumerate(entry.asks))
        keys.append(NAME_KEY.pack(_TABLE_BITS + 8 * len(text), table, text))
        values.append(
            NAME_RULES.pack(
                sets[entry.exact], sets[entry.label], sets[entry.below], len(text), 0, asks
            )
        )
    texts = [name_key(suffix) for suffix in tables.search]
    for text in texts:
        keys.append(NAME_KEY.pack(_TABLE_BITS + 8 * len(text), table | _SUFFIX, text))
        wider = _longest_within(text, texts)
        values.append(NAME_RULES.pack(_NO_SET, _NO_SET, _NO_SET, len(text), wider, 0))
    return b"".join(keys), b"".join(values)


def _longest_within(text: bytes, texts: Sequence[bytes]) -> int:
    """Return the length of the longest other of *texts* that *text* starts with, or 0."""
    return max(
        (len(other) for other in texts if other != text and text.startswith(other)), default=0
    )
