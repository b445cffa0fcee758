# SPDX-License-Identifier: Apache-2.0
"""Slices of one array: which part of ``aw_intervals`` belongs to which generation. Pure."""

from __future__ import annotations


class SliceAllocator:
    """First-fit allocation of contiguous ranges out of ``range(capacity)``."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free: list[tuple[int, int]] = [(0, capacity)] if capacity else []
        # (start, length), sorted, never adjacent to each other.

    @property
    def available(self) -> int:
        """How many indexes are free, contiguous or not."""
        return sum(length for _, length in self._free)

    def allocate(self, length: int) -> int | None:
        """Take *length* contiguous indexes; return the first, or None if there is no such gap."""
        if length == 0:
            return 0
        for i, (start, free) in enumerate(self._free):
            if free >= length:
                rest = [(start + length, free - length)] if free > length else []
                self._free[i : i + 1] = rest
                return start
        return None

    def release(self, start: int, length: int) -> None:
        """Give back exactly what :meth:`allocate` returned for *length*."""
        if length == 0:
            return
        merged: list[tuple[int, int]] = []
        for begin, size in sorted([*self._free, (start, length)]):
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((begin, size))
        self._free = merged
