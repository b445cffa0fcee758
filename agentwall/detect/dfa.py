# SPDX-License-Identifier: Apache-2.0
"""Compile signatures to the automaton that the kernel runs; ``scan`` runs it here.

Patterns become one nondeterministic automaton (``nfa``), that a deterministic one (``subset``),
that the smallest of its kind (``minimise``); here its states and classes get their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentwall.detect.automaton import DEAD, Automaton
from agentwall.detect.blame import states_due
from agentwall.detect.budget import DEFAULT_BUDGET, Budget, BudgetError
from agentwall.detect.minimise import equivalent_states
from agentwall.detect.nfa import Start, bits, build_nfa
from agentwall.detect.signature import Signature
from agentwall.detect.subset import Dfa, TooManyStatesError, determinise

# How many times the budget there may be before states are merged: what bounds time and memory.
_UNMERGED = 4
# How many signatures a message blames.
_BLAMED = 3


def compile_automaton(
    signatures: Sequence[Signature], budget: Budget = DEFAULT_BUDGET
) -> Automaton:
    """Compile *signatures*; their indices are what the automaton accepts.

    Raises:
        PatternError: A pattern is not in the language, matches the empty string, or has ``$`` and
            is for TCP.
        BudgetError: The automaton needs more than *budget*; the message says for which signatures
            it needs most.
    """
    nfa = build_nfa(signatures)
    problem, sets = "", [0]
    try:
        large = determinise(nfa, budget.states * _UNMERGED)
        small, sets = _merged(large), large.sets
        states, width = small.next.shape
        if states > budget.states:
            problem = f"{budget.states} states, got {states}"
        elif states * width > budget.cells:
            problem = f"{budget.cells} cells, got {states} states of {width} classes of bytes"
    except TooManyStatesError as err:
        problem = f"{budget.states} states, got over {len(err.sets) - 1} before any are merged"
        sets = err.sets
    if problem:
        due = ", ".join(
            f"{count} for {signatures[index].id}"
            for count, index in states_due(nfa, sets)[:_BLAMED]
        )
        raise BudgetError(f"signatures: expected at most {problem}; of these are about {due}")
    return _numbered(small)


@dataclass(frozen=True, slots=True)
class _Small:
    """As :class:`Dfa`, without states or classes that do the same; in no order."""

    classes: npt.NDArray[np.uint8]
    next: npt.NDArray[np.int64]
    outputs: list[tuple[int, int]]
    starts: dict[Start, int]


def _merged(large: Dfa) -> _Small:
    outputs = list(zip(large.accepts, large.ends, strict=True))
    ranks = {output: rank for rank, output in enumerate(dict.fromkeys(outputs))}
    blocks = equivalent_states(large.next, np.array([ranks[output] for output in outputs]))
    # Blocks are numbered in order of their first states: the dead one, state 0, is block 0.
    _, firsts = np.unique(blocks, return_index=True)
    after = blocks[large.next[firsts]]
    # Classes that no state tells apart, now that states are merged, are one, numbered by their
    # first bytes.
    _, columns, inverse = np.unique(after, axis=1, return_index=True, return_inverse=True)
    # Stable: the vectorised quicksort comes out wrong on some emulated processors.
    order = np.argsort(columns, kind="stable")
    renumbered = np.empty(len(order), np.uint8)
    renumbered[order] = np.arange(len(order))
    return _Small(
        classes=renumbered[inverse.ravel()][np.frombuffer(large.classes, np.uint8)],
        next=after[:, columns[order]],
        outputs=[outputs[first] for first in firsts],
        starts={start: int(blocks[state]) for start, state in large.starts.items()},
    )


def _numbered(small: _Small) -> Automaton:
    order = _order(small)
    renumbered = np.empty(len(order), np.int64)
    renumbered[order] = np.arange(len(order))
    table = renumbered[small.next[order]].astype(np.uint16)
    outputs = [small.outputs[state] for state in order]
    sets = {0: 0}
    for accepted, ended in outputs:
        sets.setdefault(accepted, len(sets))
        sets.setdefault(ended, len(sets))
    table.setflags(write=False)
    return Automaton(
        classes=small.classes.tobytes(),
        width=int(table.shape[1]),
        next=table,
        starts={start: int(renumbered[state]) for start, state in small.starts.items()},
        first_accepting=sum(1 for accepted, _ in outputs if not accepted),
        accepts=tuple(tuple(bits(members)) for members in sets),
        accept_of=_indices([sets[accepted] for accepted, _ in outputs]),
        end_of=_indices([sets[ended] for _, ended in outputs]),
    )


def _indices(values: list[int]) -> npt.NDArray[np.uint16]:
    array = np.array(values, np.uint16)
    array.setflags(write=False)
    return array


def _order(small: _Small) -> npt.NDArray[np.int64]:
    """Return the states as they are numbered: the dead one, then breadth first, accepting last."""
    found = dict.fromkeys([DEAD, *small.starts.values()])
    todo = list(found)
    for state in todo:
        for after in dict.fromkeys(small.next[state].tolist()):
            if after not in found:
                found[after] = None
                todo.append(after)
    todo.sort(key=lambda state: small.outputs[state][0] != 0)
    return np.array(todo, np.int64)
