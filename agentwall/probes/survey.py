# SPDX-License-Identifier: Apache-2.0
"""One look at what a process maps: its TLS libraries, and whether its text can be read with them.

Opens what may be one (``mappings.py``) and says what it is (``facts.py``); the caller has it
probed. Nothing here raises because a process ends meanwhile or hides its files. It reads disks that
a sandbox may have chosen: not for the thread that must never wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Mapping as Offsets
from dataclasses import dataclass

from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.probes.facts import UNKNOWN, Build, Facts, facts_of
from agentwall.probes.libraries import may_be_library
from agentwall.probes.mappings import (
    FileId,
    Mapping,
    MappingError,
    executable_mappings,
    open_mapping,
    open_real,
)
from agentwall.probes.mounts import Mounts
from agentwall.probes.walking import reopen

_MAX_STAT_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file that is a TLS library."""

    file: FileId
    """The inode that uprobes hang on: below an overlay."""
    fd: int
    """That file, open for reading for the time of the call."""
    path: str
    """As the process sees it, who chose it."""
    library: TlsLibrary
    offsets: Offsets[str, int]
    """Where in the file its functions begin, by symbol."""


Use = Callable[[Found], Unread | None]
"""Has a library probed, and says why its calls are not read; None: they are."""


def survey(pid: int, use: Use, mounts: Mounts | None = None) -> tuple[TlsReading, list[Mapping]]:
    """Have the libraries that process *pid* maps probed; say whether and how its text is read.

    They are known by name, and the program itself by the functions that it exports, as Node.js
    does. A process that maps several is read only if all of them are probed: mapping one that is
    must not hide one that is not. What Go has built counts as Go whatever it maps.

    Args:
        pid: In this process's pid namespace.
        use: Called for each library, also of a process that turns out to be gone.
        mounts: What *pid* has mounted.

    Returns:
        The reading, and what has the name of a library and could not be opened.
    """
    unopened: list[Mapping] = []
    try:
        reading = _survey(mounts or Mounts(pid), use, unopened)
    except (MappingError, OSError):
        reading = _unread(Unread.UNREADABLE)
    # Last, so that of what is said to live the end will be told.
    return (_unread(Unread.GONE), []) if _is_gone(pid) else (reading, unopened)


def examine(mounts: Mounts, found: int, path: str, use: Use) -> tuple[Facts, Unread | None]:
    """Return what a file is, and of a library what *use* says of it.

    Args:
        mounts: Those of the process whose file it is.
        found: A regular file, open without rights (O_PATH); it is closed.
        path: As the process sees it.
        use: Called if it is a library.

    Raises:
        ProcessLookupError: The process has ended.
        OSError: The file may not be read.
    """
    open_now = {found}
    try:
        real = open_real(mounts, found)
        open_now.add(real)
        status = os.fstat(real)
        facts = facts_of(real, status)
        if facts.library is None:
            return facts, None
        fd = reopen(real)
        open_now.add(fd)
        file = FileId(status.st_dev, status.st_ino)
        return facts, use(
            Found(file=file, fd=fd, path=path, library=facts.library, offsets=facts.offsets)
        )
    finally:
        for each in open_now:
            os.close(each)


def _survey(mounts: Mounts, use: Use, unopened: list[Mapping]) -> TlsReading:
    mappings = executable_mappings(mounts.pid)
    if not mappings:
        # What has unpacked itself into memory: nothing that it maps has names.
        return _unread(Unread.STATIC)
    program = _program(mounts.pid, mappings)
    looked = [each for each in mappings if may_be_library(each.path)]
    if program is not None and program not in looked:
        looked.append(program)
    build, known = Build.DYNAMIC, []
    for each in looked:
        facts, why = UNKNOWN, None
        try:
            facts, why = examine(mounts, open_mapping(mounts, each), os.fsdecode(each.path), use)
        except (MappingError, OSError):
            if may_be_library(each.path):
                unopened.append(each)
        if each == program:
            build = facts.build
        if facts.library is not None or may_be_library(each.path):
            known.append((each, facts, why))
    if build is Build.GO:
        return _unread(Unread.GO)
    if (reading := _of_libraries(known)) is not None:
        return reading
    if any(each.path.endswith(b"/libjvm.so") for each in mappings):
        return _unread(Unread.JAVA)
    if build is Build.UNKNOWN:
        return _unread(Unread.UNREADABLE, program)
    if build is Build.STATIC and len(mappings) > 1:
        # The dynamic linker was started as a program, with the true one as its argument.
        build = Build.DYNAMIC
    return _unread(build.value)


def _program(pid: int, mappings: list[Mapping]) -> Mapping | None:
    try:
        path = os.readlink(b"/proc/%d/exe" % pid)
    except OSError:
        return None
    name = path.removesuffix(b" (deleted)")
    for each in mappings:
        if each.path == name and each.is_deleted == (name != path):
            return each
    return None


def _of_libraries(known: list[tuple[Mapping, Facts, Unread | None]]) -> TlsReading | None:
    # None: none of them is a library. NSS is two files, and without the first no TLS.
    for mapping, facts, _ in known:
        if facts.build is Build.UNKNOWN:
            return _unread(Unread.UNREADABLE, mapping)
    has_nss = any("SSL_ImportFD" in facts.offsets for _, facts, _ in known)
    count = [
        (mapping, facts.library, why)
        for mapping, facts, why in known
        if facts.library is not None and (has_nss or facts.library is not TlsLibrary.NSS)
    ]
    for mapping, _, why in count:
        if why is not None:
            return _unread(why, mapping)
    for mapping, library, _ in count:
        return TlsReading(library=library, path=os.fsdecode(mapping.path), unread=None)
    return None


def _unread(why: Unread, mapping: Mapping | None = None) -> TlsReading:
    path = None if mapping is None else os.fsdecode(mapping.path)
    return TlsReading(library=None, path=path, unread=why)


def _is_gone(pid: int) -> bool:
    # A zombie is, and what is about to become one: it has no memory any more (proc(5), stat).
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(_MAX_STAT_BYTES).rpartition(b")")[2].split()
    except OSError:
        return True
    return len(fields) > 20 and (fields[0] in (b"Z", b"X") or fields[20] == b"0")
