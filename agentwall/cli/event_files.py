# SPDX-License-Identifier: Apache-2.0
"""Event files as commands are given them: files, directories or stdin, with progress shown.

What is in them goes to a :class:`Taker`; what could not be read comes back as lines for stderr.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.event_json import LoggedEvent
from agentwall.sinks.eventlog import Chain, Damage, LogError, read_log
from agentwall.sinks.pretty import make_console

_SHOW_PROGRESS_BYTES = 8 << 20
_PROGRESS_EVERY = 5000
_ROTATED = re.compile(r"\.jsonl(?:\.([1-9][0-9]{0,5}))?$", re.ASCII)
CAPTURE_MAGICS = (
    b"\xa1\xb2\xc3\xd4",
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x4d\x3c\xb2\xa1",
    b"\xa1\xb2\xcd\x34",
    b"\x34\xcd\xb2\xa1",
    b"\x0a\x0d\x0d\x0a",
)
"""Of pcap in both byte orders, all resolutions and with longer records, and of pcapng."""


class Taker(Protocol):
    """What events are read for."""

    def begin(self, source: str) -> None:
        """Say that what follows comes from *source*."""

    def add(self, item: LoggedEvent | LogError) -> None:
        """Take one event or error."""


def read_all(names: Iterable[str], taker: Taker) -> list[str]:
    """Feed every input to *taker*; return what could not be read, a line each.

    Args:
        names: Event files, directories of them (``*.jsonl`` and rotated ones), or ``-`` for stdin.
        taker: Is also told where a file was altered or cut, in the place of the events.
    """
    problems = []
    paths = []
    for name in names:
        try:
            paths += _expand(name)
        except OSError as err:
            problems.append(f"{name}: {err.strerror}")
    chains: dict[str, Chain] = {}
    once: set[str] = set()
    for path in in_order(paths):
        try:
            chain = chains.setdefault(_series(path)[0], Chain())
            problems += _read_one(path, taker, Chain() if path in once else chain)
            once.add(path)
        except OSError as err:
            problems.append(f"{path}: {err.strerror}")
    return problems


def is_event_name(name: str) -> bool:
    """Say whether a file is called as event files are: ``x.jsonl``, rotated ``x.jsonl.3``."""
    return _ROTATED.search(name) is not None


def in_order(paths: Iterable[str]) -> list[str]:
    """Return *paths*, but rotated files of one log together and the oldest first."""
    series: dict[str, list[str]] = {}
    for path in paths:
        series.setdefault(_series(path)[0], []).append(path)
    return [
        path
        for found in series.values()
        for path in sorted(found, key=lambda each: _series(each)[1], reverse=True)
    ]


def with_rotated(path: str) -> list[str]:
    """Return the files of the log at *path*: it and the rotated ones beside it, the oldest first.

    Empty if there is none.
    """
    of = Path(path)
    found: dict[int, str] = {}
    for entry in os.listdir(of.parent) if of.parent.is_dir() else ():
        name, _, number = entry.rpartition(".")
        if entry == of.name:
            found[0] = path
        elif name == of.name and number.isascii() and number.isdigit() and len(number) <= 6:
            found[int(number)] = f"{path}.{number}"
    return [found[number] for number in sorted(found, reverse=True)]


def _series(path: str) -> tuple[str, int]:
    """Return the newest file of a rotated log, and how many are newer than *path*."""
    match = _ROTATED.search(path)
    if match is None or match[1] is None:
        return path, 0
    return path[: match.start(1) - 1], int(match[1])


def _expand(name: str) -> list[str]:
    if name == "-" or not Path(name).is_dir():
        return [name]
    beside = (path for path in Path(name).iterdir() if is_event_name(path.name))
    found = sorted(str(path) for path in beside if path.is_file())
    if not found:
        raise FileNotFoundError(0, "expected event files (*.jsonl) in the directory, got none")
    return found


def _read_one(path: str, taker: Taker, chain: Chain) -> list[str]:
    name = "stdin" if path == "-" else path
    taker.begin(name)
    has_events = False
    with _open(path) as stream:
        # A pcapng file begins with a line end, so the first line alone does not tell.
        if stream.peek(4)[:4] in CAPTURE_MAGICS:
            return [f"{name}: expected an event file, got a packet capture"]
        for item in _with_progress(read_log(stream, name, chain), stream, name):
            if isinstance(item, LogError) and item.damage is Damage.UNREADABLE:
                return [str(item)]
            has_events = has_events or isinstance(item, LoggedEvent)
            taker.add(item)
    return [] if has_events else [f"{name}: expected events of agentwall run, got none"]


@contextmanager
def _open(path: str) -> Iterator[io.BufferedReader[io.FileIO]]:
    if path == "-":
        # Somebody may have looked at its first bytes: they are in this buffer.
        yield cast("io.BufferedReader[io.FileIO]", sys.stdin.buffer)
        return
    with io.BufferedReader(io.FileIO(path), 1 << 20) as stream:
        yield stream


def _with_progress(
    items: Iterator[LoggedEvent | LogError], stream: io.BufferedReader[io.FileIO], name: str
) -> Iterator[LoggedEvent | LogError]:
    """Yield *items*, with a progress bar on stderr where that is a terminal and the file long."""
    status = os.fstat(stream.fileno())
    if not (stat.S_ISREG(status.st_mode) and status.st_size > _SHOW_PROGRESS_BYTES):
        yield from items
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    console = make_console(sys.stderr)
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        title = shorten(printable(Path(name).name), 40)
        task = progress.add_task(title, total=status.st_size)
        for number, item in enumerate(items):
            if number % _PROGRESS_EVERY == 0:
                progress.update(task, completed=stream.tell())
            yield item
