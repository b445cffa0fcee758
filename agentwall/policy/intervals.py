# SPDX-License-Identifier: Apache-2.0
"""Sets of port intervals, interned: what the addresses of one prefix have in common."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter

from agentwall.policy.model import Rule, Section
from agentwall.policy.tables import Interval

Intervals = tuple[Interval, ...]

_FIRST = attrgetter("first")
_LAST = attrgetter("last")


class IntervalSets:
    """Makes and joins interval sets, each kept once and known by a small id.

    Joining is cached by the two ids: a list of 100 000 prefixes joins as often as a single one.
    """

    EMPTY = 0

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._sets: list[Intervals] = [()]
        self._kept: dict[Interval, Interval] = {}
        self._ids: dict[tuple[int, ...], int] = {(): self.EMPTY}
        self._of_rule: dict[int, int] = {}
        self._joined: dict[tuple[int, int], int] = {}

    def intervals(self, found: int) -> Intervals:
        """Return the set with id *found*: sorted, disjoint, adjacent equals merged."""
        return self._sets[found]

    def of_rule(self, index: int) -> int:
        """Return the id of the set in which rule *index* alone speaks."""
        if index not in self._of_rule:
            rule = self._rules[index]
            allow = rule.section is not Section.DENY
            cover: list[Interval] = []
            for r in sorted(rule.ports):
                # Ranges of one rule may overlap.
                first = max(r.first, cover[-1].last + 1) if cover else r.first
                if first <= r.last:
                    _append(cover, Interval(first, r.last, index, allow))
            self._of_rule[index] = self._intern([self._kept.setdefault(i, i) for i in cover])
        return self._of_rule[index]

    def join(self, one: int, other: int) -> int:
        """Return the id of the set in which both speak, the lower rule index where they meet."""
        if one == other or other == self.EMPTY:
            return one
        if one == self.EMPTY:
            return other
        pair = (one, other) if one < other else (other, one)
        if pair not in self._joined:
            small, large = sorted((self._sets[one], self._sets[other]), key=len)
            cover = list(large)
            for interval in small:
                _lay_on(cover, interval, self._kept)
            self._joined[pair] = self._intern(cover)
        return self._joined[pair]

    def join_all(self, ids: Sequence[int]) -> int:
        """Return the id of the set in which all of *ids* speak.

        Joined in pairs, pairs of pairs and so on: one after the other, a prefix that thousands of
        rules name would keep thousands of ever longer sets.
        """
        level = list(ids)
        while len(level) > 1:
            pairs = itertools.zip_longest(level[::2], level[1::2], fillvalue=self.EMPTY)
            level = [self.join(one, other) for one, other in pairs]
        return level[0] if level else self.EMPTY

    def _intern(self, cover: Sequence[Interval]) -> int:
        # Equal intervals are one object, kept as long as this, so that identities name a set.
        # Hashing the values of long sets again and again would take most of the time.
        found = self._ids.setdefault(tuple(map(id, cover)), len(self._sets))
        if found == len(self._sets):
            self._sets.append(tuple(cover))
        return found


def _append(cover: list[Interval], new: Interval) -> None:
    if cover and cover[-1].last + 1 == new.first and cover[-1].rule == new.rule:
        new = Interval(cover.pop().first, new.last, new.rule, new.allow)
    cover.append(new)


def _lay_on(cover: list[Interval], new: Interval, kept: dict[Interval, Interval]) -> None:
    """Join *new* into *cover*, touching only the intervals it overlaps or adjoins."""
    begin = bisect_left(cover, new.first - 1, key=_LAST)
    end = bisect_right(cover, new.last + 1, key=_FIRST)
    near = cover[begin:end]
    cuts = sorted({cut for i in (*near, new) for cut in (i.first, i.last + 1)})
    joined: list[Interval] = []
    at = 0
    for first, after in itertools.pairwise(cuts):
        while at < len(near) and near[at].last < first:
            at += 1
        speaking = [new] if new.first <= first <= new.last else []
        if at < len(near) and near[at].first <= first:
            speaking.append(near[at])
        if speaking:
            winner = min(speaking, key=lambda i: i.rule)
            _append(joined, Interval(first, after - 1, winner.rule, winner.allow))
    cover[begin:end] = [kept.setdefault(i, i) for i in joined]
