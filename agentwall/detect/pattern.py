# SPDX-License-Identifier: Apache-2.0
"""The language of signatures' patterns: a subset of regular expressions over bytes.

Text goes in, trees come out; ``docs/signature-patterns.md`` is for those who write patterns. What
is accepted means the same in Python's ``re`` with ``re.DOTALL`` on bytes, except that ``$`` is
``\\Z`` there. ``(a|b)x`` and ``\\x00[^\\n]{2,8}`` are patterns; ``a*?`` and ``\\bword`` are not.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentwall.detect.pattern_tree import ANY_BYTE, Tree, Trees
from agentwall.errors import AgentwallError

MAX_REPEAT = 1024
"""The most that ``{m,n}`` may ask for."""
MAX_POSITIONS = 1 << 16
"""Single bytes in a pattern, repeats written out: nested repeats multiply."""
MAX_DEPTH = 100
"""Groups within groups."""

_SINGLE_ESCAPES = {"n": 10, "r": 13, "t": 9, "0": 0}
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
# A group that stood before is read at once if it is at least this long: expanded fragments
# repeat within a pattern and from one to the next.
_KEPT_GROUP = 16


class PatternError(AgentwallError, ValueError):
    """A pattern is not in the language."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(f"character {position + 1}: {message}")
        self.position = position
        """Index of the character at fault; the length of the pattern if something is missing."""
        self.message = message


@dataclass(frozen=True, slots=True)
class Branch:
    """One alternative at the top of a pattern."""

    tree: Tree
    is_anchored: bool
    """Matches at the start only; otherwise anywhere."""
    end: int | None
    """Where its ``$`` stands: it matches only where a datagram ends. None without one."""


@dataclass(frozen=True, slots=True)
class Node:
    """A whole pattern: it matches where any of its branches does."""

    branches: tuple[Branch, ...]

    @property
    def is_nullable(self) -> bool:
        """Whether it matches before anything is said, and so means nothing."""
        return any(
            branch.tree.is_nullable and (branch.end is None or not branch.is_anchored)
            for branch in self.branches
        )


def parse(pattern: str) -> Node:
    """Read one *pattern*.

    Raises:
        PatternError: It is not in the language, or larger than :data:`MAX_POSITIONS`.
    """
    return PatternReader(Trees()).read(pattern)


def byte_set(text: bytes) -> int:
    """Return the bytes of *text* as a set: bit b for byte b."""
    members = 0
    for byte in text:
        members |= 1 << byte
    return members


_DIGITS = byte_set(b"0123456789")
_LOWER = byte_set(b"abcdefghijklmnopqrstuvwxyz")
_WORD = _DIGITS | _LOWER | _LOWER >> 32 | byte_set(b"_")
_SPACE = byte_set(b" \t\n\r\x0b\x0c")
_SET_ESCAPES = {
    "d": _DIGITS,
    "D": ANY_BYTE ^ _DIGITS,
    "w": _WORD,
    "W": ANY_BYTE ^ _WORD,
    "s": _SPACE,
    "S": ANY_BYTE ^ _SPACE,
}


def _fold(members: int) -> int:
    # In ASCII a capital is 32 below its small letter.
    upper = _LOWER >> 32
    return members | (members & _LOWER) >> 32 | (members & upper) << 32


