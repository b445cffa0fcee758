# SPDX-License-Identifier: Apache-2.0
"""Where a command that is about to be executed has its TLS libraries: files of its own.

Beside what distributions install: what ``LD_LIBRARY_PATH`` and the program's ``DT_RUNPATH`` name,
and ``../lib`` of the directories that programs are in, as conda and most that is unpacked
somewhere have it (ld.so(8)). What the command loads by other rules of its own is not known here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from agentwall.probes.elf import ElfError, read_elf
from agentwall.probes.mounts import Mounts
from agentwall.probes.walking import library_names, open_below, open_regular

MAX_PLACES = 64
"""Directories that are looked into."""
MAX_NAMED = 4 * MAX_PLACES
"""Directories that are named, those that are not there included."""
MAX_INTERPRETERS = 3
"""A script's program may be a script; ``env`` counts as one."""

_MAX_SCRIPT_LINE = 256  # BINPRM_BUF_SIZE
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ORIGIN = re.compile(r"\$(?:ORIGIN\b|\{ORIGIN\})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command, as far as it tells where its libraries are."""

    program: str
    """As it is called: a path, or a name that is looked for in *path*."""
    path: str = ""
    """``PATH``; empty: the usual one."""
    library_path: str = ""
    """``LD_LIBRARY_PATH``."""
    directory: str = "/"
    """Where it is started: relative paths begin there."""


def files_of(mounts: Mounts, root: int, command: Command) -> Iterator[tuple[int, str]]:
    """Yield its programs and what may be TLS libraries of it, each open for reading, with its path.

    The caller closes them. None is on a file system that may hang.

    Args:
        mounts: Those of a process in whose mount namespace *root* was opened.
        root: The root directory that it has when it is executed, open.
        command: What is to be executed.
    """
    search = _Search(mounts, root, command)
    yield from search.programs()
    seen: set[str] = set()
    for place in islice(search.places(), MAX_NAMED):
        opened = open_below(mounts, root, place)
        if opened is None:
            continue
        fd, where = opened
        try:
            names = [] if where in seen or len(seen) >= MAX_PLACES else _names(fd)
        finally:
            os.close(fd)
        seen.add(where)
        for name in names:
            if (found := search.open_file(f"{where}/{name}")) is not None:
                yield found


class _Search:
    def __init__(self, mounts: Mounts, root: int, command: Command) -> None:
        self._mounts = mounts
        self._root = root
        self._command = command
        self._path = [self._absolute(each) for each in (command.path or _DEFAULT_PATH).split(":")]
        # Where programs are, by their names and without links; and what they name themselves.
        self._homes: dict[str, None] = {}
        self._named: dict[str, None] = {}

    def programs(self) -> Iterator[tuple[int, str]]:
        """Yield the program, and what interprets it where it is a script."""
        name: str | None = self._command.program
        for _ in range(MAX_INTERPRETERS):
            found = None if name is None else self._find(name)
            if found is None:
                return
            fd, where = found
            self._homes[os.path.dirname(where)] = None
            name = self._look_into(fd, os.path.dirname(where))
            yield fd, where

    def places(self) -> Iterator[str]:
        """Yield directories, those that are searched first before others; some of them twice."""
        for each in re.split("[:;]", self._command.library_path):
            if each:
                yield self._absolute(each)
        yield from self._named
        for home in (*self._homes, *self._path):
            yield f"{home}/../lib"
            yield home

    def _find(self, name: str) -> tuple[int, str] | None:
        if "/" in name:
            tried = [self._absolute(name)]
        else:
            tried = [f"{each}/{name}" for each in self._path[:MAX_PLACES]]
        for path in tried:
            if (found := self.open_file(path)) is not None:
                self._homes[os.path.dirname(path)] = None
                return found
        return None

    def _look_into(self, fd: int, home: str) -> str | None:
        """Note where a program has its libraries; return its interpreter if it is a script."""
        try:
            line = os.pread(fd, _MAX_SCRIPT_LINE, 0).partition(b"\n")[0]
            if not line.startswith(b"#!"):
                for each in read_elf(fd, frozenset()).search_path:
                    self._named[self._absolute(_ORIGIN.sub(lambda _: home, each))] = None
                return None
        except (ElfError, OSError):
            return None
        words = os.fsdecode(line[2:]).split()
        if len(words) > 1 and os.path.basename(words[0]) == "env":
            words = [each for each in words[1:] if not each.startswith("-") and "=" not in each]
        return words[0] if words else None

    def open_file(self, path: str) -> tuple[int, str] | None:
        """Open a regular file for reading; return it with its path without links."""
        opened = open_below(self._mounts, self._root, path)
        if opened is None:
            return None
        found, where = opened
        fd = open_regular(found)
        return None if fd is None else (fd, where)

    def _absolute(self, path: str) -> str:
        return os.path.join(self._command.directory, path)


def _names(found: int) -> list[str]:
    try:
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return library_names(fd)
    finally:
        os.close(fd)
