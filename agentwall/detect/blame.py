# SPDX-License-Identifier: Apache-2.0
"""Which signatures an automaton is large for: what ``dfa`` says when it is over the budget.

What a signature needs on its own says little: those that multiply are often small. But if a
signature is left out, the sets of states that ``subset`` finds are the same less that signature's
states; where two differ in no others they are one.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentwall.detect.nfa import Nfa, bits

# Sets of states that are looked at, for all signatures together: a few seconds.
_LOOKS = 1 << 22


def states_due(nfa: Nfa, sets: Sequence[int]) -> list[tuple[int, int]]:
    """Say how many of *sets* there are for the sake of each signature.

    Args:
        nfa: Of all signatures.
        sets: The states of the deterministic automaton, as sets of those of *nfa*; or only the
            first ones.

    Returns:
        Pairs of how many would not be there without a signature, and its index; most first.
        Where there are many sets and signatures, that is an estimate from the first sets.
    """
    looked_at = sets[: max(1, _LOOKS // max(1, nfa.signatures))]
    known = set(looked_at)
    due = []
    for index, own in enumerate(_own_states(nfa)):
        touched = [states for states in looked_at if states & own]
        left = {states ^ states & own for states in touched} - known
        due.append(((len(touched) - len(left)) * len(sets) // len(looked_at), index))
    return sorted(due, key=lambda pair: (-pair[0], pair[1]))


def _own_states(nfa: Nfa) -> list[int]:
    """Return of each signature the set of states that lead to it and to no other."""
    owners = [0] * len(nfa.reads)
    for index in range(nfa.signatures):
        owners[index] = owners[index + nfa.signatures] = 1 << index
    followers = {follows: bits(follows) for follows in nfa.follows}
    has_changed = True
    while has_changed:
        of_sets = dict.fromkeys(followers, 0)
        for follows, states in followers.items():
            for state in states:
                of_sets[follows] |= owners[state]
        has_changed = False
        for state, follows in enumerate(nfa.follows):
            if owners[state] | of_sets[follows] != owners[state]:
                owners[state] |= of_sets[follows]
                has_changed = True
    own = [0] * nfa.signatures
    for state, signatures in enumerate(owners):
        if signatures.bit_count() == 1:
            own[signatures.bit_length() - 1] |= 1 << state
    return own
