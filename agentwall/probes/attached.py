# SPDX-License-Identifier: Apache-2.0
"""Which libraries are probed, for whom: each file once, while somebody uses it and a while after.

Bookkeeping without a clock; :func:`agentwall.probes.uprobes.attach` does the work. To take a probe
off takes the kernel 0.1 s, a library has up to 12, and a sandbox makes files and processes as fast
as it likes. So what is to go waits in a queue (:meth:`Attached.close_some`); while that is long,
nothing else is taken off, and in the end nothing attached. Who gives way where there is no room:
:mod:`agentwall.probes.shares`.
"""

from __future__ import annotations

import errno
import itertools
from collections import Counter, deque
from collections.abc import Hashable, Mapping
from pathlib import Path

from agentwall.errors import KernelError
from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.probes import perf, uprobes
from agentwall.probes.libraries import CALLS
from agentwall.probes.library_file import FileState, LibraryFile, Probed, stamp_of
from agentwall.probes.mappings import FileId
from agentwall.probes.prologue import cheapest_places
from agentwall.probes.shares import giving_way, poorest, weigh

LINGER_S = 60.0
"""How long a library without users stays probed, and for how long a failure is not tried again:
processes that live shorter than this cost nothing."""
MOST_REMEMBERED = 512
"""Files that are not probed, but remembered; those beyond are refused or tried each time."""
MOST_CLOSING = 64
"""Probes in the queue: from here on nothing is attached, from half of it on nothing taken off."""


