# SPDX-License-Identifier: Apache-2.0
"""A sink behind a thread of its own: whoever writes never waits for a disk.

What finds no room in the queue is counted, and a gap record says how much once there is room.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

from agentwall.flow.record import GapRecord, Record
from agentwall.sinks.jsonl import Sink

MAX_WAITING = 8192
"""Records that wait for the disk; at some 1 kB each."""
GAP_WHERE = "event-queue"
"""``where`` of a gap record that stands for records that found no room."""
_CLOSE_S = 10.0
_IDLE_S = 1.0
"""Between two times that the thread is woken though nothing waits."""


class Background:
    """Hands records to a sink, in order; :meth:`write` and :meth:`flush` return at once."""

    def __init__(
        self, sink: Sink, others: Sequence[Sink] = (), *, limit: int = MAX_WAITING
    ) -> None:
        """Start the thread.

        Args:
            sink: Gets the records, and is used by this thread alone from now on.
            others: Are flushed and closed with it; what they write comes to them otherwise.
            limit: How many records may wait.
        """
        self._sink = sink
        self._others = others
        self._limit = limit
        self._waiting: deque[Record] = deque()
        self._untold = 0
        self._last: Record | None = None
        """The last of those that were lost and not told of."""
        self._is_writing = False
        self._next_s = 0.0
        self._wake = threading.Event()
        self._is_ending = False
        self._told: deque[tuple[Record, str | None]] = deque()
        self.lost = 0
        """Records that found no room."""
        self._thread = threading.Thread(target=self._run, name="event-log", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        """Take *record*, or count it as lost."""
        if len(self._waiting) >= self._limit:
            self.lost += 1
            self._untold += 1
            self._last = record
            return
        # Before the first that has room again, so that the gap stands where it was.
        self._tell()
        self._waiting.append(record)

    def _tell(self) -> None:
        if self._last is not None:
            self._waiting.append(_gap(self._last, self._untold))
            self._untold, self._last = 0, None

    @property
    def waiting(self) -> int:
        """How many records are not with the sink yet, or not put out by it."""
        return len(self._waiting) + self._is_writing

    def tell(self, record: Record, event_id: str | None) -> None:
        """Keep what the sink tells of *record*, for :meth:`told`: the ``tell`` of an EventLog."""
        self._told.append((record, event_id))

    def told(self) -> Iterator[tuple[Record, str | None]]:
        """Yield what the sink has told since the last time, in the thread of whoever asks."""
        while self._told:
            yield self._told.popleft()

    def flush(self) -> None:
        """Have the thread write what waits: at once, and every second what only the sinks know of.

        That is what they hold back themselves, and whether their file is still where it was.
        """
        now_s = time.monotonic()
        if self._waiting or now_s >= self._next_s:
            self._next_s = now_s + _IDLE_S
            self._wake.set()

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Have what waits written and the sinks closed; a disk that hangs is left behind."""
        self._tell()
        self._is_ending = True
        self._wake.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.lost += len(self._waiting)

    def _run(self) -> None:
        is_ending = False
        while not is_ending:
            self._wake.wait()
            self._is_writing = True
            self._wake.clear()
            is_ending = self._is_ending
            while self._waiting:
                self._sink.write(self._waiting.popleft())
            for sink in (self._sink, *self._others):
                sink.flush()
            self._is_writing = False
        for sink in (self._sink, *self._others):
            sink.close()


def _gap(before: Record, lost: int) -> GapRecord:
    return GapRecord(
        sandbox=before.sandbox,
        time_ns=before.time_ns,
        mono_ns=before.mono_ns,
        where=GAP_WHERE,
        lost=lost,
    )
