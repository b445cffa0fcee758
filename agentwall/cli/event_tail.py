# SPDX-License-Identifier: Apache-2.0
"""The events of a rotated log one after the other, and on as it grows: what ``log`` shows.

A line that is no event is passed over and reported; the chain is ``audit``'s matter.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from agentwall.cli.event_files import with_rotated
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.event_parse import EventFormatError, UnknownSchemaError, parse_line
from agentwall.sinks.eventlog import MAX_LINE_BYTES
from agentwall.sinks.rfc3339 import NS_PER_S

_READ_BYTES = 1 << 18

Complain = Callable[[str], None]


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
        self._waiting: list[str] = []
        """Rotated files that are still to be read, the oldest first."""
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
        os.close(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        found = with_rotated(self._path)
        if since_ns is not None:
            found = [each for each in found if _ended_ns(each) >= since_ns]
        self._waiting = found

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
                self._waiting = [self._path]  # emptied, and begun anew
                return True
            return False
        found = with_rotated(self._path)
        for number, each in enumerate(found):
            try:
                if os.path.samestat(own, os.stat(each)):
                    self._waiting = found[number + 1 :]
                    return bool(self._waiting)
            except OSError:
                continue
        self._complain(f"{self._path}: the file that was read has gone; events may be missing")
        self._waiting = [self._path]
        return True

    def _open_next(self) -> bool:
        while self._waiting:
            name = self._waiting.pop(0)
            try:
                stream = io.BufferedReader(io.FileIO(name), _READ_BYTES)
            except OSError as err:
                self._complain(f"{name}: {err.strerror}")
                continue
            self.close()
            if self._rest:
                self._complain(f"{self._name}:{self._line + 1}: cut short in the middle of a line")
            self._stream, self._name, self._line, self._rest = stream, name, 0, b""
            return True
        return False


def _ended_ns(path: str) -> int:
    """Return when *path* was last written to; UTC."""
    try:
        # A second more: file systems may round.
        return os.stat(path).st_mtime_ns + NS_PER_S
    except OSError:
        return 0
