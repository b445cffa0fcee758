# SPDX-License-Identifier: Apache-2.0
"""Packets of a batch grouped by flow, all at once.

A run is packets of one flow that follow each other there, beginning anew at each SYN. What can be
added up over a run is added up here, for all runs at once; :mod:`agentwall.capture.adding` takes
the sums to the flows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentwall.capture.flows import Key
from agentwall.capture.headers import Mask, Packets, Words
from agentwall.capture.network import ACK, SYN, TCP
from agentwall.capture.records import Ints

_KEY = np.dtype(
    [
        ("a_high", ">u8"), ("a", ">u8"), ("b_high", ">u8"), ("b", ">u8"),
        ("a_port", "<u2"), ("b_port", "<u2"), ("protocol", "u1"), ("is_v6", "u1"),
    ]
)  # fmt: skip
_NONE = np.iinfo(np.int64).max


@dataclass(slots=True)
class _Keys:
    # The endpoints of each packet, the lower one first, so that both directions are equal.
    a_high: Words
    a: Words
    b_high: Words
    b: Words
    rest: Words
    """Both ports, the protocol and the family."""
    side: npt.NDArray[np.int64]
    """0 where the packet comes from a."""

    def columns(self) -> tuple[Words, ...]:
        return self.a_high, self.a, self.b_high, self.b, self.rest


def _keys(packets: Packets) -> _Keys:
    source = packets.source_high, packets.source, packets.source_port.astype(np.uint64)
    other = (
        packets.destination_high,
        packets.destination,
        packets.destination_port.astype(np.uint64),
    )
    is_swapped = (source[0] > other[0]) | (
        (source[0] == other[0])
        & ((source[1] > other[1]) | ((source[1] == other[1]) & (source[2] > other[2])))
    )
    low = [np.where(is_swapped, theirs, ours) for ours, theirs in zip(source, other, strict=True)]
    high = [np.where(is_swapped, ours, theirs) for ours, theirs in zip(source, other, strict=True)]
    kind = packets.protocol.astype(np.uint64) << np.uint64(1) | packets.is_v6.astype(np.uint64)
    rest = low[2] << np.uint64(40) | high[2] << np.uint64(16) | kind
    return _Keys(low[0], low[1], high[0], high[1], rest, is_swapped.astype(np.int64))


def _sorted_by_flow(keys: _Keys) -> tuple[Ints, Mask]:
    # Indices that bring the packets of a flow together in their order, and where a flow begins.
    # By a hash whose factors are this call's own, so that nobody can make flows collide; if they
    # do all the same, by another.
    count = len(keys.rest)
    shift = np.uint64(count.bit_length())
    places = np.arange(count, dtype=np.uint64)
    columns = keys.columns()
    while True:
        factors = np.frombuffer(os.urandom(8 * len(columns)), dtype=np.uint64) | np.uint64(1)
        hashed = np.zeros(count, dtype=np.uint64)
        for column, factor in zip(columns, factors, strict=True):
            hashed += (column ^ column >> np.uint64(32)) * factor
        hashed ^= hashed >> np.uint64(29)
        hashed *= factors[0]
        hashed = (hashed >> shift << shift) | places
        hashed.sort()
        order = (hashed & ((np.uint64(1) << shift) - np.uint64(1))).astype(np.int64)
        hashed >>= shift
        differs = np.zeros(count, dtype=np.bool_)
        for column in columns:
            moved = column[order]
            differs[1:] |= moved[1:] != moved[:-1]
        differs[:1] = True
        if not (differs[1:] & (hashed[1:] == hashed[:-1])).any():
            return order, differs


def _packed_keys(keys: _Keys, which: Ints) -> list[Key]:
    packed = np.empty(len(which), dtype=_KEY)
    for name in ("a_high", "a", "b_high", "b"):
        packed[name] = getattr(keys, name)[which]
    rest = keys.rest[which]
    packed["a_port"] = rest >> np.uint64(40)
    packed["b_port"] = rest >> np.uint64(16) & np.uint64(0xFFFF)
    packed["protocol"] = rest >> np.uint64(1) & np.uint64(0xFF)
    packed["is_v6"] = rest & np.uint64(1)
    size, raw = _KEY.itemsize, packed.tobytes()
    return [raw[at : at + size] for at in range(0, len(raw), size)]


Run = tuple[
    Key, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int
]
"""What :meth:`Grouped.runs` yields, in this order: the key, the protocol, how many packets, the
earliest and the latest time; of the first packet the side, the flags and the sequence number; all
flags or-ed; the place of the first SYN+ACK, or -1; where its payloads begin and end in
:class:`Payloads`; and for each side the payload's bytes, its lowest sequence number and the one
behind its highest."""


@dataclass(frozen=True, slots=True)
class Payloads:
    """The packets of a batch that carry payload, by flow; one value a packet."""

    sides: list[int]
    sequences: list[int]
    """TCP: of the payload's first byte."""
    begins: list[int]
    """Where it lies in the batch's bytes."""
    ends: list[int]
    sizes: list[int]
    """On the wire: more than what lies there, if the capture cut it."""
    messages: memoryview
    """16 bytes each, two numbers in this machine's order: the time, and twice the size plus the
    side."""


