# SPDX-License-Identifier: Apache-2.0
"""The pcapng format: draft-ietf-opsawg-pcapng-02.

Several sections and interfaces, ``if_tsresol`` and ``if_tsoffset``; enhanced, simple and the old
packet blocks. Other blocks (names, statistics, secrets, what vendors add) are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from agentwall.capture.records import MAX_RECORD, Batch, Ints, Problems, Window

SECTION_HEADER = b"\x0a\x0d\x0d\x0a"
_ORDER_MAGIC = 0x1A2B3C4D
_SECTION, _INTERFACE, _PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_TSRESOL, _TSOFFSET = 9, 14
_SHORTEST = 12
_NS = 1_000_000_000
_MOST_NS = (1 << 63) - 1
_MAX_INTERFACES = 65_536


@dataclass(frozen=True, slots=True)
class _Interface:
    link: int
    snaplen: int
    ticks_a_second: int
    offset_s: int

    def time_ns(self, ticks: int) -> int:
        if self.ticks_a_second == 1_000_000:
            time = ticks * 1000 + self.offset_s * _NS
        else:
            time = ticks * _NS // self.ticks_a_second + self.offset_s * _NS
        return min(max(time, 0), _MOST_NS)


@dataclass(slots=True)
class _Section:
    order: str
    interfaces: list[_Interface] = field(default_factory=list)


@dataclass(slots=True)
class _Rows:
    offsets: list[int] = field(default_factory=list)
    captured: list[int] = field(default_factory=list)
    wire: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    links: list[int] = field(default_factory=list)

    def add(self, offset: int, captured: int, wire: int, time_ns: int, link: int) -> None:
        self.offsets.append(offset)
        self.captured.append(captured)
        self.wire.append(max(wire, captured))
        self.times.append(time_ns)
        self.links.append(link)

    def batch(self, data: bytes) -> Batch:
        def ints(values: list[int]) -> Ints:
            return np.array(values, dtype=np.int64)

        return Batch(
            raw=data,
            offsets=ints(self.offsets),
            captured=ints(self.captured),
            wire=ints(self.wire),
            times_ns=ints(self.times),
            links=ints(self.links),
        )


class _BrokenError(Exception):
    """There is no way to the next block."""


def read_pcapng(window: Window, problems: Problems) -> Iterator[Batch]:
    """Yield the packets of a file that begins with a section header block."""
    reader = _Blocks(window, problems)
    while True:
        rows = _Rows()
        broken = None
        try:
            reader.walk(rows)
        except _BrokenError as error:
            broken = str(error)
        if rows.offsets:
            yield rows.batch(window.data)
        if broken is not None:
            problems.add(broken, window.base + window.at)
            return
        if not window.more():
            break
    if window.left:
        problems.add(f"block cut short, {window.left} bytes of it are there", window.base)
        rows = _Rows()
        reader.rest(rows)
        if rows.offsets:
            batch = rows.batch(window.data)
            batch.is_cut = True
            yield batch


class _Blocks:
    """Goes from block to block of what is in the window."""

    def __init__(self, window: Window, problems: Problems) -> None:
        self._window = window
        self._problems = problems
        self._section = _Section("<")

    def walk(self, rows: _Rows) -> None:
        window = self._window
        data, end = window.data, window.size
        head = struct.Struct(f"{self._section.order}II").unpack_from
        while end - window.at >= _SHORTEST:
            at = window.at
            if data[at : at + 4] == SECTION_HEADER:
                self._begin_section(data, at)
                head = struct.Struct(f"{self._section.order}II").unpack_from
            kind, size = head(data, at)
            if size < _SHORTEST or size > MAX_RECORD + 64:
                limits = f"expected {_SHORTEST} to {MAX_RECORD + 64}"
                raise _BrokenError(f"block length: {limits}, got {size}")
            size += -size % 4
            if at + size > end:
                return
            self._block(kind, at, at + size, rows)
            window.at = at + size

    def rest(self, rows: _Rows) -> None:
        # A packet's block that the file cuts short; whatever else it may be says nothing.
        window = self._window
        if window.left < _SHORTEST or window.data[window.at : window.at + 4] == SECTION_HEADER:
            return
        (kind,) = struct.unpack_from(f"{self._section.order}I", window.data, window.at)
        if kind in (_PACKET, _SIMPLE, _ENHANCED):
            self._block(kind, window.at, window.size + 4, rows, is_cut=True)

    def _begin_section(self, data: bytes, at: int) -> None:
        for order in "<>":
            if struct.unpack_from(f"{order}I", data, at + 8)[0] == _ORDER_MAGIC:
                self._section = _Section(order)
                return
        raise _BrokenError(f"byte order: expected 1a2b3c4d, got {data[at + 8 : at + 12].hex()}")

    def _block(self, kind: int, at: int, end: int, rows: _Rows, *, is_cut: bool = False) -> None:
        body_end = end - 4
        if kind == _ENHANCED:
            self._packet("IIIII", at, body_end, rows, is_cut)
        elif kind == _INTERFACE:
            self._interface(at, body_end)
        elif kind == _SIMPLE:
            self._simple(at, body_end, rows)
        elif kind == _PACKET:
            self._packet("HHIIII", at, body_end, rows, is_cut)
        data, order = self._window.data, self._section.order
        if is_cut:
            return
        first, last = data[at + 4 : at + 8], data[body_end:end]
        if first != last and struct.unpack(f"{order}I", first)[0] % 4 == 0:
            # The first length led to the next block so far; if it was wrong, that one tells.
            got = struct.unpack(f"{order}I", last)[0]
            self._problems.add(f"block's second length differs, got {got}", self._offset(at))

    def _offset(self, at: int) -> int:
        return self._window.base + at

    def _interface(self, at: int, end: int) -> None:
        order, data = self._section.order, self._window.data
        if len(self._section.interfaces) >= _MAX_INTERFACES:
            raise _BrokenError(f"more than {_MAX_INTERFACES} interfaces")
        if end - at < 16:
            raise _BrokenError("interface block cut short")
        link, _, snaplen = struct.unpack_from(f"{order}HHI", data, at + 8)
        ticks, offset_s = 1_000_000, 0
        option = at + 16
        while option + 4 <= end:
            code, size = struct.unpack_from(f"{order}HH", data, option)
            value = data[option + 4 : min(option + 4 + size, end)]
            if code == 0:
                break
            if code == _TSRESOL and len(value) == 1:
                ticks = (2 if value[0] & 0x80 else 10) ** (value[0] & 0x7F)
            elif code == _TSOFFSET and len(value) == 8:
                (offset_s,) = struct.unpack(f"{order}q", value)
            option += 4 + size + -size % 4
        self._section.interfaces.append(_Interface(link, snaplen, ticks, offset_s))

    def _packet(self, layout: str, at: int, end: int, rows: _Rows, is_cut: bool) -> None:
        body = at + 8
        data = self._window.data
        if end - body < 20:
            if not is_cut:
                self._problems.add("packet block too short", self._offset(at))
            return
        fields = struct.unpack_from(f"{self._section.order}{layout}", data, body)
        high, low, captured, wire = fields[-4:]
        if fields[0] >= len(self._section.interfaces):
            what = f"interface: expected below {len(self._section.interfaces)}, got {fields[0]}"
            self._problems.add(what, self._offset(at))
            return
        interface = self._section.interfaces[fields[0]]
        room = end - body - 20
        if captured > room:
            if not is_cut:
                what = f"captured length: expected at most {room}, got {captured}"
                self._problems.add(what, self._offset(at))
            captured = room
        time = interface.time_ns(high << 32 | low)
        rows.add(body + 20, captured, wire, time, interface.link)

    def _simple(self, at: int, end: int, rows: _Rows) -> None:
        if not self._section.interfaces or end - at < 12:
            self._problems.add("simple packet block without interface", self._offset(at))
            return
        interface = self._section.interfaces[0]
        (wire,) = struct.unpack_from(f"{self._section.order}I", self._window.data, at + 8)
        captured = min(wire, end - at - 12)
        if interface.snaplen:
            captured = min(captured, interface.snaplen)
        rows.add(at + 12, captured, wire, 0, interface.link)
