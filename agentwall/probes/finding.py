# SPDX-License-Identifier: Apache-2.0
"""Finds the TLS libraries of processes and has them probed. For a thread that may wait.

What a process maps is looked at when it is admitted, when perf tells that it has mapped a library,
and when it is seen to speak TLS. Files that most programs map later are probed before that:
:meth:`Finder.prepare` looks for them where distributions put them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass

from agentwall.flow.tls import TlsReading, Unread
from agentwall.probes.attached import Attached
from agentwall.probes.elf import ElfError, read_elf
from agentwall.probes.libraries import WANTED, library_of, may_be_library
from agentwall.probes.mappings import (
    FileId,
    Mapping,
    MappingError,
    filesystem_below,
    may_hang,
    open_mapping,
    open_real,
)
from agentwall.probes.survey import LibraryState, candidates, survey

PLACES = (
    *("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib"),
    *("lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64", "lib"),
    *("usr/local/lib", "usr/local/lib64", "opt/conda/lib", "usr/bin", "usr/local/bin"),
)
"""Below a root directory, where distributions and images have their libraries."""
MAX_ENTRIES = 16384
"""Of one directory that are looked at."""
MAX_FOUND = 16
"""Files of one root that are probed before anybody maps them."""
MAX_UNREADABLE = 256
"""Files that are remembered as unreadable, so as to be counted once."""

_OPENAT2 = 437  # of every architecture
_RESOLVE = 0x01 | 0x02 | 0x10  # RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_LIBC = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    # struct open_how, include/uapi/linux/openat2.h
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen of one process. Every string was chosen by the sandbox."""

    pid: int
    comm: str
    exe: str | None
    reading: TlsReading
    is_user: bool = False
    """It counts among the users of a library until :meth:`Finder.drop`."""


class Finder:
    """Looks at processes, and keeps :class:`Attached` in step."""

    def __init__(self, attached: Attached) -> None:
        self.attached = attached
        self._unreadable: set[Hashable] = set()
        self._unreadable_more = 0

    @property
    def unreadable(self) -> int:
        """Files that may have been libraries and could not be opened or understood, or probed."""
        return len(self._unreadable) + self._unreadable_more + self.attached.unreadable

    def look(self, sandbox: Hashable, pid: int, now_s: float) -> Look:
        """Probe the libraries that a process maps; say whether and how its text is read.

        Args:
            sandbox: Whose process it is.
            pid: In this process's PID namespace; it may have ended.
            now_s: On the clock of :class:`Attached`.
        """
        user = (sandbox, pid)
        is_user = False
        for mapping in candidates(pid):
            try:
                fd = open_mapping(pid, mapping)
            except ProcessLookupError:
                break
            except MappingError:
                self._note_unreadable(sandbox, mapping)
                continue
            try:
                is_user |= self._use(fd, pid, mapping, user, now_s)
            finally:
                os.close(fd)
        reading = survey(pid, self._state_of)
        if is_user and reading.unread is Unread.GONE:
            # Nobody will tell of its end any more.
            self.attached.drop(user, now_s)
            is_user = False
        return Look(
            pid=pid,
            comm=_read(f"/proc/{pid}/comm"),
            exe=_link(f"/proc/{pid}/exe"),
            reading=reading,
            is_user=is_user,
        )

    def prepare(
        self, sandbox: Hashable, pid: int, now_s: Callable[[], float]
    ) -> Generator[str, None, None]:
        """Probe libraries in the root directory of a process that nobody need have mapped yet.

        As long as no more than half of what may be probed is, they stay so while the sandbox lives;
        else as long as what nobody uses does.

        Yields:
            The path of each such file, once it is probed: there it may be left alone for a while.
        """
        user = (sandbox, 0)
        for fd, mapping in _installed(pid):
            try:
                is_library = self._use(fd, pid, mapping, user, now_s())
            finally:
                os.close(fd)
            if is_library:
                yield os.fsdecode(mapping.path)
        if len(self.attached) > self.attached.max_libraries // 2:
            self.attached.drop(user, now_s())

    def drop(self, sandbox: Hashable, pids: Iterable[int], now_s: float) -> None:
        """Note that processes of a sandbox have ended."""
        for pid in pids:
            self.attached.drop((sandbox, pid), now_s)

    def release(self, sandbox: Hashable, now_s: float) -> None:
        """Note that a sandbox has ended, and whatever was in it."""
        for user in self.attached.users():
            if isinstance(user, tuple) and user[0] == sandbox:
                self.attached.drop(user, now_s)

    def _note_unreadable(self, sandbox: Hashable, mapping: Mapping) -> None:
        # Once a file, however many processes map it and however often they are looked at.
        where = (sandbox, mapping.file)
        if len(self._unreadable) >= MAX_UNREADABLE:
            self._unreadable_more += len(self._unreadable)
            self._unreadable.clear()
        self._unreadable.add(where)

    def _use(self, fd: int, pid: int, mapping: Mapping, user: Hashable, now_s: float) -> bool:
        """Have a file probed if it is a TLS library; say whether it is."""
        try:
            elf = read_elf(fd, WANTED)
        except ElfError:
            return False
        library = library_of(frozenset(elf.offsets))
        if library is None:
            return False
        file, real = open_real(pid, mapping, fd)
        try:
            path = os.fsdecode(mapping.path)
            self.attached.use(file, real, library, elf.offsets, user, path, now_s)
        finally:
            os.close(real)
        return True

    def _state_of(self, file: FileId) -> LibraryState | None:
        state = self.attached.state_of(file)
        return None if state is None else LibraryState(unread=state.unread)


