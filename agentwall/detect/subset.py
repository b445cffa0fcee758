# SPDX-License-Identifier: Apache-2.0
"""Subset construction: of ``nfa``'s automaton a deterministic one, not yet the smallest.

Bytes that no pattern tells apart are one class from the outset, and in each state the classes that
lead to the same states are looked at together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentwall.detect.nfa import Nfa, Start, bits


class TooManyStatesError(Exception):
    """There are more states than allowed."""

    def __init__(self, sets: list[int]) -> None:
        super().__init__(f"more than {len(sets) - 1} states")
        self.sets = sets
        """Those found so far, as :attr:`Dfa.sets`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dfa:
    """A complete deterministic automaton; state 0 is the dead one."""

    classes: bytes
    """Of each byte its class."""
    next: npt.NDArray[np.int32]
    """Shape (states, classes)."""
    accepts: tuple[int, ...]
    """Of each state the set of signatures that match on the way into it, bit i for i."""
    ends: tuple[int, ...]
    """Of each state the set of signatures that match if a datagram ends there."""
    starts: dict[Start, int]
    sets: list[int]
    """Of each state the set of states of the nondeterministic automaton that it stands for."""


# Classes of bytes (a set, bit c) and the states (a set) they lead to; the sets of classes of a
# state do not overlap, and no classes lead nowhere.
_Regions = list[tuple[int, int]]


def determinise(nfa: Nfa, most_states: int) -> Dfa:
    """Return the deterministic automaton of *nfa*, its states in order of their discovery.

    Raises:
        TooManyStatesError: There are more than *most_states*.
    """
    return _Construction(nfa, most_states).run()


def byte_classes(sets: Iterable[int]) -> tuple[int, ...]:
    """Return the coarsest partition of all bytes of which each of *sets* is a union.

    Returns:
        Sets of bytes, bit b for byte b, in order of their lowest.
    """
    parts = [(1 << 256) - 1]
    for members in sets:
        parts = [part for whole in parts for part in (whole & members, whole & ~members) if part]
    return tuple(sorted(parts, key=lambda part: part & -part))


class _Construction:
    def __init__(self, nfa: Nfa, most_states: int) -> None:
        self._nfa = nfa
        self._most_states = most_states
        sets = dict.fromkeys(nfa.reads)
        self._parts = byte_classes(sets)
        ranks = {members: self._class_set(members) for members in sets}
        self._reads = [ranks[members] for members in nfa.reads]
        self._states: dict[int, int] = {0: 0}
        self._sets = [0]
        self._columns: dict[int, npt.NDArray[np.intp]] = {}
        # What a pattern that matches anywhere begins with is in every state. It is looked at once.
        self._bases = [(base, self._regions(bits(base), [])) for base in self._find_bases()]

    def run(self) -> Dfa:
        starts = {start: self._state(states) for start, states in self._nfa.starts.items()}
        rows: list[npt.NDArray[np.int32]] = []
        width = len(self._parts)
        for states in self._sets:
            row = np.zeros(width, np.int32)
            for classes, after in self._successors(states):
                row[self._column(classes)] = self._state(after)
            rows.append(row)
        matched = (1 << self._nfa.signatures) - 1
        table = bytearray(256)
        for index, part in enumerate(self._parts):
            for byte in bits(part):
                table[byte] = index
        return Dfa(
            classes=bytes(table),
            next=np.array(rows, np.int32),
            accepts=tuple(states & matched for states in self._sets),
            ends=tuple(states >> self._nfa.signatures & matched for states in self._sets),
            starts=starts,
            sets=self._sets,
        )

    def _class_set(self, members: int) -> int:
        return sum(1 << index for index, part in enumerate(self._parts) if part & members)

    def _find_bases(self) -> list[int]:
        all_classes = (1 << len(self._parts)) - 1
        found: dict[int, None] = {}
        for start in self._nfa.starts.values():
            for state in bits(start):
                follows = self._nfa.follows[state]
                if self._reads[state] == all_classes and follows >> state & 1:
                    found[follows] = None
        return list(found)

    def _state(self, states: int) -> int:
        known = self._states.get(states)
        if known is None:
            known = self._states[states] = len(self._sets)
            self._sets.append(states)
            if known >= self._most_states:
                raise TooManyStatesError(self._sets)
        return known

    def _column(self, classes: int) -> npt.NDArray[np.intp]:
        found = self._columns.get(classes)
        if found is None:
            found = self._columns[classes] = np.array(bits(classes), np.intp)
        return found

    def _successors(self, states: int) -> _Regions:
        for base, regions in self._bases:
            if states & base == base:
                return self._regions(bits(states & ~base), regions)
        return self._regions(bits(states), [])

    def _regions(self, states: list[int], regions: _Regions) -> _Regions:
        """Return *regions*, refined and extended by what *states* read."""
        by_bytes: dict[int, int] = {}
        for state in states:
            classes = self._reads[state]
            by_bytes[classes] = by_bytes.get(classes, 0) | self._nfa.follows[state]
        for classes, after in by_bytes.items():
            left = classes
            refined: _Regions = []
            for region, known in regions:
                both = region & left
                if not both:
                    refined.append((region, known))
                    continue
                left ^= both
                refined.append((both, known | after))
                if both != region:
                    refined.append((region ^ both, known))
            if left:
                refined.append((left, after))
            regions = refined
        merged: dict[int, int] = {}
        for region, after in regions:
            merged[after] = merged.get(after, 0) | region
        merged.pop(0, None)
        return [(region, after) for after, region in merged.items()]
