# SPDX-License-Identifier: Apache-2.0
"""The event log: records as JSON lines, each carrying the hash of the line before.

Counterpart: :mod:`agentwall.sinks.eventlog` reads it and says where the chain does not hold.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from agentwall.errors import HostError
from agentwall.flow.record import GapRecord, Record
from agentwall.sinks.event_json import FIRST_PREV, LoggedEvent, format_line

logger = logging.getLogger(__name__)

BATCH = 512
"""Records held back at most, whether or not :meth:`EventLog.flush` is called."""
GAP_WHERE = "event-file"
"""``where`` of a gap record that stands for records this writer could not write."""


Tell = Callable[[Record, str | None], None]
"""What else takes records, each with the id of its event."""


class Sink(Protocol):
    """Where records go. No method raises because of the medium behind it."""

    def write(self, record: Record) -> None:
        """Take *record*; it may be held back until :meth:`flush`."""

    def flush(self) -> None:
        """Put out what is held back."""

    def close(self) -> None:
        """Put out what is held back, for the last time."""


def open_event_file(path: str, *, group: int | None = None) -> int:
    """Create *path* for an :class:`EventLog` and return its descriptor.

    Mode 0640 and owned by the caller, so that the command it accuses, whose group may be *group*,
    can at most read it. A log that exists is never added to or cut: it is evidence. A pipe or a
    device is opened as it is.

    Raises:
        HostError: It exists, or cannot be made.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
        except FileExistsError:
            return _open_device(path, flags)
        os.fchmod(descriptor, 0o640)
        if group is not None:
            os.fchown(descriptor, -1, group)
    except OSError as err:
        raise HostError(f"event file {path}: {os.strerror(err.errno or 0)}") from err
    return descriptor


def _open_device(path: str, flags: int) -> int:
    if stat.S_ISREG(os.lstat(path).st_mode):
        raise HostError(f"event file {path}: exists already; choose another name or remove it")
    link = HostError(f"event file {path}: expected a new file, got a symbolic link to one")
    try:
        descriptor = os.open(path, flags & ~os.O_NOFOLLOW)
    except FileNotFoundError as err:
        raise link from err
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise link
    os.set_blocking(descriptor, True)
    return descriptor


class EventLog:
    """Writes one run's event file.

    A disk that is full or gone raises nothing: what cannot be written is counted, the file is cut
    back to its last whole line, and once writing works again a gap record says how much is
    missing. Not safe for several threads.
    """

    def __init__(self, descriptor: int, run: str, tell: Tell | None = None) -> None:
        """Write to *descriptor*, which :meth:`close` closes.

        Args:
            descriptor: Of a file, a pipe or a device.
            run: Begins every event's id.
            tell: Is told of each record with the id that it has got, or with None if it could not
                be written.
        """
        self._descriptor = descriptor
        self._run = run
        self._tell = tell
        self._pending: list[Record] = []
        self._last: Record | None = None
        self._prev = FIRST_PREV
        self._number = 0
        self._lost = 0
        self._is_torn = False
        self._is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self.written = 0
        """Lines in the file."""
        self.failed = 0
        """Records that never got there."""

    def write(self, record: Record) -> None:
        """Take *record*; it is in the file after :meth:`flush`, or sooner."""
        self._pending.append(record)
        self._last = record
        if len(self._pending) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what is held back, and try again to say what was lost."""
        records = self._take()
        if not records:
            return
        done = self._put(self._format(records))
        self._settle(records[:done])
        self._lose(records[done:])

    def _take(self) -> list[Record]:
        """Return what is held back, after a gap for what was lost before."""
        records, self._pending = self._pending, []
        if self._lost and self._last is not None:
            records.insert(0, _gap(records[0] if records else self._last, self._lost))
        return records

    def _settle(self, written: Sequence[Record]) -> None:
        """Take note of what was written: a gap among it has told of what was lost before."""
        if any(map(_is_own_gap, written)):
            self._lost = 0
        if self._tell is not None:
            for number, record in enumerate(written, self._number - len(written) + 1):
                self._tell(record, f"{self._run}-{number}")

    def close(self) -> None:
        """Write what is held back, have the kernel put it on the disk, and close the file."""
        self.flush()
        # fsync is refused by pipes and devices; everything that can be done was done.
        with suppress(OSError):
            os.fsync(self._descriptor)
        with suppress(OSError):
            os.close(self._descriptor)

    def _format(self, records: Sequence[Record]) -> list[bytes]:
        lines, prev = [], self._prev
        for number, record in enumerate(records, self._number + 1):
            event = LoggedEvent(id=f"{self._run}-{number}", record=record, prev=prev)
            line = format_line(event)
            prev = hashlib.sha256(line).hexdigest()
            lines.append(line + b"\n")
        return lines

    def _put(self, lines: Sequence[bytes]) -> int:
        """Write *lines*; return how many are in the file whole."""
        # What is left of a line that could not be taken back is ended, to spoil no other.
        torn = b"\n" if self._is_torn else b""
        written = self._write_all(torn + b"".join(lines)) - len(torn)
        if written >= 0:
            self._is_torn = False
        done = whole = 0
        while done < len(lines) and whole + len(lines[done]) <= written:
            whole += len(lines[done])
            done += 1
        if done:
            self._prev = hashlib.sha256(lines[done - 1][:-1]).hexdigest()
        self._number += done
        self.written += done
        if written > whole:
            self._is_torn = not self._cut(written - whole)
        return done

    def _write_all(self, data: bytes) -> int:
        """Return how many bytes of *data* were written: all, or as many as the medium took."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as err:
            if not self._lost:
                logger.warning("event file: %s", os.strerror(err.errno or 0))
        return len(data) - len(left)

    def _cut(self, size: int) -> bool:
        """Take back the last *size* bytes; say whether that worked."""
        if not self._is_regular:
            return False
        try:
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR) - size
            os.ftruncate(self._descriptor, end)
            os.lseek(self._descriptor, end, os.SEEK_SET)
        except OSError as err:
            logger.warning("event file: cut back: %s", os.strerror(err.errno or 0))
            return False
        return True

    def _lose(self, records: Sequence[Record]) -> None:
        """Count *records* as lost; a gap record among them stands for those it tells of."""
        fresh = [record for record in records if not _is_own_gap(record)]
        self._lost += len(fresh)
        self.failed += len(fresh)
        # Numbers are not used again, so that a reader sees from the ids alone how many are missing.
        self._number += len(fresh)
        if self._tell is not None:
            for record in fresh:
                self._tell(record, None)


def _gap(before: Record, lost: int) -> GapRecord:
    return GapRecord(
        sandbox=before.sandbox,
        time_ns=before.time_ns,
        mono_ns=before.mono_ns,
        where=GAP_WHERE,
        lost=lost,
    )


def _is_own_gap(record: Record) -> bool:
    return isinstance(record, GapRecord) and record.where == GAP_WHERE