class Attached:
    """The libraries that are probed. For one thread, which may wait."""

    def __init__(
        self,
        programs: Mapping[str, int],
        *,
        max_libraries: int,
        pins: Path | None,
        attach: uprobes.Attach = uprobes.attach,
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
        self._files: dict[FileId, LibraryFile] = {}
        self._files_of: dict[Hashable, set[FileId]] = {}
        self._closing: deque[uprobes.Probe] = deque()
        self.attached_total = 0
        """Files that were probed, those that are no longer included."""
        self.refused_limit = 0
        """Times a file was refused because as many are probed as may be."""
        self.displaced = 0
        """Times a file gave way to one of a sandbox that had fewer."""
        self._changed: set[Hashable] = set()
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
        *,
        is_system: bool = False,
        is_ahead: bool = False,
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
            is_system: It is one of the host's own libraries, whoever maps it.
            is_ahead: Nobody maps it yet: it takes nobody's place.
        """
        entry, stamp = self._files.get(file), stamp_of(fd)
        is_new = entry is None or entry.stamp != stamp
        if entry is None or is_new:
            fresh = LibraryFile(
                file=file,
                path=path,
                library=library,
                offsets=offsets,
                stamp=stamp,
                since_s=now_s,
                is_system=is_system,
            )
            entry = self._put(fresh, entry)
        entry.add(user, now_s, is_ahead=is_ahead)
        self._try(entry, fd, now_s, is_new=is_new)
        self._files_of.setdefault(user, set()).add(entry.file)  # one object for all users
        state = entry.state()
        if entry.unread is not None and self._others() > MOST_REMEMBERED:
            self._forget(self._least_worth(entry))
        return state

    def _put(self, fresh: LibraryFile, former: LibraryFile | None) -> LibraryFile:
        # Written over in place: the old offsets lead into the middle of something, and the
        # kernel holds copies of old instructions as long as a probe of before is there.
        if former is not None:
            fresh.users, former.users = former.users, set()
            fresh.owners, former.owners = former.owners, Counter()
            fresh.is_rewritten = bool(former.probes)
            self._forget(former)
        self._files[fresh.file] = fresh
        return fresh

    def _try(self, entry: LibraryFile, fd: int, now_s: float, *, is_new: bool) -> None:
        is_old = now_s - entry.since_s >= LINGER_S
        if is_new or (entry.unread is Unread.UNREADABLE and is_old):
            self._begin(entry, fd, now_s)
        elif entry.is_waiting:
            self._settle(now_s)

    def drop(self, user: Hashable, now_s: float) -> None:
        """Note that *user* is gone; one that is not known does not matter."""
        for file in self._files_of.pop(user, ()):
            entry = self._files.get(file)
            if entry is None:
                continue
            entry.discard(user)
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

    def take_changed(self) -> set[Hashable]:
        """Return whose files were displaced, or probed after they had waited, since the last time.

        What was said of these users holds no longer.
        """
        changed, self._changed = self._changed, set()
        return changed

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
            entry.let_go()
        self._files.clear()
        self._files_of.clear()
        self._closing.clear()

    def _others(self) -> int:
        return len(self._files) - len(self)

    def _may_take_off(self) -> bool:
        return len(self._closing) < MOST_CLOSING // 2

    def _least_worth(self, newest: LibraryFile) -> LibraryFile:
        """Of what is remembered and not probed, what is to be forgotten."""
        others = [each for each in self._files.values() if not each.probes]
        has: Counter[Hashable] = Counter()
        for each in others:
            has.update(each.owners.keys())
        # The newest of the sandbox with most; of those with as many, the one that comes now.
        return max(
            others,
            key=lambda each: (
                min((has[owner] for owner in each.owners), default=len(others)),
                each is newest,
                each.since_s,
            ),
        )

    def _begin(self, entry: LibraryFile, fd: int, now_s: float) -> None:
        """Attach, or say in the entry why not."""
        entry.since_s = now_s
        try:
            entry.hold(fd)
        except OSError as err:
            self._fail(entry, perf.failure(err.errno or errno.EMFILE, "wait for room"))
            return
        if not self._must_wait(entry) and self._make_room(entry, now_s):
            self._attach_all(entry)
            return
        self.refused_limit += 1
        entry.unread, entry.reason = Unread.LIMIT, ""

    def _must_wait(self, entry: LibraryFile) -> bool:
        return entry.is_rewritten and bool(self._closing)

    def _make_room(self, newcomer: LibraryFile, now_s: float) -> bool:
        """Say whether one more may be probed, and take one off if that is what it takes.

        First of all one that is idle.
        """
        if len(self._closing) >= MOST_CLOSING:
            return False
        if len(self) < self.max_libraries:
            return True
        if not self._may_take_off():
            return False
        probed = [each for each in self._files.values() if each.probes]
        idle = [each for each in probed if each.idle_s is not None]
        if idle:
            self._forget(min(idle, key=lambda each: each.idle_s or 0.0))
            return True
        waiting = [each for each in self._files.values() if each.is_waiting]
        gives_way = giving_way(probed, newcomer, waiting, self.max_libraries)
        if gives_way is None or not newcomer.is_mapped:
            return False
        self._take_off(gives_way)
        gives_way.unread, gives_way.since_s = Unread.LIMIT, now_s
        self.displaced += 1
        self._changed |= gives_way.users
        return True

    def _settle(self, now_s: float) -> None:
        """Attach what waits for room: of the sandbox that has least, then first come first served.

        Where there is none it may take that of others.
        """
        while True:
            waiting = [
                each
                for each in self._files.values()
                if each.is_waiting and not self._must_wait(each)
            ]
            if not waiting:
                return
            has = weigh(each for each in self._files.values() if each.probes)
            entry = min(
                waiting,
                key=lambda each: (not each.is_mapped, poorest(each, has), each.since_s),
            )
            if not self._make_room(entry, now_s):
                return
            entry.since_s = now_s
            self._changed |= entry.users
            self._attach_all(entry)

    def _attach_all(self, entry: LibraryFile) -> None:
        """Attach every call, or none."""
        try:
            places = cheapest_places(entry.fd, entry.library, entry.offsets)
            for symbol, offset, program, is_return in places:
                cookie = next(self._cookies)
                name = f"{cookie:08x}-{symbol}{'-back' if is_return else ''}"
                probe = self._attach(
                    self._programs[program],
                    entry.fd,
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

    def _fail(self, entry: LibraryFile, err: KernelError) -> None:
        self.unreadable += 1
        entry.let_go()
        entry.unread, entry.reason = Unread.UNREADABLE, str(err)

    def _forget(self, entry: LibraryFile) -> None:
        for user in entry.users:
            files = self._files_of.get(user)
            if files is not None:
                files.discard(entry.file)
                if not files:
                    del self._files_of[user]
        self._take_off(entry)
        entry.let_go()
        del self._files[entry.file]

    def _take_off(self, entry: LibraryFile) -> None:
        for probe in entry.probes:
            # Without its pin the last thing that holds it is closed later, and waited for then.
            probe.unpin()
        self._closing += entry.probes
        entry.probes = []


def _by_age(entry: LibraryFile) -> float:
    return entry.since_s
