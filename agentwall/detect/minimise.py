# SPDX-License-Identifier: Apache-2.0
"""The smallest automaton that does the same: ``subset`` makes the large one."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.int64]


def equivalent_states(after: npt.NDArray[np.int32], outputs: npt.NDArray[np.int64]) -> Block:
    """Say which states can be told apart by no text (Moore's partition refinement).

    Args:
        after: Shape (states, classes): the state that each class of bytes leads to.
        outputs: Shape (states,): what a state says of itself; whatever differs is told apart.

    Returns:
        Shape (states,): the number of the block each is in, from 0 in order of the first of each.
    """
    pending = _Pending(after)
    for seed in itertools.count():
        blocks = _refined(_numbered(outputs), after, pending, _weights(after.shape[1], seed))
        # Rows are compared by weighted sums: once in a great while two that differ look alike.
        _, firsts = np.unique(blocks, return_index=True)
        is_sound = (outputs == outputs[firsts][blocks]).all()
        if is_sound and (blocks[after] == blocks[after[firsts]][blocks]).all():
            break
    return blocks


def _weights(classes: int, seed: int) -> npt.NDArray[np.uint64]:
    # What they are makes no difference to the result.
    draw = np.random.default_rng(seed)
    return draw.integers(1 << 63, size=classes + 1, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _refined(
    blocks: Block,
    after: npt.NDArray[np.int32],
    pending: _Pending,
    weights: npt.NDArray[np.uint64],
) -> Block:
    changed = np.arange(len(blocks))
    while len(changed):
        split = _split(blocks, after, pending.of(changed), weights)
        changed = np.flatnonzero(split != blocks)
        blocks = split
    return _numbered(blocks)


class _Pending:
    """Which states have to be looked at again: those one step before a changed one."""

    def __init__(self, after: npt.NDArray[np.int32]) -> None:
        states, classes = after.shape
        targets = after.ravel()
        order = np.argsort(targets, kind="stable")
        self._before = order // max(classes, 1)
        self._bounds = np.searchsorted(targets[order], np.arange(states + 1))

    def of(self, changed: Block) -> Block:
        begins, ends = self._bounds[changed], self._bounds[changed + 1]
        sizes = ends - begins
        total = int(sizes.sum())
        if total == 0:
            return np.empty(0, np.int64)
        # The ranges begin..end of all changed states, one after the other.
        skipped = np.repeat(begins - np.concatenate(([0], np.cumsum(sizes)[:-1])), sizes)
        return np.unique(self._before[skipped + np.arange(total)])


def _split(
    blocks: Block,
    after: npt.NDArray[np.int32],
    rows: Block,
    weights: npt.NDArray[np.uint64],
) -> Block:
    """Return *blocks* where states of *rows* that now lead elsewhere have blocks of their own.

    Of each block the largest part keeps its number, so that few states change; the others get new
    ones.
    """
    if not len(rows):
        return blocks
    # All states of the blocks concerned: parts are compared as wholes.
    concerned = np.zeros(int(blocks.max()) + 1, np.bool_)
    concerned[blocks[rows]] = True
    members = np.flatnonzero(concerned[blocks])
    numbers = blocks.astype(np.uint64)
    sums = numbers[members] * weights[-1]
    for column, weight in zip(after.T, weights[:-1], strict=True):
        sums += numbers[column[members]] * weight
    _, firsts, part, sizes = np.unique(
        sums, return_index=True, return_inverse=True, return_counts=True
    )
    owners = blocks[members[firsts]]
    largest = np.lexsort((firsts, -sizes, owners))
    is_kept = np.zeros(len(firsts), np.bool_)
    is_kept[largest[np.concatenate(([True], np.diff(owners[largest]) != 0))]] = True
    owners[~is_kept] = int(blocks.max()) + 1 + np.arange(int((~is_kept).sum()))
    split = blocks.copy()
    split[members] = owners[part.ravel()]
    return split


def _numbered(values: npt.NDArray[np.int64]) -> Block:
    _, firsts, inverse = np.unique(values, return_index=True, return_inverse=True)
    ranks = np.empty(len(firsts), np.int64)
    ranks[np.argsort(firsts, kind="stable")] = np.arange(len(firsts))
    return ranks[inverse.ravel()]
