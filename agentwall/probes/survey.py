# SPDX-License-Identifier: Apache-2.0
"""Whether the text of a process can be read before its TLS library encrypts it, and why not.

Opens what the process maps and reads it (``mappings.py``, ``elf.py``); what is probed, the caller
knows. Nothing here raises because a process ends meanwhile or hides its files. It reads disks that
a sandbox may have chosen: not for the thread that must never wait.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass

from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.probes.elf import ElfError, read_elf
from agentwall.probes.libraries import WANTED, library_of, may_be_library
from agentwall.probes.mappings import (
    FileId,
    Mapping,
    MappingError,
    executable_mappings,
    open_mapping,
    real_file,
)

MAX_REMEMBERED = 1024
"""Files of which it is remembered what they are; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryState:
    """How it stands with the probes of one file."""

    unread: Unread | None
    """Why its calls are not read: LIMIT, UNREADABLE, LATE or OFF; None: they are."""


class _Build(enum.Enum):
    # How a program was made, as far as it tells about its TLS.
    GO = Unread.GO
    RUST = Unread.RUST
    STATIC = Unread.STATIC
    DYNAMIC = Unread.OWN_TLS
    UNKNOWN = Unread.UNREADABLE  # not ELF that can be understood


@dataclass(frozen=True, slots=True)
class _Facts:
    library: TlsLibrary | None
    begins_nss: bool  # exports what makes a descriptor one of TLS
    build: _Build


_Key = tuple[FileId, int, int]
_remembered: dict[_Key, _Facts] = {}


def survey(pid: int, state_of: Callable[[FileId], LibraryState | None]) -> TlsReading:
    """Say whether and how the text of process *pid* is read.

    A process that maps several known libraries is read only if all of them are probed: mapping one
    that is must not hide one that is not. What Go has built counts as Go whatever it maps.

    Args:
        pid: In this process's pid namespace.
        state_of: Of a library, by :func:`~agentwall.probes.mappings.real_file`: whether it is
            probed. None: it was not known till now, which reads as LATE.
    """
    try:
        reading = _survey(_Process(pid), state_of)
    except ProcessLookupError:
        return _unread(Unread.GONE)
    except MappingError:
        reading = _unread(Unread.UNREADABLE)
    if reading.unread is not None and _is_gone(pid):
        return _unread(Unread.GONE)
    return reading


def candidates(pid: int) -> list[Mapping]:
    """Return what process *pid* maps that may be a TLS library: by name, or the program itself.

    The program is one if it exports the functions, as Node.js does. Whether a file is one in truth,
    its symbols say. Empty for a process that is gone or may not be read.
    """
    try:
        process = _Process(pid)
    except (ProcessLookupError, MappingError):
        return []
    found = [each for each in process.mappings if may_be_library(each.path)]
    program = process.program
    if program is not None and program not in found:
        try:
            is_library = process.look(program)[1].library is not None
        except (ProcessLookupError, MappingError):
            is_library = False
        if is_library:
            found.append(program)
    return found


class _Process:
    # What one process maps, at one moment.

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.mappings = executable_mappings(pid)
        self.program = self._program()

    def _program(self) -> Mapping | None:
        try:
            path = os.readlink(b"/proc/%d/exe" % self.pid)
        except OSError:
            return None
        name = path.removesuffix(b" (deleted)")
        for each in self.mappings:
            if each.path == name and each.is_deleted == (name != path):
                return each
        return None

    def look(self, mapping: Mapping) -> tuple[FileId, _Facts]:
        # Raises ProcessLookupError and MappingError.
        fd = open_mapping(self.pid, mapping)
        try:
            status = os.fstat(fd)
            file = real_file(self.pid, mapping, fd)
            return file, _facts(fd, (file, status.st_size, status.st_ctime_ns))
        finally:
            os.close(fd)


def _facts(fd: int, key: _Key) -> _Facts:
    if (known := _remembered.get(key)) is not None:
        return known
    try:
        elf = read_elf(fd, WANTED)
    except ElfError:
        facts = _Facts(None, False, _Build.UNKNOWN)
    else:
        symbols = frozenset(elf.offsets)
        if elf.is_go:
            build = _Build.GO
        elif elf.is_rust:
            build = _Build.RUST
        else:
            build = _Build.DYNAMIC if elf.interpreter else _Build.STATIC
        facts = _Facts(library_of(symbols), "SSL_ImportFD" in symbols, build)
    while len(_remembered) >= MAX_REMEMBERED:
        # Another thread may have been here as well.
        _remembered.pop(next(iter(_remembered), key), None)
    _remembered[key] = facts
    return facts


def _survey(process: _Process, state_of: Callable[[FileId], LibraryState | None]) -> TlsReading:
    program, build, exports = process.program, _Build.DYNAMIC, False
    if not process.mappings:
        # What has unpacked itself into memory: nothing that it maps has names.
        build = _Build.STATIC
    elif program is not None:
        try:
            _, facts = process.look(program)
        except MappingError:
            build = _Build.UNKNOWN
        else:
            build, exports = facts.build, facts.library is not None
    if build is _Build.GO:
        return _unread(Unread.GO)
    maybe = [each for each in process.mappings if may_be_library(each.path)]
    if exports and program is not None and program not in maybe:
        maybe.append(program)
    if (reading := _of_libraries(process, maybe, state_of)) is not None:
        return reading
    if any(each.path.endswith(b"/libjvm.so") for each in process.mappings):
        return _unread(Unread.JAVA)
    if build is _Build.UNKNOWN:
        return _unread(Unread.UNREADABLE, program)
    if build is _Build.STATIC and len(process.mappings) > 1:
        # The dynamic linker was started as a program, with the true one as its argument.
        build = _Build.DYNAMIC
    return _unread(build.value)


def _of_libraries(
    process: _Process, maybe: list[Mapping], state_of: Callable[[FileId], LibraryState | None]
) -> TlsReading | None:
    # None: none of them is a library. NSS is two files, and without the first no TLS.
    found: list[tuple[TlsLibrary, Mapping, Unread | None]] = []
    has_nss = False
    for mapping in maybe:
        try:
            file, facts = process.look(mapping)
        except MappingError:
            return _unread(Unread.UNREADABLE, mapping)
        if facts.build is _Build.UNKNOWN:
            return _unread(Unread.UNREADABLE, mapping)
        if facts.library is not None:
            state = state_of(file)
            why = Unread.LATE if state is None else state.unread
            found.append((facts.library, mapping, why))
            has_nss = has_nss or facts.begins_nss
    if not has_nss:
        found = [each for each in found if each[0] is not TlsLibrary.NSS]
    for _, mapping, why in found:
        if why is not None:
            return _unread(why, mapping)
    for library, mapping, _ in found:
        return TlsReading(library=library, path=os.fsdecode(mapping.path), unread=None)
    return None


def _unread(why: Unread, mapping: Mapping | None = None) -> TlsReading:
    path = None if mapping is None else os.fsdecode(mapping.path)
    return TlsReading(library=None, path=path, unread=why)


def _is_gone(pid: int) -> bool:
    # A zombie is, and what is about to become one: it has no memory any more (proc(5), stat).
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return True
    return len(fields) > 20 and (fields[0] in (b"Z", b"X") or fields[20] == b"0")
