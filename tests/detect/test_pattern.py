# SPDX-License-Identifier: Apache-2.0
"""The language: what is in it, what is not, and where in a pattern the fault is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.detect.pattern import (
    MAX_DEPTH,
    MAX_POSITIONS,
    PatternError,
    PatternReader,
    byte_set,
    parse,
)
from agentwall.detect.pattern_tree import OneByte, Trees

ALL_BYTES = bytes(range(256))


def _members(pattern):
    """The bytes that a pattern of one byte matches."""
    (branch,) = parse(pattern).branches
    assert isinstance(branch.tree, OneByte)
    return bytes(byte for byte in ALL_BYTES if branch.tree.members >> byte & 1)


@pytest.mark.parametrize(
    "pattern",
    [
        *("a", "]", "}", ",", "-", "é", "\xff", ".", r"\.", r"\x00", r"\xfF", r"\n", r"\r", r"\t"),
        *(r"\0", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\\", r"\"", r"\ ", r"\^", r"\{"),
        *("[abc]", "[^abc]", "[a-z0-9_]", "[-a]", "[a-]", "[a^]", r"[\]\-]", r"[\x00-\x1f\xff]"),
        *(r"[^\n]", r"[\d\s.]", r"[^\w-]", "[$*+?(){}|.]", "[a[]", "[+--]", "[{]", "[\xe0-\xff]"),
        *("(?i)a", "(?i)[a-f]", "(?i)[^A-F]", "(?i)[Z-a]", r"(?i)\x41", "(?i)\xe0", r"(?i)\w"),
        *("(a)", "(?:a|b)", "(?:a|[b-d]|e)", "(?:(?:a))", "a{1}"),
    ],
)
# Python warns of what its classes may come to mean.
@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
def test_one_byte(pattern):
    """What matches one byte matches those that Python's ``re`` says."""
    compiled = re.compile(pattern.encode("latin-1"), re.DOTALL)

    assert _members(pattern) == bytes(b for b in ALL_BYTES if compiled.fullmatch(bytes((b,))))


@pytest.mark.parametrize(
    ("pattern", "position", "message"),
    [
        ("a(b", 1, "expected a ) for this ("),
        ("ab)c", 2, "expected a ( before it"),
        ("(?=a)", 0, "expected ( or (?:, got (?="),
        ("a(?i)b", 1, "expected ( or (?:"),
        ("(?P<n>a)", 0, "expected ( or (?:"),
        ("(a^b)", 2, "expected ^ only at the start"),
        ("(?:^a)", 3, "expected ^ only at the start"),
        ("a$b", 1, "expected $ only at the end"),
        ("(a$)", 2, "expected $ only at the end of the pattern, outside"),
        ("*a", 0, "expected something to repeat before *"),
        ("a|?", 2, "expected something to repeat before ?"),
        ("{2}", 0, "expected something to repeat before {"),
        ("^*", 1, "expected something to repeat"),
        ("a*?", 2, "expected one repeat, got *?"),
        ("a{2}{3}", 4, "expected one repeat"),
        ("a{", 1, "expected {m}, {m,} or {m,n}"),
        ("a{,3}", 1, "expected {m}, {m,} or {m,n}"),
        ("a{x}", 1, "expected {m}, {m,} or {m,n}"),
        ("a{1,2,3}", 1, "expected {m}, {m,} or {m,n}"),
        ("a{\u0661}", 1, "expected {m}, {m,} or {m,n}"),
        ("a{1025}", 1, "expected repeats up to 1024, got 1025"),
        ("a{2,99999}", 1, "expected repeats up to 1024, got 99999"),
        ("a{3,2}", 1, "expected {m,n} with m up to n, got {3,2}"),
        ("(?:a{1024}){1024}", 11, f"expected at most {MAX_POSITIONS} bytes"),
        ("a[bc", 1, "expected a ] for this ["),
        ("[]", 0, "expected something in []"),
        ("[z-a]", 1, "expected a range of bytes, low to high, got z-a"),
        (r"[a-\d]", 1, "expected a range"),
        (r"[\w-z]", 1, "expected a range"),
        (r"a\b", 1, r"expected \xNN"),
        (r"\1", 0, r"expected \xNN"),
        ("a\\", 1, r"expected \xNN"),
        (r"\xg0", 0, r"expected \x and two hex digits"),
        (r"\x0", 0, r"expected \x and two hex digits"),
        (r"\01", 0, r"expected \x and two hex digits for a byte, got an octal"),
        ("a\u0100", 1, r"expected bytes (\x00 to \xff)"),
        ("a\nb", 1, r"expected \x0a for a control character"),
        ("[\x7f]", 1, r"expected \x7f for a control character"),
        ("(" * (MAX_DEPTH + 1), MAX_DEPTH, "expected at most 100 groups"),
    ],
)
def test_fault(pattern, position, message):
    """Whatever is not in the language is refused, with what was expected and where."""
    with pytest.raises(PatternError) as err:
        parse(pattern)

    assert err.value.position == position
    assert err.value.message.startswith(message)
    assert str(err.value) == f"character {position + 1}: {err.value.message}"


@given(st.text(st.sampled_from("ab(?:|)[^]-{1,2}*+$\\xd0i\n\xff\u0100")))
def test_any_text(text):
    """Any text is a pattern or a :class:`PatternError` that points into it."""
    position = 0
    try:
        parse(text)
    except PatternError as err:
        position = err.position

    assert 0 <= position <= len(text)


def test_branches():
    """Alternatives of the whole pattern have each their own anchors."""
    branches = parse("^ab|c$|^$|(?:d|e)f").branches

    assert [(branch.is_anchored, branch.end) for branch in branches] == [
        (True, None),
        (False, 5),
        (True, 8),
        (False, None),
    ]


@pytest.mark.parametrize(
    ("pattern", "is_nullable"),
    [("", True), ("a*", True), ("^(?:a|b?)$", False), ("a*$", True), ("a|", True), ("^ab", False)],
)
def test_nullable(pattern, is_nullable):
    """A pattern that is satisfied before anything is said is told from others."""
    assert parse(pattern).is_nullable is is_nullable


def test_groups_are_read_once():
    """A group that stood before is the same tree, unless letters are folded in one of them."""
    reader = PatternReader(Trees())
    group = "(?:abc|[def]+[0-9]{1,3}xyz)*"

    first, second = (reader.read(f"^{before}{group}").branches[0].tree for before in "xy")
    folded = reader.read(f"(?i)^z{group}").branches[0].tree

    assert first.items[1] is second.items[1]
    assert folded.items[1] is not first.items[1]


def test_depth_counts_in_known_groups():
    """A group known from another pattern counts with all groups in it."""
    reader = PatternReader(Trees())
    deep = "(" * 60 + "abcdefgh" + ")" * 60
    reader.read(deep)

    assert reader.read("(" * 40 + deep + ")" * 40).branches
    with pytest.raises(PatternError, match="at most 100 groups"):
        reader.read("(" * 41 + deep + ")" * 41)


def test_byte_set():
    """Bit b stands for byte b."""
    assert byte_set(b"\x00\x03\xff") == 1 | 8 | 1 << 255
