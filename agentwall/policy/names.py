# SPDX-License-Identifier: Apache-2.0
"""Rules on names to the name table, and look-ups in it as the kernel makes them.

The kernel takes the longest entry that is the name in question or one above it, and looks no
further. So each entry holds what the entries above it say as well, for the name itself, for names
one label below it and for names further below. ``*.x`` and ``**.x`` speak from the entry of x on,
and a name that only they match finds it, or a longer entry that has inherited from it: no other
names than those of patterns need an entry, and those that search lists make of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from agentwall.net.domain import MAX_NAME, NameDepth, name_key
from agentwall.policy.intervals import IntervalSets
from agentwall.policy.model import Rule, Section
from agentwall.policy.tables import Interval, RuleTables

_EXACT, _LABEL, _BELOW = range(3)
_PLACE = {NameDepth.EXACT: _EXACT, NameDepth.LABEL: _LABEL, NameDepth.BELOW: _BELOW}
_Asks = tuple[bool, bool, bool]


class NameRow(NamedTuple):
    """A :class:`~agentwall.policy.tables.NameEntry` before its interval sets are numbered."""

    name: str
    sets: tuple[int, int, int]
    """Ids of :class:`~agentwall.policy.intervals.IntervalSets`, by depth."""
    asks: _Asks


class _Above(NamedTuple):
    """An entry on the stack: what it says of names below it."""

    key: bytes
    label: int
    below: int
    asks_label: bool
    asks_below: bool


_NOTHING = _Above(b"", IntervalSets.EMPTY, IntervalSets.EMPTY, False, False)


def flatten_names(
    rules: Sequence[Rule], search: Collection[str], sets: IntervalSets
) -> Iterator[NameRow]:
    """Yield each entry the table needs, sorted by name_key: near-linear in patterns."""
    own = _own_sets(rules, sets)
    asks = _own_asks(rules, search)
    patterns = own[_EXACT].keys() | own[_LABEL].keys() | own[_BELOW].keys()
    join, join_all, none = sets.join, sets.join_all, ()
    stack = [_NOTHING]
    for key, name in sorted((name_key(name), name) for name in patterns.union(*asks)):
        while not key.startswith(stack[-1].key):
            stack.pop()
        above = stack[-1]
        is_next = key.count(b".", len(above.key)) == 1 and above is not _NOTHING
        inherited = above.label if is_next else above.below
        exact = join(join_all(own[_EXACT].get(name, none)), inherited)
        below = join(join_all(own[_BELOW].get(name, none)), above.below)
        label = join(join_all(own[_LABEL].get(name, none)), below)
        asks_below = name in asks[_BELOW] or above.asks_below
        asks_label = name in asks[_LABEL] or asks_below
        asks_inherited = above.asks_label if is_next else above.asks_below
        asks_exact = name in asks[_EXACT] or asks_inherited
        # A name that is there for a search list alone may say no more than the entry above it.
        if name not in patterns and (asks_exact, asks_label, asks_below) == (
            asks_inherited,
            above.asks_below,
            above.asks_below,
        ):
            continue
        found = (exact, label, below)
        wanted = (asks_exact, asks_label, asks_below)
        yield NameRow(name, found, _undenied(found, wanted, sets) if any(wanted) else wanted)
        stack.append(_Above(key, label, below, asks_label, asks_below))


def _own_sets(
    rules: Sequence[Rule], sets: IntervalSets
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return by depth: name -> ids of the sets in which its own patterns speak."""
    own: tuple[dict[str, tuple[int, ...]], ...] = ({}, {}, {})
    for index, rule in enumerate(rules):
        if not rule.patterns:
            continue
        alone = (sets.of_rule(index),)
        for found in rule.patterns:
            names = own[_PLACE[found.pattern.depth]]
            name = found.pattern.name
            # One tuple for all names of a rule: a list has 100 000 of them.
            if (there := names.get(name)) is None:
                names[name] = alone
            elif alone[0] not in there:
                names[name] = there + alone
    return own[0], own[1], own[2]


def _own_asks(
    rules: Sequence[Rule], search: Collection[str]
) -> tuple[set[str], set[str], set[str]]:
    """Return by depth: the names that a search list makes of those that are permitted.

    For a short name X a resolver asks X under one suffix after the other, until one answers. Where
    X is permitted under one of them, asking under the others must not fail.
    """
    asks: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    if len(search) < 2:
        return asks
    for rule in rules:
        if rule.section is Section.ALLOW:
            for found in rule.patterns:
                place = _PLACE[found.pattern.depth]
                asks[place].update(_under_suffixes(found.pattern.name, place, search))
    return asks


def _under_suffixes(name: str, place: int, search: Collection[str]) -> Iterator[str]:
    for suffix in search:
        if name == suffix or name.endswith("." + suffix):
            short = name[: len(name) - len(suffix)]
        elif place == _BELOW and suffix.endswith("." + name):
            short = ""
        else:
            continue
        if short or place != _EXACT:
            for other in search:
                if other != suffix and len(short + other) <= MAX_NAME:
                    yield short + other


def _undenied(found: tuple[int, int, int], asks: _Asks, sets: IntervalSets) -> _Asks:
    """Return *asks* without the depths at which names are denied outright."""
    exact, label, below = (
        ask and (id_ == sets.EMPTY or permits(sets.intervals(id_)))
        for ask, id_ in zip(asks, found, strict=True)
    )
    return exact, label, below


def permits(intervals: Sequence[Interval]) -> bool:
    """Say whether some port is allowed: ``AW_SET_PERMITS``."""
    return any(interval.allow for interval in intervals)


class FoundName(NamedTuple):
    """What the table says of one name."""

    intervals: tuple[Interval, ...]
    asks: bool


def find_name(tables: RuleTables, name: str) -> FoundName:
    """Look *name* up as the kernel does: the longest entry that is the name or stands above it."""
    labels = name.split(".")
    for left in range(len(labels)):
        above = ".".join(labels[left:])
        at = bisect_left(tables.names, name_key(above), key=lambda e: name_key(e.name))
        if at < len(tables.names) and tables.names[at].name == above:
            entry = tables.names[at]
            depth = min(left, _BELOW)
            found = (entry.exact, entry.label, entry.below)[depth]
            return FoundName(tables.interval_sets[found], entry.asks[depth])
    return FoundName((), False)


def may_ask(tables: RuleTables, name: str, *, ask_any: bool) -> bool:
    """Say whether a question for *name* passes, as the kernel decides it.

    Args:
        tables: Compiled policy.
        name: In the one form of :mod:`agentwall.net.domain`.
        ask_any: The policy says ``names: any``.
    """
    found = find_name(tables, name)
    if permits(found.intervals):
        return True
    if found.intervals:
        return False  # denied outright
    if found.asks or ask_any:
        return True
    # Suffixes of one name end one another, so from the longest on each leads to the next.
    for suffix in sorted(tables.search, key=len, reverse=True):
        if name.endswith("." + suffix):
            short = name.removesuffix("." + suffix)
            if permits(find_name(tables, short).intervals):
                return True
    return False
