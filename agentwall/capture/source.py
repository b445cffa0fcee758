# SPDX-License-Identifier: Apache-2.0
"""Where captures come from: files, directories, standard input; compressed or not.

Goes out to :mod:`agentwall.capture.records` as chunks of bytes; nothing here knows what they mean.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

STDIN = "-"
"""The path that means standard input."""
CHUNK = 4 << 20
"""Bytes that are read at a time."""
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib: 15 bits, and a gzip header


class ReadError(Exception):
    """A source ended before it was whole, or could not be read; the message says how."""


class Reader(Protocol):
    """Bytes in order."""

    def read(self, size: int) -> bytes:
        """Return 1 to *size* bytes, or none at the end.

        Raises:
            ReadError: It could not be read on from here.
        """
        ...


def capture_paths(paths: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Replace directories by the files below them, sorted.

    Returns:
        The paths, and for each that cannot be listed the path and why. Whatever is no plain file
        inside a directory (a socket, a broken link) is left out; one that was named is kept.
    """
    found: list[str] = []
    problems: list[tuple[str, str]] = []
    for path in paths:
        if path == STDIN or not os.path.isdir(path):
            found.append(path)
            continue
        for root, directories, names in os.walk(
            path, onerror=lambda error: problems.append((str(error.filename), _cause(error)))
        ):
            directories.sort()
            found += [
                os.path.join(root, name)
                for name in sorted(names)
                if os.path.isfile(os.path.join(root, name))
            ]
    return found, problems


@contextmanager
def open_source(path: str) -> Iterator[tuple[Reader, int]]:
    """Open *path* for reading.

    Yields:
        Its bytes, uncompressed, and its size on disk (0 where that is not known).

    Raises:
        ReadError: It cannot be opened.
    """
    if path == STDIN:
        yield _begin(_Plain(sys.stdin.buffer)), 0
        return
    with _open(path) as file:
        yield _begin(_Plain(file)), os.fstat(file.fileno()).st_size


def _open(path: str) -> BinaryIO:
    try:
        # Only files and pipes: opening a device may do things.
        if not os.path.isfile(path) and not Path(path).is_fifo():
            raise ReadError("expected a file" if os.path.exists(path) else "no such file")
        return Path(path).open("rb", buffering=0)
    except (OSError, ValueError) as error:
        raise ReadError(_cause(error)) from error


def _cause(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _begin(plain: _Plain) -> Reader:
    return _Gzip(plain) if plain.peek(len(_GZIP)) == _GZIP else plain


class _Plain:
    """A file, with a look at its first bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._seen = b""

    def peek(self, size: int) -> bytes:
        try:
            while len(self._seen) < size:
                more = self._read(size - len(self._seen))
                if not more:
                    break
                self._seen += more
        except ReadError:
            pass  # the same read fails again when it matters
        return self._seen

    def read(self, size: int) -> bytes:
        if self._seen:
            seen, self._seen = self._seen[:size], self._seen[size:]
            return seen
        return self._read(size)

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size) or b""
        except OSError as error:
            raise ReadError(_cause(error)) from error


class _Gzip:
    """Members of RFC 1952, one after the other, never more than asked for at once."""

    def __init__(self, plain: _Plain) -> None:
        self._plain = plain
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._is_inside = False
        self._input = b""

    def read(self, size: int) -> bytes:
        while True:
            if not self._input:
                self._input = self._plain.read(CHUNK)
                if not self._input:
                    if self._is_inside:
                        self._is_inside = False
                        raise ReadError("gzip data ends before it is whole")
                    return b""
            if not self._is_inside and not self._input.startswith(_GZIP[: len(self._input)]):
                self._input = b""
                return b""  # padding after the last member, as tapes have it
            if data := self._inflate(size):
                return data

    def _inflate(self, size: int) -> bytes:
        self._is_inside = True
        try:
            data = self._member.decompress(self._input, size)
        except zlib.error as error:
            self._is_inside, self._input = False, b""
            self._member = zlib.decompressobj(_GZIP_WINDOW)
            raise ReadError(f"broken gzip data: {error}") from error
        self._input = self._member.unconsumed_tail
        if self._member.eof:
            self._input = self._member.unused_data
            self._member = zlib.decompressobj(_GZIP_WINDOW)
            self._is_inside = False
        return data
