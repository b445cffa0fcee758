# SPDX-License-Identifier: Apache-2.0
"""Which libraries are probed, for whom: each file once, while somebody uses it and a while after.

Bookkeeping without a clock; :func:`agentwall.probes.uprobes.attach` does the work. To take a probe
off takes the kernel 0.1 s, a library has up to 12, and a sandbox makes files and processes as fast
as it likes. So what is to go waits in a queue (:meth:`Attached.close_some`); while that is long,
nothing else is taken off, and in the end nothing attached.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agentwall.errors import KernelError
from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.probes import perf, uprobes
from agentwall.probes.libraries import CALLS
from agentwall.probes.mappings import FileId
from agentwall.probes.prologue import cheapest_places

LINGER_S = 60.0
"""How long a library without users stays probed, and for how long a failure is not tried again:
processes that live shorter than this cost nothing."""
MOST_REMEMBERED = 512
"""Files that are not probed, but remembered; those beyond are refused or tried each time."""
MOST_CLOSING = 64
"""Probes in the queue: from here on nothing is attached, from half of it on nothing taken off."""


class Attach(Protocol):
    """:func:`agentwall.probes.uprobes.attach`."""

    def __call__(
        self,
        program_fd: int,
        file_fd: int,
        offset: int,
        *,
        is_return: bool,
        cookie: int,
        pin: Path | None,
        what: str,
    ) -> uprobes.Probe:
        """Attach one program.

        Raises:
            KernelError: It cannot be attached.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """What has become of one file."""

    library: TlsLibrary
    unread: Unread | None
    """LIMIT or UNREADABLE; None: it is probed."""
    reason: str
    """Of UNREADABLE: which call, and what the kernel said. Holds nothing a sandbox chose."""
    since_s: float
    """When this came about, on the caller's clock: connections begun before are not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One file that is probed, and for whom."""

    file: FileId
    path: str
    """As the user who mapped it first sees it: escape before printing."""
    library: TlsLibrary
    users: frozenset[Hashable]
    since_s: float
    calls: tuple[str, ...]
    """Names of the functions that are probed."""


@dataclass(slots=True, kw_only=True)
class _Library:
    file: FileId
    path: str
    library: TlsLibrary
    offsets: Mapping[str, int]
    stamp: tuple[int, int]
    since_s: float
    users: set[Hashable] = field(default_factory=set)
    idle_s: float | None = None  # since when it has no users
    probes: list[uprobes.Probe] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    unread: Unread | None = None
    reason: str = ""
    waiting_fd: int = -1  # of a file that is refused: for when there is room
    is_rewritten: bool = False  # waits until nothing of before is left

    def state(self) -> FileState:
        return FileState(
            library=self.library, unread=self.unread, reason=self.reason, since_s=self.since_s
        )


