# SPDX-License-Identifier: Apache-2.0
"""What ``audit`` is given: event files, captures or both, told apart by what they begin with.

A file that is named is always read as one or the other. In a directory, and in those below it,
whatever is neither is left alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from agentwall.capture.source import STDIN, ReadError, capture_paths, open_source
from agentwall.cli.event_files import CAPTURE_MAGICS, is_event_name

_GZIP = b"\x1f\x8b"
_CAPTURE_SUFFIXES = (".pcap", ".pcapng", ".cap", ".dmp", ".pcap.gz", ".pcapng.gz", ".cap.gz")
"""Of files that are captures by name, though they do not begin as one: told as broken."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Names of files, or ``-``, in the order they were given."""

    events: list[str] = field(default_factory=list)
    captures: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Lines on what is neither, or cannot be read."""


def sort_inputs(names: Iterable[str]) -> Inputs:
    """Return what *names*, of files and directories or ``-``, stand for."""
    found = Inputs()
    for name in dict.fromkeys(names):
        if name != STDIN and os.path.isdir(name):
            _add_directory(found, name)
        elif name != STDIN and not os.path.exists(name):
            found.problems.append(f"{name}: No such file or directory")
        else:
            (found.captures if _is_capture(name) else found.events).append(name)
    return found


def _add_directory(found: Inputs, name: str) -> None:
    paths, problems = capture_paths([name])
    found.problems.extend(f"{path}: {what}" for path, what in problems)
    before = len(found.events) + len(found.captures)
    for path in paths:
        if is_event_name(path):
            found.events.append(path)
        elif _is_capture(path):
            found.captures.append(path)
    if not problems and len(found.events) + len(found.captures) == before:
        found.problems.append(
            f"{name}: expected event files (*.jsonl) or captures in the directory, got none"
        )


def _is_capture(name: str) -> bool:
    head = _head(name)
    if head.startswith(CAPTURE_MAGICS) or name.lower().endswith(_CAPTURE_SUFFIXES):
        return True
    if not head.startswith(_GZIP):
        return False
    # stdin cannot be unpacked without being read; event files are never compressed.
    return name == STDIN or _unpacked(name).startswith(CAPTURE_MAGICS)


def _head(name: str) -> bytes:
    if name == STDIN:
        stream = sys.stdin.buffer
        return stream.peek(4)[:4] if isinstance(stream, BufferedReader) else b""
    try:
        # A pipe can be read once, and by whoever is meant.
        if not Path(name).is_file():
            return b""
        with Path(name).open("rb") as file:
            return file.read(4)
    except OSError:
        return b""  # opening it again says why


def _unpacked(name: str) -> bytes:
    try:
        with open_source(name) as (reader, _):
            return reader.read(4)
    except ReadError:
        return b""
