# SPDX-License-Identifier: Apache-2.0
"""IP datagrams put together from their fragments (RFC 791 section 3.2, RFC 8200 section 4.5).

Bounded: so many datagrams at once and so many bytes, the oldest give way. Where fragments overlap
the byte that came first stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

MAX_DATAGRAMS = 1024
MAX_HELD = 8 << 20
"""Bytes of all unfinished datagrams together."""
MAX_PIECES = 256
"""Of one datagram: 64 KiB in the smallest usual fragments of 576 bytes are 120."""
MAX_DATAGRAM = 65_535


@dataclass(slots=True)
class _Unfinished:
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    end: int | None = None
    held: int = 0


class Fragments:
    """Datagrams that are not whole yet."""

    def __init__(self) -> None:
        self._unfinished: OrderedDict[Hashable, _Unfinished] = OrderedDict()
        self._held = 0
        self.given_up = 0
        """How many datagrams gave way before they were whole, or never became whole."""
        self._partial: list[tuple[Hashable, bytes]] = []

    def add(self, key: Hashable, start: int, data: bytes, *, is_last: bool) -> bytes | None:
        """Add one fragment.

        Args:
            key: Addresses, identification and protocol, and of what capture.
            start: Offset in the datagram's payload, in bytes.
            data: The fragment's payload.
            is_last: No more fragments follow it.

        Returns:
            The whole payload if this fragment was what it lacked.
        """
        if start + len(data) > MAX_DATAGRAM:
            return None
        datagram = self._unfinished.setdefault(key, _Unfinished())
        if is_last and datagram.end is None:
            datagram.end = start + len(data)
        if data and len(datagram.pieces) < MAX_PIECES:
            datagram.pieces.append((start, data))
            datagram.held += len(data)
            self._held += len(data)
        if datagram.end is not None and (whole := _join(datagram, datagram.end)) is not None:
            self._drop(key)
            return whole
        while len(self._unfinished) > MAX_DATAGRAMS or self._held > MAX_HELD:
            self._give_up(next(iter(self._unfinished)))
        return None

    def partial(self, *, is_end: bool = False) -> list[tuple[Hashable, bytes]]:
        """Return once the key and the beginning of what was given up; at the end, of everything."""
        while is_end and self._unfinished:
            self._give_up(next(iter(self._unfinished)))
        partial, self._partial = self._partial, []
        return partial

    def _give_up(self, key: Hashable) -> None:
        beginning = b""
        for start, data in sorted(self._unfinished[key].pieces, key=lambda piece: piece[0]):
            if start > len(beginning):
                break
            beginning += data[len(beginning) - start :]
        if beginning:
            self._partial.append((key, beginning))
        self._drop(key)
        self.given_up += 1

    def _drop(self, key: Hashable) -> None:
        self._held -= self._unfinished.pop(key).held


def _join(datagram: _Unfinished, end: int) -> bytes | None:
    # Over it in reverse order of arrival: what came first is written last.
    if datagram.held < end:
        return None
    whole, seen = bytearray(end), bytearray(end)
    for start, data in reversed(datagram.pieces):
        size = max(0, min(len(data), end - start))
        whole[start : start + size] = data[:size]
        seen[start : start + size] = b"\x01" * size
    return bytes(whole) if seen.count(1) == end else None