def _installed(pid: int) -> Iterator[tuple[int, Mapping]]:
    """Yield files below the root of *pid*, each open, that may be TLS libraries.

    Nothing outside that root's own file system is touched: what is mounted below it the sandbox may
    serve itself.
    """
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    seen: set[FileId] = set()
    try:
        if may_hang(filesystem_below(pid, root)):
            return
        for path in (f"/{place}/{name}" for place in PLACES for name in _names(root, place)):
            opened = _open_regular(root, path)
            if opened is None:
                continue
            fd, own = opened
            if own in seen:
                os.close(fd)
                continue
            seen.add(own)
            where = os.fsencode(path)
            yield fd, Mapping(file=own, path=where, is_deleted=False, start=0, end=0)
            if len(seen) >= MAX_FOUND:
                return
    finally:
        os.close(root)


def _names(root: int, place: str) -> list[str]:
    """Return names of files in a directory that may be TLS libraries, sorted."""
    fd = _open_in(root, place, _OPEN | os.O_DIRECTORY)
    if fd is None:
        return []
    names = []
    with contextlib.suppress(OSError), os.scandir(fd) as entries:
        for number, entry in enumerate(entries):
            if number >= MAX_ENTRIES:
                break
            if may_be_library(os.fsencode(entry.name)):
                names.append(entry.name)
    os.close(fd)
    return sorted(names)


def _open_regular(root: int, path: str) -> tuple[int, FileId] | None:
    # O_PATH first: opening a device would do something.
    found = _open_in(root, path, os.O_PATH | os.O_CLOEXEC)
    if found is None:
        return None
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            return None
        own = FileId(status.st_dev, status.st_ino)
        return os.open(f"/proc/self/fd/{found}", _OPEN), own
    except OSError:
        return None
    finally:
        os.close(found)


def _open_in(root: int, path: str, flags: int) -> int | None:
    """Open *path* as if *root* were ``/``: links lead nowhere else (openat2(2), Linux 5.6)."""
    how = _OpenHow(flags=flags, resolve=_RESOLVE)
    name = ctypes.c_char_p(os.fsencode(path))
    fd = _LIBC.syscall(_OPENAT2, root, name, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    return int(fd) if fd >= 0 else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file.read(64).rstrip("\n")
    except OSError:
        return ""


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