class Grouped:
    """One batch, sorted by flow."""

    def __init__(self, packets: Packets) -> None:
        keys = _keys(packets)
        order, begins_flow = _sorted_by_flow(keys)
        self._is_tcp = packets.protocol[order] == TCP
        self._side = keys.side[order]
        self._flags = packets.flags[order]
        self._sequence = packets.sequence[order]
        # A SYN takes a number itself, so that its payload begins one behind it.
        is_syn = self._is_tcp & (self._flags & SYN != 0)
        self._data_sequence = (self._sequence + is_syn) & 0xFFFFFFFF
        self._size = packets.size[order]
        self._has_payload = self._size > 0
        self._times = packets.times_ns[order]
        self._begins = np.flatnonzero(begins_flow | self._opens())
        first = order[self._begins]
        self._in_time = np.argsort(first, kind="stable")
        first = first[self._in_time]
        self._keys = _packed_keys(keys, first)
        self._protocol = packets.protocol[first]
        self._which = np.flatnonzero(self._has_payload)
        self._start = packets.start[order[self._which]]
        self._captured = packets.captured[order[self._which]]
        self._acknowledged = packets.acknowledged[order]

    def _opens(self) -> Mask:
        kind = np.where(self._is_tcp, self._flags & (SYN | ACK), 0)
        is_syn, self._is_answer = kind == SYN, kind == SYN | ACK
        # An answer behind its SYN, or sent again, begins nothing.
        opens: Mask = is_syn | self._is_answer
        opens[1:] &= ~(self._is_answer[1:] & (is_syn | self._is_answer)[:-1])
        return opens

    def answer(self, place: int) -> tuple[int, int, int]:
        """Return the side of a SYN+ACK, its sequence number and what it acknowledges."""
        numbers = (self._side[place], self._sequence[place], self._acknowledged[place])
        return int(numbers[0]), int(numbers[1]), int(numbers[2])

    def payloads(self) -> Payloads:
        """Return the packets with payload."""
        which, side, size = self._which, self._side[self._which], self._size[self._which]
        messages = np.stack([self._times[which], size << 1 | side], axis=1)
        return Payloads(
            sides=side.tolist(),
            sequences=self._data_sequence[which].tolist(),
            begins=self._start.tolist(),
            ends=(self._start + self._captured).tolist(),
            sizes=size.tolist(),
            messages=memoryview(messages.tobytes()),
        )

    def runs(self) -> Iterator[Run]:
        """Return all runs, in the order of their first packets."""
        begins, count = self._begins, len(self._size)
        payloads = np.searchsorted(self._which, np.append(begins, count))
        answer = np.where(self._is_answer, np.arange(count), _NONE)
        answers = np.minimum.reduceat(answer, begins)
        columns = (
            np.diff(begins, append=count),
            np.minimum.reduceat(self._times, begins),
            np.maximum.reduceat(self._times, begins),
            self._side[begins],
            self._flags[begins],
            self._sequence[begins],
            np.bitwise_or.reduceat(self._flags, begins),
            np.where(answers == _NONE, -1, answers),
            payloads[:-1],
            payloads[1:],
            *self._span(0),
            *self._span(1),
        )
        return zip(
            self._keys,
            self._protocol.tolist(),
            *(column[self._in_time].tolist() for column in columns),
            strict=True,
        )

    def _span(self, side: int) -> tuple[Ints, Ints, Ints]:
        begins, count = self._begins, len(self._size)
        counts = (self._side == side) & self._has_payload
        total = np.add.reduceat(np.where(counts, self._size, 0), begins)
        first = np.minimum.reduceat(np.where(counts, np.arange(count), _NONE), begins)
        # Relative to the first of this side that has payload, for numbers wrap.
        base = self._data_sequence[np.where(first == _NONE, 0, first)]
        ahead = self._data_sequence - np.repeat(base, np.diff(begins, append=count))
        ahead = ((ahead + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
        low = np.minimum.reduceat(np.where(counts, ahead, 0), begins)
        high = np.maximum.reduceat(np.where(counts, ahead + self._size, 0), begins)
        return total, (base + low) & 0xFFFFFFFF, (base + high) & 0xFFFFFFFF
