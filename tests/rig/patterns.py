# SPDX-License-Identifier: Apache-2.0
"""Random patterns of the signatures' language, with texts that they match, and what ``re`` says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from agentwall.detect.automaton import Automaton
from agentwall.detect.scan import Hit
from agentwall.detect.signature import Maturity, Side, Signature, Transport
from agentwall.errors import SourceLocation
from agentwall.flow.finding import Confidence, DetectionClass
from agentwall.flow.severity import Severity

ALPHABET = b"abAB0 _\n\x00\xff{"
"""Bytes of random texts: few, so that patterns meet."""

_ATOMS = {
    "a": b"a",
    "b": b"b",
    "A": b"A",
    "0": b"0",
    "\\n": b"\n",
    "(?:\\0)": b"\x00",
    "\\x00": b"\x00",
    "\\xff": b"\xff",
    "\xff": b"\xff",
    "\\{": b"{",
    ".": ALPHABET,
    "\\d": b"0",
    "\\D": b"abAB _\n\x00\xff{",
    "\\w": b"abAB0_",
    "\\W": b" \n\x00\xff{",
    "\\s": b" \n",
    "\\S": b"abAB0_\x00\xff{",
    "[ab]": b"ab",
    "[^ab]": b"AB0 _\n\x00\xff{",
    "[a-b\\d\\xff]": b"ab0\xff",
    "[^\\x01-\\xfe]": b"\x00\xff",
    "[^\\s{]": b"abAB0_\x00\xff",
    "[-_]": b"_",
}


@dataclass(frozen=True)
class Piece:
    """A pattern, or part of one."""

    text: str
    matching: st.SearchStrategy[bytes]
    """Texts it matches."""


@dataclass(frozen=True)
class Branch:
    """One alternative of a whole pattern."""

    piece: Piece
    is_anchored: bool
    has_end: bool

    def text(self, end: str) -> str:
        """As it is written, with *end* for the end of a datagram."""
        return ("^" if self.is_anchored else "") + self.piece.text + (end if self.has_end else "")


@dataclass(frozen=True)
class Pattern:
    """A whole one."""

    branches: tuple[Branch, ...]
    is_folded: bool

    @property
    def text(self) -> str:
        """As a signature has it."""
        return ("(?i)" if self.is_folded else "") + "|".join(b.text("$") for b in self.branches)

    def first_match(self, data: bytes, *, whole: bool) -> int | None:
        """Say after how many bytes of *data* it first matches, by Python's ``re``."""
        flags = re.DOTALL | (re.IGNORECASE if self.is_folded else 0)
        # (?!) matches never: a datagram ends once.
        within, at_end = (
            re.compile("|".join(b.text(end) for b in self.branches).encode("latin-1"), flags)
            for end in ("(?!)", r"\Z")
        )
        for size in range(len(data) + 1):
            if within.search(data[:size]):
                return size
        return len(data) if whole and at_end.search(data) else None


def _sequence(pieces: Sequence[Piece]) -> Piece:
    text = "".join(f"(?:{piece.text})" if "|" in piece.text else piece.text for piece in pieces)
    return Piece(text, st.tuples(*(piece.matching for piece in pieces)).map(b"".join))


def _choice(pieces: Sequence[Piece]) -> Piece:
    text = "|".join(piece.text for piece in pieces)
    return Piece(f"({text})", st.one_of([piece.matching for piece in pieces]))


def _repeat(piece: Piece, counts: tuple[str, int, int]) -> Piece:
    sign, least, most = counts
    times = st.lists(piece.matching, min_size=least, max_size=most)
    return Piece(f"(?:{piece.text}){sign}", times.map(b"".join))


_COUNTS = (
    ("?", 0, 1),
    ("*", 0, 3),
    ("+", 1, 3),
    ("{2}", 2, 2),
    ("{0,2}", 0, 2),
    ("{1,3}", 1, 3),
    ("{2,}", 2, 3),
)
_pieces = st.recursive(
    st.sampled_from(
        [
            Piece(text, st.sampled_from([bytes((b,)) for b in members]))
            for text, members in _ATOMS.items()
        ]
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(_sequence),
        st.lists(inner, min_size=2, max_size=3).map(_choice),
        st.tuples(inner, st.sampled_from(_COUNTS)).map(lambda pair: _repeat(*pair)),
    ),
    max_leaves=8,
)


# Made once: making a strategy takes longer than drawing from it.
_BRANCHES = st.sampled_from((1, 1, 1, 2))
_FOLDED = st.sampled_from((False, False, False, True))
_noise = st.lists(st.sampled_from(ALPHABET), max_size=4).map(bytes)
_NO_OR_NOISE = st.one_of(st.just(b""), _noise)
_SPOILT = st.sampled_from((False, False, True))
_LENGTHS = st.sampled_from((24, 24, 24, 2))
_BYTES = st.sampled_from(ALPHABET)


@st.composite
def patterns(draw: st.DrawFn, *, ends: bool) -> Pattern:
    """Draw a pattern, where *ends* maybe with ``$``, that does not match the empty string."""
    branches = []
    for _ in range(draw(_BRANCHES)):
        piece = draw(_pieces)
        if re.compile(piece.text.encode("latin-1"), re.DOTALL).fullmatch(b""):
            piece = _sequence([piece, Piece("b", st.just(b"b"))])
        branches.append(Branch(piece, draw(st.booleans()), ends and draw(st.booleans())))
    return Pattern(tuple(branches), draw(_FOLDED))


@st.composite
def texts(draw: st.DrawFn, known: Sequence[Pattern]) -> bytes:
    """Draw a text in which some of *known* often match, somewhere, or nearly."""
    said = b""
    for pattern in draw(st.lists(st.sampled_from(known), min_size=1, max_size=2)):
        branch = draw(st.sampled_from(pattern.branches))
        said += b"" if branch.is_anchored and not said else draw(_noise)
        said += draw(branch.piece.matching)
    said += draw(_NO_OR_NOISE)
    if said and draw(_SPOILT):
        at = draw(st.integers(0, len(said) - 1))
        said = said[:at] + bytes((draw(_BYTES),)) + said[at + 1 :]
    return said[: draw(_LENGTHS)]


def signature(
    pattern: str,
    name: str = "s",
    *,
    transport: Transport = Transport.TCP,
    sides: tuple[Side, ...] = (Side.CLIENT,),
) -> Signature:
    """Return a signature of *pattern*."""
    return Signature(
        id=f"tunnel/{name}",
        cls=DetectionClass.TUNNEL,
        dialect=name,
        transport=transport,
        sides=sides,
        pattern=pattern,
        severity=Severity.HIGH,
        confidence=Confidence.HIGH,
        maturity=Maturity.STABLE,
        hand_over=False,
        description="Of a test",
        references=(),
        examples=(b"x",),
        counterexamples=(b"y",),
        where=SourceLocation("test.yaml", 1, 1),
    )


def first_matches(automaton: Automaton, hits: Sequence[Hit]) -> dict[int, int]:
    """Return after how many bytes each signature was first found, by its index."""
    found: dict[int, int] = {}
    for hit in hits:
        for index in automaton.accepts[hit.accept]:
            found[index] = min(hit.end, found.get(index, hit.end))
    return found
