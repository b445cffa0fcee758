# SPDX-License-Identifier: Apache-2.0
"""The beginning of one side's TCP stream, put together from segments in whatever order.

Sequence numbers are taken relative to the stream's first byte, modulo 2**32 (RFC 9293 section 3.4).
Where segments overlap, the byte that came first stays. The head ends before the first gap; if even
the first byte is missing, it begins behind that gap and the flow counts as seen from the middle.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

MAX_HEAD = 64 << 10
"""Bytes of a stream that are kept: what the kernel's automaton looks at by default."""
MAX_PIECES = 256
"""Segments of one stream that wait for those before them."""
OVERHEAD = 48
"""Bytes that keeping a segment takes besides its own."""
_MODULUS = 1 << 32
_HALF = 1 << 31


def distance(sequence: int, base: int) -> int:
    """Return how far *sequence* lies behind *base*, negative before it."""
    return (sequence - base + _HALF) % _MODULUS - _HALF


class Stream:
    """One side."""

    __slots__ = ("_pieces", "base", "is_asked", "is_full", "is_gapped", "limit", "parts", "size")

    def __init__(self, base: int | None = None) -> None:
        self.base = base
        """Sequence number of the first byte, once known; from the middle, of the first to come."""
        self.parts: list[bytes] = []
        """The head, a segment each."""
        self.size = 0
        """Bytes of the head."""
        self.is_full = False
        """Nothing more is wanted."""
        self.is_asked = False
        """For whoever wants to decide once that nothing more is wanted."""
        self.is_gapped = False
        """The first bytes are missing; the head begins behind them."""
        self.limit = MAX_HEAD
        self._pieces: list[tuple[int, bytes]] | None = None

    @property
    def head(self) -> bytes:
        """The first bytes, in order."""
        return b"".join(self.parts)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where in the head a segment began."""
        return (0, *accumulate(map(len, self.parts[:-1]))) if self.parts else ()

    def add(self, sequence: int, data: bytes) -> int:
        """Add a segment's payload; return how many bytes more are held, which may be negative."""
        if self.base is None:
            self.base = sequence
        at = (sequence - self.base + _HALF) % _MODULUS - _HALF
        if at != self.size or self._pieces:
            return self._add_out_of_order(at, data)
        self.parts.append(data)
        self.size = at = at + len(data)
        if at >= self.limit:
            return len(data) + OVERHEAD + self.settle()
        return len(data) + OVERHEAD

    def settle(self) -> int:
        """Want no more, drop what waits; return by how much less is held, as a negative number."""
        self.is_full = True
        dropped = sum(len(data) + OVERHEAD for _, data in self._pieces or ())
        self._pieces = None
        while (excess := self.size - self.limit) > 0:
            last = self.parts.pop()
            kept = last[: max(0, len(last) - excess)]
            self.size -= len(last) - len(kept)
            dropped += len(last) - len(kept)
            if kept:
                self.parts.append(kept)
            else:
                dropped += OVERHEAD
        return -dropped

    def finish(self) -> None:
        """No more comes: begin behind the gap if nothing was there before it."""
        if not self.size and self._pieces:
            self.is_gapped = True
            first = self._pieces[0][0]
            self._pieces = [(at - first, data) for at, data in self._pieces]
            self._join()
        self._pieces = None

    def _add_out_of_order(self, at: int, data: bytes) -> int:
        held = self.size
        if at < held:  # sent again
            data, at = data[held - at :], held
        data = data[: max(0, self.limit - at)]
        if not data:
            return 0
        if self._pieces is None:
            self._pieces = []
        added = self._fill(at, data)
        self._join()
        if self.size >= self.limit:
            added += self.settle()
        return added

    def _fill(self, at: int, data: bytes) -> int:
        # Into the gaps between the pieces, which came before and so stay as they are.
        pieces = self._pieces
        assert pieces is not None
        end, added = at + len(data), 0
        number = bisect_left(pieces, (at,))
        if number and pieces[number - 1][0] + len(pieces[number - 1][1]) > at:
            number -= 1
        start = at
        while start < end and len(pieces) < MAX_PIECES:
            if number == len(pieces):
                stop, behind = end, end
            else:
                other, others = pieces[number]
                stop, behind = min(other, end), other + len(others)
            if stop > start:
                pieces.insert(number, (start, data[start - at : stop - at]))
                added += stop - start + OVERHEAD
                number += 1
            start = max(behind, start)
            number += 1
        return added

    def _join(self) -> None:
        pieces = self._pieces
        assert pieces is not None
        used = 0
        for at, data in pieces:
            if at != self.size:
                break
            self.parts.append(data)
            self.size += len(data)
            used += 1
        del pieces[:used]
