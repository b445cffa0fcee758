# SPDX-License-Identifier: Apache-2.0
"""JSON objects in a stream: one a line, several in a line, or one over many lines.

Bytes in, parsed objects out, in linear time and whatever the bytes are. An object counts only where
a line begins, or behind another one: text that quotes JSON is not JSON. The last one may be cut
off; then it holds what was whole of it. RFC 8259, read as loosely as the parsers of pools do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_DEPTH = 32
"""Objects and arrays inside each other; deeper ones are not read. Mining protocols need 6."""
_MAX_NUMBER = 40

_TOKEN = re.compile(
    rb"""(?P<string>"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*")|(?P<broken>"[^\n]*)|[{}\[\],:\n]"""
)
_BLANK = b" \t\r\0"
_CLOSES = {b"{": b"}", b"[": b"]"}
_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class JsonObject:
    """One object of a stream."""

    value: dict[str, object]
    """Of JSON's own types. Of a key that is there twice, the first."""
    raw: bytes
    is_whole: bool
    """False for one that the end of the data cut off."""


@dataclass(frozen=True, slots=True)
class _Span:
    begin: int
    end: int
    closing: bytes = b""
    """What the data lacks to be whole."""


def begins_with_object(data: bytes) -> bool:
    """Say whether the first thing in *data* but white space is an object."""
    return data.removeprefix(_UTF8_BOM).lstrip(b" \t\r\n\0").startswith(b"{")


def read_objects(data: bytes) -> Iterator[JsonObject]:
    """Yield the objects that begin a line of *data*, in order.

    Where a key is there twice, the object comes twice, first with the first value: parsers differ.
    """
    data = data.removeprefix(_UTF8_BOM)
    for span in _spans(data):
        raw = data[span.begin : span.end]
        values = _parse(raw + span.closing)
        for value in values:
            yield JsonObject(value, raw, not span.closing)
        if not values:
            # A stray bracket may have swallowed what follows it.
            for line in raw.split(b"\n"):
                for value in _parse(line) if line.lstrip(_BLANK).startswith(b"{") else ():
                    yield JsonObject(value, line, True)


def _parse(text: bytes) -> list[dict[str, object]]:
    decoded = text.decode("utf-8", "surrogateescape")
    try:
        first, last = _FIRST.decode(decoded), _LAST.decode(decoded)
    except ValueError:
        return []
    if not isinstance(first, dict):
        return []
    return [first] if first == last else [first, last]


def _first_of_each(items: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(items)
    if len(found) != len(items):
        found.update(reversed(items))
    return found


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= _MAX_NUMBER else 0


def _fraction(digits: str) -> float:
    return float(digits) if len(digits) <= _MAX_NUMBER else 0.0


# strict=False lets control characters into strings, as pools' parsers do. A number of thousands of
# digits would take quadratic time, and Python refuses it: nothing needs one.
_FIRST = json.JSONDecoder(
    strict=False,
    parse_int=_integer,
    parse_float=_fraction,
    object_pairs_hook=_first_of_each,
)
_LAST = json.JSONDecoder(strict=False, parse_int=_integer, parse_float=_fraction)


class _Scanner:
    """One pass over the tokens: where objects begin, which of them end, and what is left open."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.spans: list[_Span] = []
        self.open: list[tuple[bytes, int]] = []
        """Brackets that wait for their end, with the place of those that begin a line, or -1."""
        self.closing = b""
        """What would close all that is open."""
        self.safe: tuple[int, bytes] | None = None
        """A place up to which everything is whole, and what closes it from there."""
        self.line = 0
        """Where the line began, or what followed the last object in it."""

    def feed(self, token: bytes, at: int, before: bytes) -> None:
        if token in _CLOSES:
            self._begin(token, at)
        elif token in (b"}", b"]"):
            self._end(token, at)
        elif token == b"\n":
            if not self.open:
                self.line = at + 1
        elif token == b"," and self.open:
            self._mark(at)
        elif token[:1] == b'"' and self.open:
            inside = self.open[-1][0]
            if before == b":" or (inside == b"[" and before in (b"[", b",")):
                self._mark(at + len(token))

    def lose(self, at: int) -> None:
        """Nothing that is open can be read; try again from the next line on."""
        self.open.clear()
        self.closing = b""
        self.safe = None
        self.line = at

    def _begin(self, token: bytes, at: int) -> None:
        begins = not self.data[self.line : at].strip(_BLANK) if not self.open else False
        if not self.open and not begins:
            self.line = len(self.data)  # text: what follows in this line is quoted
            return
        if len(self.open) >= MAX_DEPTH:
            self.lose(len(self.data))
            return
        self.open.append((token, at if begins else -1))
        self.closing = _CLOSES[token] + self.closing
        self._mark(at + 1)

    def _end(self, token: bytes, at: int) -> None:
        if not self.open:
            self.line = len(self.data)
            return
        opened, begin = self.open.pop()
        self.closing = self.closing[1:]
        if _CLOSES[opened] != token:
            self.lose(len(self.data))
            return
        if self.open:
            self._mark(at + 1)
            return
        self.safe = None
        self.line = at + 1
        if opened == b"{":
            self.spans.append(_Span(begin, at + 1))

    def _mark(self, at: int) -> None:
        self.safe = (at, self.closing)


# A line may be lost, to be tried again at the next: whatever is open then is dropped, not searched
# again, so each token is looked at once.
def _spans(data: bytes) -> Iterator[_Span]:
    scanner = _Scanner(data)
    before = b""
    for match in _TOKEN.finditer(data):
        token = match[0]
        if token == b"\n":
            if scanner.line > match.start():
                scanner.line = match.end()
            scanner.feed(token, match.start(), before)
            continue
        if match["broken"] is not None:
            cut_off = match.end() == len(data)
            if not cut_off:
                scanner.lose(len(data))
        elif scanner.line <= match.start():
            scanner.feed(token, match.start(), before)
            if scanner.spans:
                # At once: who wants the first object only does not wait for the others.
                yield scanner.spans.pop()
        before = token
    if scanner.safe and scanner.open and scanner.open[0][0] == b"{":
        yield _Span(scanner.open[0][1], *scanner.safe)
