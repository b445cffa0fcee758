# SPDX-License-Identifier: Apache-2.0
"""Patterns as trees: ``pattern`` makes them of text, ``nfa`` makes automata of them.

One :class:`Trees` makes each tree once: of its trees, equal ones are the same object. What many
signatures begin with is so found to be one thing by identity alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

ANY_BYTE = (1 << 256) - 1
"""All bytes, as a set: bit b stands for byte b."""


@dataclass(frozen=True, slots=True, eq=False)
class OneByte:
    """One byte out of a set; an empty set never matches."""

    members: int
    """Bit b stands for byte b."""
    is_nullable: bool = field(default=False, init=False)
    positions: int = field(default=1, init=False)


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """One after the other; no items match the empty string. No item is a sequence."""

    items: tuple[Tree, ...]
    is_nullable: bool
    """Whether the empty string matches."""
    positions: int
    """Single bytes in it, repeats written out: what an automaton of it has at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Any of at least two."""

    options: tuple[Tree, ...]
    is_nullable: bool
    positions: int


@dataclass(frozen=True, slots=True, eq=False)
class Repeat:
    """The same again, *least* to *most* times; without end where *most* is None."""

    tree: Tree
    least: int
    most: int | None
    is_nullable: bool
    positions: int


Tree = OneByte | Sequence | Choice | Repeat


class Trees:
    """Makes trees, simplified, each once."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Tree] = {}
        self.empty = self._once(("sequence",), Sequence((), is_nullable=True, positions=0))

    def one_byte(self, members: int) -> Tree:
        """Return what matches one byte of *members* (bit b for byte b)."""
        return self._once(("byte", members), OneByte(members))

    def sequence(self, trees: Iterable[Tree]) -> Tree:
        """Return what matches *trees* one after the other."""
        items: list[Tree] = []
        for tree in trees:
            items.extend(tree.items if isinstance(tree, Sequence) else (tree,))
        if len(items) == 1:
            return items[0]
        made = Sequence(
            tuple(items),
            is_nullable=all(item.is_nullable for item in items),
            positions=sum(item.positions for item in items),
        )
        return self._once(("sequence", *items), made)

    def choice(self, trees: Iterable[Tree]) -> Tree:
        """Return what matches any of *trees*, of which there is at least one."""
        options: dict[Tree, None] = {}
        members = 0
        for tree in trees:
            for option in tree.options if isinstance(tree, Choice) else (tree,):
                if isinstance(option, OneByte):
                    members |= option.members
                else:
                    options[option] = None
        if members or not options:
            options[self.one_byte(members)] = None
        if len(options) == 1:
            return next(iter(options))
        made = Choice(
            tuple(options),
            is_nullable=any(option.is_nullable for option in options),
            positions=sum(option.positions for option in options),
        )
        return self._once(("choice", *options), made)

    def repeat(self, tree: Tree, least: int, most: int | None) -> Tree:
        """Return what matches *tree* *least* to *most* times, or *least* times and more."""
        if (least, most) == (1, 1):
            return tree
        if most == 0:
            return self.empty
        made = Repeat(
            tree,
            least,
            most,
            is_nullable=least == 0 or tree.is_nullable,
            positions=tree.positions * (least + 1 if most is None else most),
        )
        return self._once(("repeat", tree, least, most), made)

    def shortest(self, tree: Tree) -> Tree:
        """Return what matches the same texts as *tree* first: whatever may follow is left out.

        A text that begins with a match of the one begins with a match of the other, and the
        shortest of them are equal. Where *tree* is nullable that is the empty string.
        """
        if tree.is_nullable:
            return self.empty
        match tree:
            case Sequence():
                items = list(tree.items)
                while items[-1].is_nullable:
                    items.pop()
                return self.sequence([*items[:-1], self.shortest(items[-1])])
            case Choice():
                return self.choice([self.shortest(option) for option in tree.options])
            case Repeat():
                before = self.repeat(tree.tree, tree.least - 1, tree.least - 1)
                return self.sequence([before, self.shortest(tree.tree)])
            case OneByte():
                return tree

    def _once(self, key: tuple[object, ...], made: Tree) -> Tree:
        return self._made.setdefault(key, made)
