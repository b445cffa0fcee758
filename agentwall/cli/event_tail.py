# SPDX-License-Identifier: Apache-2.0
"""The events of a rotated log one after the other, and on as it grows: what ``log`` shows.

A line that is no event is passed over and reported; the chain is ``audit``'s matter.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from agentwall.cli.event_files import with_rotated
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.event_parse import EventFormatError, UnknownSchemaError, parse_line
from agentwall.sinks.eventlog import MAX_LINE_BYTES
from agentwall.sinks.rfc3339 import NS_PER_S

_READ_BYTES = 1 << 18
_ROTATING_S = 0.2
"""The newest file is away for a moment while it is rotated."""
_MOMENT_S = 0.01
_TRIES = 20
"""To open a file that may be rotated between the look for its name and the opening."""

Complain = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the log: its name is another's once it has been rotated."""

    device: int
    inode: int


class Tail:
    """Where in a rotated log reading has got to."""

    def __init__(self, path: str, complain: Complain) -> None:
        """Prepare; nothing is opened yet.

        Args:
            path: Of the newest file; rotated ones beside it are read before.
            complain: Is given a line for each place that could not be read.
        """
        self._path = path
        self._complain = complain
        self._waiting: list[_File] = []
        """Files that are still to be read, the oldest first."""
        self._stream: BinaryIO | None = None
        self._name = path
        self._line = 0
        self._rest = b""
        """Of a line whose end is not there yet."""

    def begin(self, since_ns: int | None) -> None:
        """Open the oldest file that may hold something from *since_ns* on.

        Raises:
            OSError: The newest file is not there, or cannot be read.
        """
        self._look_at_newest()
        self._waiting = [
            each
            for each, name in self._files().items()
            if since_ns is None or _ended_ns(name) >= since_ns
        ]

    def _look_at_newest(self) -> None:
        deadline_s = time.monotonic() + _ROTATING_S
        while True:
            try:
                os.close(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                return
            except FileNotFoundError:
                if not with_rotated(self._path) or time.monotonic() > deadline_s:
                    raise
            time.sleep(_MOMENT_S)

    def _files(self) -> dict[_File, str]:
        """Return the files that there are, the oldest first, each with its name of the moment."""
        found = self._seen()
        # Names move on while they are listed.
        while found != (again := self._seen()):
            found = again
        return found

    def _seen(self) -> dict[_File, str]:
        found = {}
        for name in with_rotated(self._path):
            try:
                found[_file(os.stat(name))] = name
            except OSError:
                continue
        return found

    def close(self) -> None:
        """Close what is open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def read(self) -> Iterator[LoggedEvent]:
        """Yield what is there now, through all files."""
        while True:
            if self._stream is not None:
                yield from self._read_on()
                if not self._waiting and not self._has_moved():
                    return
                # Something may have been written between the last look and the rotation.
                yield from self._read_on()
            if not self._open_next():
                return

    def _read_on(self) -> Iterator[LoggedEvent]:
        stream = self._stream
        while stream is not None and (piece := stream.readline(MAX_LINE_BYTES)):
            self._rest += piece
            if not piece.endswith(b"\n"):
                if len(self._rest) > MAX_LINE_BYTES:
                    self._rest = self._rest[:1]  # too long for an event: only its end is awaited
                continue
            line, self._rest = self._rest[:-1], b""
            self._line += 1
            event = self._parse(line)
            if event is not None:
                yield event

    def _parse(self, line: bytes) -> LoggedEvent | None:
        try:
            return parse_line(line)
        except UnknownSchemaError:
            return None
        except EventFormatError as err:
            self._complain(f"{self._name}:{self._line}: {err}")
            return None

    def _has_moved(self) -> bool:
        """Say whether reading goes on in another file; note those in between."""
        stream = self._stream
        if stream is None:
            return True
        own = os.fstat(stream.fileno())
        try:
            newest = os.stat(self._path)
        except OSError:
            return False  # about to be made anew
        if os.path.samestat(own, newest):
            if newest.st_size < stream.tell():
                self._waiting = [_file(newest)]  # emptied, and begun anew
                return True
            return False
        found = list(self._files())
        if _file(own) in found:
            self._waiting = found[found.index(_file(own)) + 1 :]
            return bool(self._waiting)
        self._complain(f"{self._path}: the file that was read has gone; events may be missing")
        self._waiting = [_file(newest)]
        return True

    def _open_next(self) -> bool:
        while self._waiting:
            opened = self._opened(self._waiting.pop(0))
            if opened is None:
                continue
            self.close()
            if self._rest:
                self._complain(f"{self._name}:{self._line + 1}: cut short in the middle of a line")
            self._name, self._stream = opened
            self._line, self._rest = 0, b""
            return True
        return False

    def _opened(self, wanted: _File) -> tuple[str, BinaryIO] | None:
        for _ in range(_TRIES):
            files = self._files()
            name = files.get(wanted)
            if name is None or not self._comes_first(wanted, list(files)):
                break
            try:
                stream = io.BufferedReader(io.FileIO(name), _READ_BYTES)
            except FileNotFoundError:
                continue
            except OSError as err:
                self._complain(f"{name}: {err.strerror}")
                return None
            if _file(os.fstat(stream.fileno())) == wanted:
                return name, stream
            stream.close()
        self._complain(f"{self._path}: a file has gone before it was read; events may be missing")
        return None

    def _comes_first(self, wanted: _File, files: list[_File]) -> bool:
        """Say whether it is the one of before: the newest may have the inode of one that went."""
        later = [files.index(each) for each in self._waiting if each in files]
        return files.index(wanted) < min(later, default=len(files))


def _file(found: os.stat_result) -> _File:
    return _File(found.st_dev, found.st_ino)


def _ended_ns(path: str) -> int:
    """Return when *path* was last written to; UTC."""
    try:
        # A second more: file systems may round.
        return os.stat(path).st_mtime_ns + NS_PER_S
    except OSError:
        return 0
