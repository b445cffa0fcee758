# SPDX-License-Identifier: Apache-2.0
"""Finds the TLS libraries of processes and has them probed. For a thread that may wait.

What a process maps is looked at when it is admitted, when perf tells that it has mapped a library,
and when it is seen to speak TLS. Files that most programs map later are probed before that:
:meth:`Finder.prepare` looks for them where distributions put them, and where the command that is
about to be executed has its own.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.probes.attached import Attached
from agentwall.probes.command import Command, files_of
from agentwall.probes.elf import ElfError, read_elf
from agentwall.probes.libraries import WANTED, library_of
from agentwall.probes.mappings import (
    FileId,
    Mapping,
    MappingError,
    mount_of,
    open_mapping,
    open_real,
)
from agentwall.probes.starting import Start, open_container, open_root, root_mount
from agentwall.probes.survey import LibraryState, candidates, survey
from agentwall.probes.walking import library_names, open_regular

PLACES = (
    *("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib"),
    *("lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64", "lib"),
    *("usr/local/lib", "usr/local/lib64", "opt/conda/lib", "usr/bin", "usr/local/bin"),
)
"""Below a root directory, where distributions and images have their libraries."""
MAX_FOUND = 16
"""Files of one root that are probed before anybody maps them."""
MAX_ROOTS = 4
"""Root directories of one sandbox that are looked into."""
MAX_UNREADABLE = 256
"""Files that are remembered as unreadable, so as to be counted once."""

_Library = tuple[TlsLibrary, dict[str, int]]
# By device, inode, size and times. The sandboxes of a host have the same few files, and to read one
# takes milliseconds in which nobody else computes.
_remembered: dict[tuple[int, ...], _Library | None] = {}
_listed: dict[tuple[int, ...], list[str]] = {}
MAX_REMEMBERED = 256
"""Files of which it is known what they are, and directories of which, what is in them."""

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
    is_elsewhere: bool = False
    """Its root directory is none that :meth:`Finder.prepare` has looked into, and worth a look."""


class Finder:
    """Looks at processes, and keeps :class:`Attached` in step."""

    def __init__(self, attached: Attached) -> None:
        self.attached = attached
        self._unreadable: set[Hashable] = set()
        self._unreadable_more = 0
        # By their mounts, of each sandbox: where what is installed was looked for.
        self._roots: dict[Hashable, set[bytes]] = {}

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
            is_elsewhere=self._is_elsewhere(sandbox, pid),
        )

    def prepare(
        self,
        sandbox: Hashable,
        pid: int,
        now_s: Callable[[], float],
        start: Start | None = None,
    ) -> Generator[str, None, None]:
        """Probe libraries in the root directory of a process that nobody need have mapped yet.

        A root directory that was looked into before is not again, unless there is a *start*: what
        *pid* is about to do, which says more. As long as no more than half of what may be probed
        is, they stay so while the sandbox lives; else as long as what nobody uses does.

        Yields:
            The path of each such file, once it is probed: there it may be left alone for a while.
        """
        user = (sandbox, 0)
        root, command = self._open_root(sandbox, pid, start)
        if root is None:
            return
        try:
            for fd, mapping in _installed(pid, root, command):
                try:
                    is_library = self._use(fd, pid, mapping, user, now_s(), is_ahead=True)
                finally:
                    os.close(fd)
                if is_library:
                    yield os.fsdecode(mapping.path)
        finally:
            os.close(root)
        if len(self.attached) > self.attached.max_libraries // 2:
            self.attached.drop(user, now_s())

    def drop(self, sandbox: Hashable, pids: Iterable[int], now_s: float) -> None:
        """Note that processes of a sandbox have ended."""
        for pid in pids:
            self.attached.drop((sandbox, pid), now_s)

    def release(self, sandbox: Hashable, now_s: float) -> None:
        """Note that a sandbox has ended, and whatever was in it."""
        self._roots.pop(sandbox, None)
        for user in self.attached.users():
            if isinstance(user, tuple) and user[0] == sandbox:
                self.attached.drop(user, now_s)

    def _open_root(
        self, sandbox: Hashable, pid: int, start: Start | None
    ) -> tuple[int | None, Command | None]:
        """Open the root directory that *pid* has or is going to have, if it is to be looked into.

        With it comes what is going to be executed there, as far as that is known.
        """
        known = self._roots.setdefault(sandbox, set())
        root = open_root(pid)
        if root is None:
            return None, None
        mount = mount_of(root)
        if start is None and (mount in known or len(known) >= MAX_ROOTS):
            os.close(root)
            return None, None
        known.add(mount)
        if start is None or isinstance(start, Command):
            return root, start
        container = open_container(pid, root, start)
        if container is None:
            return root, None
        # The root that it leaves is not the sandbox's.
        os.close(root)
        known.add(mount_of(container[0]))
        return container

    def _is_elsewhere(self, sandbox: Hashable, pid: int) -> bool:
        known = self._roots.get(sandbox)
        if known is None or len(known) >= MAX_ROOTS:
            return False
        mount = root_mount(pid)
        return mount is not None and mount not in known

    def _note_unreadable(self, sandbox: Hashable, mapping: Mapping) -> None:
        # Once a file, however many processes map it and however often they are looked at.
        where = (sandbox, mapping.file)
        if len(self._unreadable) >= MAX_UNREADABLE:
            self._unreadable_more += len(self._unreadable)
            self._unreadable.clear()
        self._unreadable.add(where)

    def _use(
        self,
        fd: int,
        pid: int,
        mapping: Mapping,
        user: Hashable,
        now_s: float,
        *,
        is_ahead: bool = False,
    ) -> bool:
        """Have a file probed if it is a TLS library; say whether it is."""
        found = _library_in(fd)
        if found is None:
            return False
        library, offsets = found
        try:
            file, real = open_real(pid, mapping, fd)
        except ProcessLookupError:
            return False
        try:
            path = os.fsdecode(mapping.path)
            self.attached.use(
                file,
                real,
                library,
                offsets,
                user,
                path,
                now_s,
                is_system=_is_hosts(file, path),
                is_ahead=is_ahead,
            )
        finally:
            os.close(real)
        return True

    def _state_of(self, file: FileId) -> LibraryState | None:
        state = self.attached.state_of(file)
        return None if state is None else LibraryState(unread=state.unread)


def _library_in(fd: int) -> _Library | None:
    """Return which TLS library a file is, and where its functions are; None: it is none."""
    status = os.fstat(fd)
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key in _remembered:
        return _remembered[key]
    try:
        offsets = dict(read_elf(fd, WANTED).offsets)
    except ElfError:
        offsets = {}
    library = library_of(frozenset(offsets))
    while len(_remembered) >= MAX_REMEMBERED:
        del _remembered[next(iter(_remembered))]
    found = _remembered[key] = None if library is None else (library, offsets)
    return found


def _is_hosts(file: FileId, path: str) -> bool:
    """Say whether *file* is one that this host's own programs use, at the same path.

    A sandbox chooses its paths, so the file itself has to be there, and nobody's but root's.
    """
    if os.path.dirname(path).lstrip("/") not in PLACES:
        return False
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return file == FileId(status.st_dev, status.st_ino) and status.st_uid == 0


def _installed(pid: int, root: int, command: Command | None) -> Iterator[tuple[int, Mapping]]:
    """Yield files below a root directory, each open, that may be TLS libraries.

    Those of *command*, and then of distributions; of these nothing outside that root's own file
    system is touched: what is mounted below it the sandbox may serve itself.
    """
    seen: set[FileId] = set()
    own = () if command is None else files_of(pid, root, command)
    for fd, path in chain(own, _distributed(root)):
        status = os.fstat(fd)
        file = FileId(status.st_dev, status.st_ino)
        if file in seen or len(seen) >= MAX_FOUND:
            os.close(fd)
            if file in seen:
                continue
            return
        seen.add(file)
        where = os.fsencode(path)
        yield fd, Mapping(file=file, path=where, is_deleted=False, start=0, end=0)


def _distributed(root: int) -> Iterator[tuple[int, str]]:
    for path in (f"/{place}/{name}" for place in PLACES for name in _names(root, place)):
        fd = _open_regular(root, path)
        if fd is not None:
            yield fd, path


def _names(root: int, place: str) -> list[str]:
    fd = _open_in(root, place, _OPEN | os.O_DIRECTORY)
    if fd is None:
        return []
    try:
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        if key not in _listed:
            while len(_listed) >= MAX_REMEMBERED:
                del _listed[next(iter(_listed))]
            _listed[key] = library_names(fd)
        return _listed[key]
    finally:
        os.close(fd)


def _open_regular(root: int, path: str) -> int | None:
    found = _open_in(root, path, os.O_PATH | os.O_CLOEXEC)
    return None if found is None else open_regular(found)


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
