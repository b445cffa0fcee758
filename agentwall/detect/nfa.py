# SPDX-License-Identifier: Apache-2.0
"""The nondeterministic automaton of a signature set: ``pattern`` goes in, ``dfa`` takes it on.

Glushkov's automaton: a state is a byte of a pattern that has just to be read, so there are no empty
steps. Sets of states are ints, bit s for state s. What several patterns begin or end with has its
states once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from agentwall.detect.budget import BudgetError
from agentwall.detect.pattern import Node, PatternError, PatternReader
from agentwall.detect.pattern_tree import ANY_BYTE, Choice, OneByte, Repeat, Tree, Trees
from agentwall.detect.pattern_tree import Sequence as TreeSequence
from agentwall.detect.signature import Side, Signature, Transport

MAX_NFA_STATES = 1 << 20
"""What bounds the memory of a signature set that is far too large."""

Start = tuple[Transport, Side]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nfa:
    """Of *signatures* S: states 0 to S-1 say that a signature has matched, S to 2S-1 that it
    matches where the datagram ends. They read nothing; each other state reads one byte."""

    signatures: int
    reads: tuple[int, ...]
    """Of each state the set of bytes it reads, bit b for byte b; 0 of the first 2S."""
    follows: tuple[int, ...]
    """Of each state the set of states after its byte."""
    starts: dict[Start, int]
    """The set of states at the first byte; 0 where no signature listens."""


def bits(members: int) -> list[int]:
    """Return which bits of *members* are set, in order."""
    raw = members.to_bytes((members.bit_length() + 7) // 8, "little")
    flags = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    found: list[int] = np.flatnonzero(flags).tolist()
    return found


def build_nfa(signatures: Sequence[Signature]) -> Nfa:
    """Build the automaton of *signatures*, which are known by their index from here on.

    Raises:
        PatternError: A pattern is not in the language, matches the empty string, or has ``$`` and
            is for TCP.
        BudgetError: There are more than :data:`MAX_NFA_STATES` states.
    """
    reader = PatternReader(Trees())
    nodes = [_read(reader, signature) for signature in signatures]
    return _Builder(reader.trees, len(signatures)).build(signatures, nodes)


def _read(reader: PatternReader, signature: Signature) -> Node:
    try:
        node = reader.read(signature.pattern)
        if node.is_nullable:
            raise PatternError(0, "expected a pattern that takes a byte, got one that takes none")
        for branch in node.branches:
            if branch.end is not None and signature.transport is Transport.TCP:
                raise PatternError(branch.end, "expected no $ in a stream, which has no end")
    except PatternError as err:
        raise PatternError(err.position, f"{err.message} ({signature.id})") from err
    return node


@dataclass(slots=True, eq=False)
class _Stem:
    """What sequences begin with: a tree of items, its leaves are states."""

    states: int = 0
    stems: dict[Tree, _Stem] = field(default_factory=dict)

    def add(self, items: Iterable[Tree], state: int) -> None:
        stem = self
        for item in items:
            stem = stem.stems.setdefault(item, _Stem())
        stem.states |= 1 << state


class _Builder:
    """States are made from the last byte to the first: each is its bytes and what follows."""

    def __init__(self, trees: Trees, signatures: int) -> None:
        self._trees = trees
        self._signatures = signatures
        self._reads: list[int] = [0] * (2 * signatures)
        self._follows: list[int] = [0] * (2 * signatures)
        self._byte_states: dict[tuple[int, int], int] = {}
        self._entered: dict[tuple[Tree, int], int] = {}
        # Where a loop begins: a state that is replaced by those in it at the end.
        self._loops: dict[int, int] = {}

    def build(self, signatures: Sequence[Signature], nodes: Sequence[Node]) -> Nfa:
        starts: dict[Start, int] = {}
        for transport in Transport:
            for side in Side:
                stem = _Stem()
                for index, signature in enumerate(signatures):
                    if signature.transport is transport and side in signature.sides:
                        self._add(stem, index, nodes[index])
                starts[transport, side] = self._enter_stem(stem)
        return self._finished(starts)

    def _add(self, stem: _Stem, index: int, node: Node) -> None:
        anywhere = self._trees.repeat(self._trees.one_byte(ANY_BYTE), 0, None)
        for branch in node.branches:
            before = () if branch.is_anchored else (anywhere,)
            if branch.end is None:
                tree = self._trees.shortest(branch.tree)
                stem.add((*before, *_items(tree)), index)
            else:
                stem.add((*before, *_items(branch.tree)), self._signatures + index)

    def _enter_stem(self, root: _Stem) -> int:
        """Return the states that *root* begins with. Not recursive: literals can be long."""
        order = [root]
        for stem in order:
            order.extend(stem.stems.values())
        entered: dict[_Stem, int] = {}
        for stem in reversed(order):
            states = stem.states
            for item, after in stem.stems.items():
                states |= self._enter(item, entered[after])
            entered[stem] = states
        return entered[root]

    def _enter(self, tree: Tree, after: int) -> int:
        """Return the states that *tree* begins with when the states *after* come next."""
        if isinstance(tree, OneByte):
            # A byte of no bytes never matches, and what only leads there does not either.
            return 1 << self._byte_state(tree.members, after) if tree.members and after else 0
        key = (tree, after)
        found = self._entered.get(key)
        if found is None:
            found = self._entered[key] = self._enter_new(tree, after)
        return found

    def _enter_new(self, tree: Tree, after: int) -> int:
        match tree:
            case TreeSequence():
                for item in reversed(tree.items):
                    after = self._enter(item, after)
                return after
            case Choice():
                states = 0
                for option in tree.options:
                    states |= self._enter(option, after)
                return states
            case Repeat():
                return self._enter_repeat(tree, after)
            case OneByte():
                return self._enter(tree, after)

    def _enter_repeat(self, repeat: Repeat, after: int) -> int:
        if repeat.most is None:
            loop = self._new_state(0, 0)
            self._loops[loop] = after
            self._loops[loop] |= self._enter(repeat.tree, 1 << loop)
            states = 1 << loop
        else:
            states = after
            for _ in range(repeat.most - repeat.least):
                states = self._enter(repeat.tree, states) | after
        for _ in range(repeat.least):
            states = self._enter(repeat.tree, states)
        return states

    def _byte_state(self, members: int, after: int) -> int:
        key = (members, after)
        state = self._byte_states.get(key)
        if state is None:
            state = self._byte_states[key] = self._new_state(members, after)
        return state

    def _new_state(self, reads: int, follows: int) -> int:
        if len(self._reads) == MAX_NFA_STATES:
            raise BudgetError(f"expected signatures of at most {MAX_NFA_STATES} bytes in all")
        self._reads.append(reads)
        self._follows.append(follows)
        return len(self._reads) - 1

    def _finished(self, starts: dict[Start, int]) -> Nfa:
        """Replace loops by the states in them, and leave no gaps where they were."""
        closed = _Closures(self._loops)
        kept = [state for state in range(len(self._reads)) if state not in self._loops]
        renumbered = {state: index for index, state in enumerate(kept)}
        sets: dict[int, int] = {}

        def moved(states: int) -> int:
            if states not in sets:
                sets[states] = sum(1 << renumbered[state] for state in closed.of(states))
            return sets[states]

        return Nfa(
            signatures=self._signatures,
            reads=tuple(self._reads[state] for state in kept),
            follows=tuple(moved(self._follows[state]) for state in kept),
            starts={start: moved(states) for start, states in starts.items()},
        )


class _Closures:
    """Which states that read a loop leads to."""

    def __init__(self, loops: dict[int, int]) -> None:
        self._loops = loops
        self._steps = {loop: bits(states) for loop, states in loops.items()}

    def of(self, states: int) -> set[int]:
        found = set(bits(states))
        todo = [state for state in found if state in self._loops]
        while todo:
            for state in self._steps[todo.pop()]:
                if state not in found:
                    found.add(state)
                    if state in self._loops:
                        todo.append(state)
        return {state for state in found if state not in self._loops}


def _items(tree: Tree) -> tuple[Tree, ...]:
    return tree.items if isinstance(tree, TreeSequence) else (tree,)
