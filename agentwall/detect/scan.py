# SPDX-License-Identifier: Apache-2.0
"""Run the automaton over bytes, as the kernel does: over one stream, or over many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentwall.detect.automaton import DEAD, Automaton
from agentwall.detect.signature import Side, Transport

# How many bytes of all streams are looked at together: what bounds memory.
_WINDOW_BYTES = 1 << 20
# How many streams are stepped together.
_TOGETHER = 1 << 14
# Most streams are settled by their first bytes: after so many those that are get left out, then
# after twice as many, and so on.
_FIRST_STEPS = 16
_MOST_STEPS = 4096
# A step of so few streams together costs more than stepping each on its own.
_FEW = 24


Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Hit:
    """What was found in a stream."""

    accept: int
    """Index into :attr:`Automaton.accepts`."""
    end: int
    """How many bytes of the stream had been read."""


def scan(
    automaton: Automaton, transport: Transport, side: Side, data: bytes, *, whole: bool = False
) -> list[Hit]:
    """Find in *data*, what *side* says from its first byte on.

    Args:
        automaton: Of all signatures.
        transport: What carries the bytes.
        side: Who says them.
        data: A stream or the beginning of one, or a datagram or the beginning of one.
        whole: It is a datagram that ends here.

    Returns:
        In order, where each set of signatures was first found.
    """
    state = automaton.starts[transport, side]
    hits: dict[int, Hit] = {}
    state = _walk(automaton, state, data, 0, hits)
    if whole:
        _note_end(automaton, state, len(data), hits)
    return list(hits.values())


def _walk(automaton: Automaton, state: int, data: bytes, begin: int, hits: dict[int, Hit]) -> int:
    # Indexing a memoryview makes ints, without the detour through NumPy's scalars.
    width, cells = automaton.width, automaton.next.data.cast("B").cast("H")
    accepting = automaton.first_accepting
    for at, byte in enumerate(data[begin:].translate(automaton.classes), begin + 1):
        state = cells[state * width + byte]
        if state == DEAD:
            break
        if state >= accepting:
            accept = int(automaton.accept_of[state])
            if accept not in hits:
                hits[accept] = Hit(accept, at)
    return state


def _note_end(automaton: Automaton, state: int, size: int, hits: dict[int, Hit]) -> None:
    accept = int(automaton.end_of[state])
    if accept and accept not in hits:
        hits[accept] = Hit(accept, size)


def scan_many(
    automaton: Automaton,
    transport: Transport,
    side: Side,
    streams: Sequence[bytes],
    *,
    whole: bool = False,
) -> list[list[Hit]]:
    """Find in each of *streams* what :func:`scan` finds there."""
    return Scanner(automaton).scan_many(transport, side, streams, whole=whole)


class Scanner:
    """An automaton made ready for many streams at once: for more than one batch of them."""

    def __init__(self, automaton: Automaton) -> None:
        """Take some milliseconds, and eight bytes for each cell."""
        self.automaton = automaton
        # One more class, of what stands behind a stream's end: it leaves a state as it is. States
        # are known by where their rows begin, so that a step is one addition and one look-up.
        self.width = automaton.width + 1
        table = np.empty((automaton.states, self.width), np.int64)
        table[:, :-1] = automaton.next
        table[:, -1] = np.arange(automaton.states)
        self.table = (table * self.width).ravel()
        self.classes = np.frombuffer(automaton.classes, np.uint8).astype(np.int64)

    def scan_many(
        self, transport: Transport, side: Side, streams: Sequence[bytes], *, whole: bool = False
    ) -> list[list[Hit]]:
        """Find in each of *streams* what :func:`scan` finds there."""
        start = self.automaton.starts[transport, side]
        batch = _Batch(self, streams)
        for begin in range(0, len(streams), _TOGETHER):
            batch.run(start, np.arange(begin, min(begin + _TOGETHER, len(streams))), whole=whole)
        return [list(hits.values()) for hits in batch.found]


class _Batch:
    def __init__(self, scanner: Scanner, streams: Sequence[bytes]) -> None:
        self._automaton = scanner.automaton
        self._width, self._table, self._classes = scanner.width, scanner.table, scanner.classes
        self._streams = streams
        self.found: list[dict[int, Hit]] = [{} for _ in streams]

    def run(self, start: int, streams: Indices, *, whole: bool) -> None:
        """Step *streams*, indices of some, from *start* until each has died or ended."""
        sizes = np.array([len(self._streams[stream]) for stream in streams], np.int64)
        states = np.full(len(streams), start * self._width, np.int64)
        begin, steps = 0, _FIRST_STEPS
        while True:
            if whole:
                self._note_ends(streams, states, sizes, begin)
            is_left = (states != DEAD) & (sizes > begin)
            streams, states, sizes = streams[is_left], states[is_left], sizes[is_left]
            if len(streams) <= _FEW:
                break
            steps = max(1, min(steps, _WINDOW_BYTES // len(streams), int(sizes.max()) - begin))
            states = self._step(streams, states, begin, steps)
            begin, steps = begin + steps, min(2 * steps, _MOST_STEPS)
        for stream, row in zip(streams.tolist(), states.tolist(), strict=True):
            data, hits = self._streams[stream], self.found[stream]
            state = _walk(self._automaton, row // self._width, data, begin, hits)
            if whole:
                _note_end(self._automaton, state, len(data), hits)

    def _step(self, streams: Indices, states: Indices, begin: int, steps: int) -> Indices:
        pieces = [self._streams[stream][begin : begin + steps] for stream in streams.tolist()]
        joined = b"".join([piece.ljust(steps, b"\0") for piece in pieces])
        rows = np.frombuffer(joined, np.uint8).reshape(len(pieces), steps)
        classes = np.ascontiguousarray(self._classes[rows].T)
        read = np.array([len(piece) for piece in pieces])
        short = np.flatnonzero(read < steps)
        classes[:, short] = np.where(
            np.arange(steps)[:, None] < read[short], classes[:, short], self._width - 1
        )
        accepting = self._automaton.first_accepting * self._width
        # What a stream has matched with the byte before: states that match byte after byte cost
        # no look each time.
        last = np.zeros(len(streams), np.int64)
        for step in range(steps):
            states = self._table[states + classes[step]]
            matched = np.flatnonzero(states >= accepting)
            if len(matched):
                self._note(streams, states, last, matched, begin + step + 1)
        return states

    def _note(
        self, streams: Indices, states: Indices, last: Indices, matched: Indices, end: int
    ) -> None:
        accepts = self._automaton.accept_of[states[matched] // self._width].astype(np.int64)
        is_new = accepts != last[matched]
        last[matched] = accepts
        new = zip(streams[matched[is_new]].tolist(), accepts[is_new].tolist(), strict=True)
        for stream, accept in new:
            self.found[stream].setdefault(accept, Hit(accept, end))

    def _note_ends(self, streams: Indices, states: Indices, sizes: Indices, begin: int) -> None:
        """Note what matches as it ends, of all that ended in the last steps."""
        ended = np.flatnonzero(
            (sizes <= begin) & (self._automaton.end_of[states // self._width] != 0)
        )
        for index in ended.tolist():
            state = int(states[index]) // self._width
            _note_end(self._automaton, state, int(sizes[index]), self.found[int(streams[index])])
