# SPDX-License-Identifier: Apache-2.0
"""The daemon's event log: lines of ``agentwall.event/1`` in files that are rotated, one chain.

``events.jsonl`` becomes ``events.jsonl.1``, that ``.2``, and so on. Each further file begins with a
``log-continued`` record whose ``prev`` is the hash of the last line of the file before; so the
files, read the oldest first, are one log, also over restarts. A last line that a crash has torn is
ended, and a gap record follows it.

What is written reaches the disk when the kernel writes it back, within half a minute; a file is
synced when it is rotated or closed. So a power failure may cost the last seconds: never does the
log wait for a disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agentwall.errors import HostError
from agentwall.flow.record import HOST, Record, StateRecord
from agentwall.sinks.event_json import FIRST_PREV
from agentwall.sinks.eventlog import CONTINUED
from agentwall.sinks.jsonl import EventLog, Tell

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
"""Between two looks at whether the file is still where it was."""
_TAIL_BYTES = 1 << 16
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class RotatingLog(EventLog):
    """Writes the daemon's event file; full disks and moved files are survived as they come."""

    def __init__(
        self,
        path: Path,
        run: str,
        *,
        max_bytes: int,
        keep: int,
        group: int | None = None,
        tell: Tell | None = None,
    ) -> None:
        """Go on with the log at *path*, or begin one.

        Args:
            path: Of the newest file; its directory is made if it is missing.
            run: Begins every event's id; another one for each daemon.
            max_bytes: A file is rotated before it grows beyond that.
            keep: How many rotated files are kept.
            group: Id of the group that may read the files.
            tell: As of :class:`EventLog`.

        Raises:
            HostError: It is a link, not a regular file or somebody else's, or cannot be opened.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._group = group
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            super().__init__(self._open(), run, tell)
            self._resume()
        except OSError as err:
            raise HostError(f"event log {path}: {os.strerror(err.errno or 0)}") from err
        self._next_look_s = time.monotonic() + _LOOK_S
        self.rotated = 0
        """How often a file was rotated."""
        self.problem: str | None = None
        """Why the file is not where it should be, or not rotated; None: all is well."""

    def _open(self) -> int:
        """Open or make the file at the path, and return its descriptor."""
        try:
            descriptor = os.open(self._path, _FLAGS | os.O_CREAT, 0o640)
        except OSError as err:
            if self._path.is_symlink():
                raise HostError(f"event log {self._path}: expected a file, got a link") from err
            raise
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise HostError(f"event log {self._path}: expected a regular file with one name")
            if found.st_uid != os.geteuid():
                raise HostError(
                    f"event log {self._path}: expected a file of our own, "
                    f"got one of uid {found.st_uid}"
                )
            os.fchmod(descriptor, 0o640)
            if self._group is not None:
                os.fchown(descriptor, -1, self._group)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _resume(self) -> None:
        """Take up the chain where the last daemon left it."""
        for path in (self._path, self._numbered(1)):
            tail = _last_line(path)
            if tail is None:
                continue
            self._prev, is_whole = tail
            if not is_whole and path == self._path:
                self._is_torn = True
                self._lost = 1
            return

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def flush(self) -> None:
        """Write what is held back, in a new file once this one is full."""
        self._look()
        records = self._take()
        is_stuck = False
        while records:
            if self._size() == 0 and self._prev != FIRST_PREV and not _begins(records[0]):
                records.insert(0, self._continuation(records[0]))
            lines = self._format(records)
            fitting = len(lines) if is_stuck else self._fitting(lines, _begins(records[0]))
            if not fitting:
                is_stuck = not self._rotate()
                continue
            if self._write_some(records, lines, fitting) < fitting:
                return
            records = records[fitting:]

    def _write_some(self, records: list[Record], lines: Sequence[bytes], fitting: int) -> int:
        """Write the first *fitting* of *lines*; return how many are in the file."""
        done = self._put(lines[:fitting])
        self._settle(records[:done])
        if done < fitting:
            self._lose([record for record in records[done:] if not _begins(record)])
        return done

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _fitting(self, lines: Sequence[bytes], begins: bool) -> int:
        """Return how many of *lines* this file has room for; at least one where it is empty.

        What *begins* a file is not to be all that is in it.
        """
        size = before = self._size()
        for number, line in enumerate(lines):
            size += len(line)
            if size > self._max_bytes:
                return min(max(number, 0 if before else 1 + begins), len(lines))
        return len(lines)

    def _continuation(self, first: Record) -> StateRecord:
        return StateRecord(
            sandbox=HOST,
            time_ns=first.time_ns,
            mono_ns=first.mono_ns,
            state=CONTINUED,
            detail={"file": self._path.name, "run": self._run},
        )

    def _rotate(self) -> bool:
        """Begin a new file; say whether that worked. If not this one goes on beyond its size."""
        if not self._is_in_place():
            # Somebody else has moved it: the rotated files are not to move up once more.
            return self._reopen()
        try:
            for number in range(self._keep, 1, -1):
                with suppress(FileNotFoundError):
                    os.replace(self._numbered(number - 1), self._numbered(number))
            if self._keep:
                os.replace(self._path, self._numbered(1))
            else:
                os.unlink(self._path)
        except OSError as err:
            self._complain(f"rotating: {os.strerror(err.errno or 0)}")
            return False
        if not self._reopen():
            return False
        self.rotated += 1
        return True

    def _look(self) -> None:
        """Open the file anew where somebody has moved or deleted it, as logrotate does."""
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_S
        if not self._is_in_place():
            self._reopen()
        elif self._size() <= self._max_bytes:
            self.problem = None

    def _is_in_place(self) -> bool:
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return False  # It has gone; opening it says what else there may be.
        return os.path.samestat(found, os.fstat(self._descriptor))

    def _reopen(self) -> bool:
        try:
            descriptor = self._open()
        except (HostError, OSError) as err:
            text = str(err) if isinstance(err, HostError) else os.strerror(err.errno or 0)
            self._complain(text)
            return False
        # That takes as long as the disk likes, and nobody waits for it.
        threading.Thread(target=_put_away, args=(self._descriptor,), daemon=True).start()
        self._descriptor, self._is_torn = descriptor, False
        self.problem = None
        return True

    def _complain(self, problem: str) -> None:
        if self.problem != problem:
            logger.warning("event log %s: %s", self._path, problem)
        self.problem = problem


def _put_away(descriptor: int) -> None:
    """Have the disk take what is in a file that was rotated, and close it."""
    with suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def _begins(record: Record) -> bool:
    return isinstance(record, StateRecord) and record.state == CONTINUED


def _last_line(path: Path) -> tuple[str, bool] | None:
    """Return the hash of the last line of a file, and whether it has its end; None: no line."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        if not end:
            return None
        file.seek(end - 1)
        is_whole = file.read(1) == b"\n"
        end -= is_whole
        begin = end
        while begin > 0:
            start = max(begin - _TAIL_BYTES, 0)
            file.seek(start)
            at = file.read(begin - start).rfind(b"\n")
            if at >= 0:
                begin = start + at + 1
                break
            begin = start
        file.seek(begin)
        digest, left = hashlib.sha256(), end - begin
        while left > 0 and (piece := file.read(min(left, _TAIL_BYTES))):
            digest.update(piece)
            left -= len(piece)
        return digest.hexdigest(), is_whole