class Attached:
    """The libraries that are probed. For one thread, which may wait."""

    def __init__(
        self,
        programs: Mapping[str, int],
        *,
        max_libraries: int,
        pins: Path | None,
        attach: Attach = uprobes.attach,
    ) -> None:
        """Begin with none.

        Args:
            programs: Descriptors of :data:`agentwall.probes.libraries.PROGRAMS`, by name.
            max_libraries: Files that are probed at once.
            pins: A directory on a bpffs, nobody else's, in which the probes are kept when this
                process ends; it is made. None: they end with it.
            attach: How to attach.

        Raises:
            KernelError: The directory cannot be made.
        """
        self._programs = programs
        self.max_libraries = max_libraries
        """It may be changed; what is probed already stays."""
        self._pins = pins
        self._attach = attach
        self._cookies = itertools.count(1)
        self._files: dict[FileId, _Library] = {}
        self._files_of: dict[Hashable, set[FileId]] = {}
        self._closing: deque[uprobes.Probe] = deque()
        self.attached_total = 0
        """Files that were probed, those that are no longer included."""
        self.refused_limit = 0
        """Times a file was refused because as many are probed as may be."""
        self.unreadable = 0
        """Times a file could not be probed."""
        try:
            if pins is not None:
                pins.mkdir(mode=0o700, exist_ok=True)
        except OSError as err:
            raise perf.failure(err.errno or errno.EIO, f"{pins}: make a directory") from err

    def __len__(self) -> int:
        """Return how many files are probed."""
        return sum(1 for each in self._files.values() if each.probes)

    def state_of(self, file: FileId) -> FileState | None:
        """Return what has become of *file*; None: nothing yet, or it is forgotten."""
        entry = self._files.get(file)
        return None if entry is None else entry.state()

    def users_of(self, file: FileId) -> frozenset[Hashable]:
        """Return who maps *file*."""
        entry = self._files.get(file)
        return frozenset() if entry is None else frozenset(entry.users)

    def users(self) -> list[Hashable]:
        """Return who maps anything that is probed, or remembered."""
        return list(self._files_of)

    def use(
        self,
        file: FileId,
        fd: int,
        library: TlsLibrary,
        offsets: Mapping[str, int],
        user: Hashable,
        path: str,
        now_s: float,
    ) -> FileState:
        """Note that *user* maps a library, and probe it unless it is.

        Args:
            file: The inode that uprobes hang on: below an overlay.
            fd: The same file, open for reading; it stays the caller's.
            library: Which library it is.
            offsets: Where in the file its functions begin, by symbol; others than those of
                :data:`agentwall.probes.libraries.CALLS` do not count.
            user: Until :meth:`drop`: a process of a sandbox.
            path: As the user sees it; for :meth:`libraries`.
            now_s: On a clock that only goes forward.
        """
        entry = self._files.get(file)
        stamp = _stamp(fd)
        if entry is None or entry.stamp != stamp:
            fresh = _Library(
                file=file, path=path, library=library, offsets=offsets, stamp=stamp, since_s=now_s
            )
            # Written over in place: the old offsets lead into the middle of something, and the
            # kernel holds copies of old instructions as long as a probe of before is there.
            if entry is not None:
                fresh.users, entry.users = entry.users, set()
                fresh.is_rewritten = bool(entry.probes)
                self._forget(entry)
            self._files[file] = entry = fresh
            self._begin(entry, fd, now_s)
        elif entry.unread is Unread.UNREADABLE and now_s - entry.since_s >= LINGER_S:
            self._begin(entry, fd, now_s)
        state = entry.state()
        if entry.unread is not None and self._others() > MOST_REMEMBERED and not entry.users:
            self._forget(entry)
            return state
        entry.users.add(user)
        entry.idle_s = None
        self._files_of.setdefault(user, set()).add(file)
        return state

    def drop(self, user: Hashable, now_s: float) -> None:
        """Note that *user* is gone; one that is not known does not matter."""
        for file in self._files_of.pop(user, ()):
            entry = self._files.get(file)
            if entry is None:
                continue
            entry.users.discard(user)
            if entry.users:
                continue
            if entry.unread is Unread.LIMIT:
                self._forget(entry)
            else:
                entry.idle_s = now_s
        self._settle(now_s)

    def expire(self, now_s: float) -> None:
        """Take off what has had no users for :data:`LINGER_S`, and attach what waits for room."""
        for entry in list(self._files.values()):
            is_old = entry.idle_s is not None and now_s - entry.idle_s >= LINGER_S
            if is_old and (not entry.probes or self._may_take_off()):
                self._forget(entry)
        self._settle(now_s)

    def close_some(self, limit: int = 1) -> bool:
        """Take off at most *limit* probes, 0.1 s each, of libraries that go; say whether more do.

        Call it again and again, with other work in between.
        """
        for _ in range(min(limit, len(self._closing))):
            self._closing.popleft().close()
        return bool(self._closing)

    def libraries(self) -> list[Probed]:
        """Return what is probed, in the order in which it was attached."""
        entries = sorted((each for each in self._files.values() if each.probes), key=_by_age)
        return [
            Probed(
                file=each.file,
                path=each.path,
                library=each.library,
                users=frozenset(each.users),
                since_s=each.since_s,
                calls=tuple(each.calls),
            )
            for each in entries
        ]

    def keep(self) -> None:
        """Let go of everything without taking off what is pinned."""
        for probe in self._all_probes():
            probe.keep()
        self._clear()

    def close(self) -> None:
        """Take everything off: at once where there are pins, else 0.1 s for each probe."""
        for probe in self._all_probes():
            # The pin last: the kernel then does not let anybody wait.
            probe.keep()
            probe.unpin()
        self._clear()
        if self._pins is not None:
            uprobes.remove_pinned(self._pins)

    def _all_probes(self) -> list[uprobes.Probe]:
        return [*self._closing, *(p for each in self._files.values() for p in each.probes)]

    def _clear(self) -> None:
        for entry in self._files.values():
            _close_waiting(entry)
        self._files.clear()
        self._files_of.clear()
        self._closing.clear()

    def _others(self) -> int:
        return len(self._files) - len(self)

    def _may_take_off(self) -> bool:
        return len(self._closing) < MOST_CLOSING // 2

    def _begin(self, entry: _Library, fd: int, now_s: float) -> None:
        """Attach, or say in the entry why not."""
        entry.since_s = now_s
        if not self._must_wait(entry) and self._has_room():
            self._attach_all(entry, fd)
            return
        self.refused_limit += 1
        entry.unread, entry.reason = Unread.LIMIT, ""
        try:
            entry.waiting_fd = os.dup(fd)
        except OSError as err:
            self._fail(entry, perf.failure(err.errno or errno.EMFILE, "wait for room"))

    def _must_wait(self, entry: _Library) -> bool:
        return entry.is_rewritten and bool(self._closing)

    def _has_room(self) -> bool:
        """Say whether one more may be probed, and take an idle one off if that is what it takes."""
        if len(self._closing) >= MOST_CLOSING:
            return False
        if len(self) < self.max_libraries:
            return True
        idle = [each for each in self._files.values() if each.probes and each.idle_s is not None]
        if not idle or not self._may_take_off():
            return False
        self._forget(min(idle, key=lambda each: each.idle_s or 0.0))
        return True

    def _settle(self, now_s: float) -> None:
        """Attach what waits for room, first come first served."""
        waiting = [each for each in self._files.values() if each.waiting_fd >= 0]
        for entry in sorted(waiting, key=_by_age):
            if self._must_wait(entry):
                continue
            if not self._has_room():
                return
            entry.since_s = now_s
            self._attach_all(entry, entry.waiting_fd)
            _close_waiting(entry)

    def _attach_all(self, entry: _Library, fd: int) -> None:
        """Attach every call, or none."""
        try:
            places = cheapest_places(fd, entry.library, entry.offsets)
            for symbol, offset, program, is_return in places:
                cookie = next(self._cookies)
                name = f"{cookie:08x}-{symbol}{'-back' if is_return else ''}"
                probe = self._attach(
                    self._programs[program],
                    fd,
                    offset,
                    is_return=is_return,
                    cookie=cookie,
                    pin=None if self._pins is None else self._pins / name,
                    what=symbol,
                )
                entry.probes.append(probe)
        except KernelError as err:
            self._take_off(entry)
            self._fail(entry, err)
            return
        entry.unread, entry.reason = None, ""
        entry.calls = [each.symbol for each in CALLS[entry.library] if each.symbol in entry.offsets]
        self.attached_total += 1

    def _fail(self, entry: _Library, err: KernelError) -> None:
        self.unreadable += 1
        entry.unread, entry.reason = Unread.UNREADABLE, str(err)

    def _forget(self, entry: _Library) -> None:
        for user in entry.users:
            files = self._files_of.get(user)
            if files is not None:
                files.discard(entry.file)
                if not files:
                    del self._files_of[user]
        self._take_off(entry)
        _close_waiting(entry)
        del self._files[entry.file]

    def _take_off(self, entry: _Library) -> None:
        for probe in entry.probes:
            # Without its pin the last thing that holds it is closed later, and waited for then.
            probe.unpin()
        self._closing += entry.probes
        entry.probes = []


def _stamp(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns


def _by_age(entry: _Library) -> float:
    return entry.since_s


def _close_waiting(entry: _Library) -> None:
    if entry.waiting_fd >= 0:
        os.close(entry.waiting_fd)
        entry.waiting_fd = -1