class PatternReader:
    """Reads many patterns into trees of one :class:`Trees`; what they share is read once."""

    def __init__(self, trees: Trees) -> None:
        self.trees = trees
        # By their first characters: of each group its text, its tree, and the groups in each other.
        self._groups: dict[tuple[str, bool], list[tuple[str, Tree, int]]] = {}
        self._text = ""
        self._at = 0
        self._folded = False
        self._depth = self._deepest = 0

    def read(self, pattern: str) -> Node:
        """Read one *pattern*, as :func:`parse` does."""
        self._folded = pattern.startswith("(?i)")
        self._text, self._at = pattern, 4 * self._folded
        self._depth = self._deepest = 0
        branches = [self._branch()]
        while self._take("|"):
            branches.append(self._branch())
        if self._at < len(pattern):
            raise PatternError(self._at, "expected a ( before it, got )")
        positions = sum(branch.tree.positions for branch in branches)
        if positions > MAX_POSITIONS:
            raise PatternError(0, _too_large(positions))
        return Node(tuple(branches))

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _branch(self) -> Branch:
        is_anchored = self._take("^")
        tree = self._sequence()
        end = self._at if self._peek() == "$" else None
        self._at += end is not None
        if end is not None and self._peek() not in ("", "|"):
            raise PatternError(end, "expected $ only at the end of the pattern; \\$ is a dollar")
        return Branch(tree, is_anchored, end)

    def _sequence(self) -> Tree:
        items: list[Tree] = []
        while self._peek() not in ("", "|", ")", "$"):
            items.append(self._repeated(self._item()))
        return self.trees.sequence(items)

    def _item(self) -> Tree:
        at, character = self._at, self._peek()
        if character == "(":
            return self._group()
        if character == "[":
            return self.trees.one_byte(self._class())
        self._at += 1
        if character == ".":
            return self.trees.one_byte(ANY_BYTE)
        if character == "\\":
            return self._byte(self._escape())
        if character == "^":
            message = "expected ^ only at the start of the pattern or of an alternative of the"
            raise PatternError(at, f"{message} whole pattern; \\^ is a caret")
        if character in "*+?{":
            message = f"expected something to repeat before {character}"
            raise PatternError(at, f"{message}; \\{character} is the character itself")
        return self._byte(1 << _code(character, at))

    def _byte(self, members: int) -> Tree:
        return self.trees.one_byte(_fold(members) if self._folded else members)

    def _group(self) -> Tree:
        begin, deepest = self._at, self._deepest
        key = (self._text[begin : begin + _KEPT_GROUP], self._folded)
        for text, tree, levels in self._groups.get(key, ()):
            if self._take(text):
                self._descend(begin, levels)
                return tree
        self._at += 1
        if self._peek() == "?" and not self._take("?:"):
            raise PatternError(begin, f"expected ( or (?:, got {self._text[begin : begin + 3]}")
        self._descend(begin, 1)
        self._deepest = self._depth + 1
        self._depth += 1
        tree = self._options(begin)
        self._depth -= 1
        if self._at - begin >= _KEPT_GROUP:
            # No text of a group begins another's: a group ends at its own bracket.
            known = (self._text[begin : self._at], tree, self._deepest - self._depth)
            self._groups.setdefault(key, []).append(known)
        self._deepest = max(self._deepest, deepest)
        return tree

    def _descend(self, at: int, levels: int) -> None:
        self._deepest = max(self._deepest, self._depth + levels)
        if self._depth + levels > MAX_DEPTH:
            raise PatternError(at, f"expected at most {MAX_DEPTH} groups in each other")

    def _options(self, begin: int) -> Tree:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        if self._peek() == "$":
            message = "expected $ only at the end of the pattern, outside of groups"
            raise PatternError(self._at, f"{message}; \\$ is a dollar")
        if not self._take(")"):
            raise PatternError(begin, "expected a ) for this (")
        return self.trees.choice(options)

    def _repeated(self, tree: Tree) -> Tree:
        at, sign = self._at, self._peek()
        if not sign or sign not in "?*+{":
            return tree
        if sign == "{":
            least, most = self._counts()
        else:
            self._at += 1
            least, most = {"?": (0, 1), "*": (0, None), "+": (1, None)}[sign]
        again = self._peek()
        if again and again in "?*+{":
            message = f"expected one repeat, got {self._text[at : self._at + 1]}"
            raise PatternError(self._at, f"{message}; put the first in a group (?:...)")
        repeated = self.trees.repeat(tree, least, most)
        if repeated.positions > MAX_POSITIONS:
            raise PatternError(at, _too_large(repeated.positions))
        return repeated

    def _counts(self) -> tuple[int, int | None]:
        begin = self._at
        end = self._text.find("}", begin)
        first, comma, last = self._text[begin + 1 : max(end, begin + 1)].partition(",")
        if end < 0 or not _is_count(first) or (last and not _is_count(last)):
            message = "expected {m}, {m,} or {m,n} after an item"
            raise PatternError(begin, f"{message}; \\{{ is a brace")
        least = int(first)
        most = int(last) if last else None if comma else least
        if max(least, most or 0) > MAX_REPEAT:
            got = max(least, most or 0)
            raise PatternError(begin, f"expected repeats up to {MAX_REPEAT}, got {got}")
        if most is not None and most < least:
            raise PatternError(begin, f"expected {{m,n}} with m up to n, got {{{least},{most}}}")
        self._at = end + 1
        return least, most

    def _escape(self) -> int:
        """Return the set of bytes of the escape whose backslash has just been taken."""
        begin, character = self._at - 1, self._peek()
        self._at += 1
        if character == "x":
            digits = self._text[self._at : self._at + 2]
            if len(digits) < 2 or not _HEX_DIGITS.issuperset(digits):
                raise PatternError(begin, f"expected \\x and two hex digits, got \\x{digits}")
            self._at += 2
            return 1 << int(digits, 16)
        if character == "0" and self._peek().isdigit():
            raise PatternError(begin, "expected \\x and two hex digits for a byte, got an octal")
        if character in _SET_ESCAPES:
            return _SET_ESCAPES[character]
        if character in _SINGLE_ESCAPES:
            return 1 << _SINGLE_ESCAPES[character]
        if not character or not " " <= character <= "~" or character.isalnum():
            message = "expected \\xNN, \\n, \\r, \\t, \\0, \\d, \\w, \\s or \\ before punctuation"
            raise PatternError(begin, f"{message}, got \\{character}")
        return 1 << ord(character)

    def _class(self) -> int:
        begin = self._at
        self._at += 1
        is_negated = self._take("^")
        members = 0
        while not self._take("]"):
            members |= self._class_item(begin)
        if members == 0:
            raise PatternError(begin, "expected something in []; \\] is a bracket")
        members = _fold(members) if self._folded else members
        return ANY_BYTE ^ members if is_negated else members

    def _class_item(self, begin: int) -> int:
        at = self._at
        low = self._class_byte(begin)
        rest = self._text[self._at : self._at + 2]
        if len(rest) < 2 or rest[0] != "-" or rest[1] == "]":
            return low
        self._at += 1
        high = self._class_byte(begin)
        first, last = low.bit_length() - 1, high.bit_length() - 1
        if low != 1 << first or high != 1 << last or first > last:
            got = self._text[at : self._at]
            raise PatternError(at, f"expected a range of bytes, low to high, got {got}")
        return (1 << last + 1) - (1 << first)

    def _class_byte(self, begin: int) -> int:
        at, character = self._at, self._peek()
        if not character:
            raise PatternError(begin, "expected a ] for this [")
        self._at += 1
        return self._escape() if character == "\\" else 1 << _code(character, at)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _too_large(positions: int) -> str:
    return f"expected at most {MAX_POSITIONS} bytes, repeats written out, got {positions}"


def _code(character: str, at: int) -> int:
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        raise PatternError(at, f"expected \\x{code:02x} for a control character, got itself")
    if code > 0xFF:
        raise PatternError(at, f"expected bytes (\\x00 to \\xff), got {character}")
    return code
