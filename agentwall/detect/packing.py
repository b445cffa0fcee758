# SPDX-License-Identifier: Apache-2.0
"""An automaton as the kernel holds it: small, because most states tell only few bytes apart.

A state that is inside a string knows a quote, a backslash and the rest; one that counts digits
knows digits and the rest. So each state belongs to one of at most 256 groups, and each group has
its own classes of bytes. One step of the kernel, ``aw_step()`` in ``bpf/automaton.bpf.c``::

    state = next[base[state] + classes[group_of[state]][byte]]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentwall.detect.automaton import Automaton
from agentwall.detect.budget import BudgetError
from agentwall.detect.judging import group_bits
from agentwall.detect.packed import HAND_OVER, PackedTable
from agentwall.detect.signature import SignatureSet

GROUPS = 256
"""``AW_GROUPS`` in ``bpf/signatures.h``."""
CELLS = 1 << 20
"""``AW_CELLS``."""

_Partition = npt.NDArray[np.uint8]
# Which of the automaton's classes a state does not tell apart: for each, the lowest of its kind.


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The same automaton, with the same numbers of states."""

    classes: npt.NDArray[np.uint8]
    """Shape (groups, 256)."""
    group_of: npt.NDArray[np.uint8]
    """Shape (states,)."""
    base: npt.NDArray[np.uint32]
    """Shape (states,): index into :attr:`next`."""
    next: npt.NDArray[np.uint16]
    """Shape (cells,)."""


def pack(automaton: Automaton) -> Packed:
    """Return *automaton* packed; equal input makes equal tables.

    Raises:
        BudgetError: It needs more than :data:`CELLS`.
    """
    of_all = _partitions(automaton.next)
    numbers: dict[bytes, int] = {}
    of_state = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in of_all])
    partitions = np.array([np.frombuffer(row, np.uint8) for row in numbers])
    groups, group_of_partition = _grouped(partitions, np.bincount(of_state))
    widths, columns, firsts = _numbered(groups)
    group_of = group_of_partition[of_state]
    sizes = widths[group_of]
    base = np.concatenate(([0], np.cumsum(sizes)))
    if base[-1] > CELLS:
        raise BudgetError(
            f"signatures: expected at most {CELLS} cells, got {base[-1]} "
            f"for {automaton.states} states"
        )
    rows = [
        automaton.next[np.ix_(np.flatnonzero(group_of == group), firsts[group])]
        for group in range(len(groups))
    ]
    table = np.empty(int(base[-1]), np.uint16)
    for group, row in enumerate(rows):
        places = base[:-1][group_of == group]
        table[places[:, None] + np.arange(widths[group])] = row
    of_byte = np.frombuffer(automaton.classes, np.uint8)
    return Packed(
        classes=columns[:, of_byte],
        group_of=group_of.astype(np.uint8),
        base=base[:-1].astype(np.uint32),
        next=table,
    )


def pack_table(automaton: Automaton, signatures: SignatureSet) -> PackedTable:
    """Return *automaton* as the kernel's table holds it.

    Args:
        automaton: Of *signatures*.
        signatures: Their groups become bits.

    Raises:
        BudgetError: More groups than the kernel has bits for, or more cells than room.
    """
    masks = _masks(automaton, signatures)
    packed = pack(automaton)
    return PackedTable(
        states=automaton.states,
        first_accepting=automaton.first_accepting,
        starts=dict(automaton.starts),
        accepts=automaton.accepts,
        masks=masks,
        accept_of=automaton.accept_of.astype(np.uint16, copy=False).tobytes(),
        end_of=automaton.end_of.astype(np.uint16, copy=False).tobytes(),
        base=packed.base.tobytes(),
        next=packed.next.tobytes(),
        group_of=packed.group_of.tobytes(),
        classes=packed.classes.tobytes(),
    )


def _masks(automaton: Automaton, signatures: SignatureSet) -> tuple[tuple[int, int], ...]:
    bits = group_bits(signatures)
    found = []
    for matched in automaton.accepts:
        groups = certain = 0
        for one in (signatures.signatures[number] for number in matched):
            bit = HAND_OVER if one.hand_over else 1 << bits[one.group]
            groups |= bit
            certain |= bit if one.blocks else 0
        found.append((groups, certain))
    return tuple(found)


def _partitions(table: npt.NDArray[np.uint16]) -> _Partition:
    """For each state and class the lowest class that leads to the same state."""
    states, width = table.shape
    order = np.argsort(table, axis=1, kind="stable")
    ranked = np.take_along_axis(table, order, axis=1)
    begins = np.ones((states, width), bool)
    begins[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    # The sort is stable, so the first of a run is the lowest class of its kind.
    at = np.maximum.accumulate(np.where(begins, np.arange(width), 0), axis=1)
    lowest = np.take_along_axis(order, at, axis=1)
    found = np.empty((states, width), np.uint8)
    np.put_along_axis(found, order, lowest.astype(np.uint8), axis=1)
    return found


def _grouped(
    partitions: _Partition, counts: npt.NDArray[np.int64]
) -> tuple[list[_Partition], npt.NDArray[np.int64]]:
    """Return at most :data:`GROUPS` partitions, and for each given one which of them it has.

    The most frequent ones have a group of their own; the last group tells all classes apart, and
    so serves whatever is left.
    """
    order = np.argsort(-counts, kind="stable")
    own = order if len(order) <= GROUPS else order[: GROUPS - 1]
    groups = [partitions[index] for index in own.tolist()]
    group_of = np.full(len(partitions), len(groups))
    group_of[own] = np.arange(len(own))
    if len(own) < len(order):
        groups.append(np.arange(partitions.shape[1], dtype=np.uint8))
    return groups, group_of


def _numbered(
    groups: list[_Partition],
) -> tuple[npt.NDArray[np.int64], _Partition, list[npt.NDArray[np.int64]]]:
    """Return each group's width, its columns by class, and the first class of each column."""
    widths, columns, firsts = [], [], []
    for partition in groups:
        found, _, inverse = np.unique(partition, return_index=True, return_inverse=True)
        widths.append(len(found))
        columns.append(inverse.ravel().astype(np.uint8))
        firsts.append(found.astype(np.int64))
    return np.array(widths), np.array(columns), firsts
