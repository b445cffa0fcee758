# SPDX-License-Identifier: Apache-2.0
"""Finds the TLS libraries of processes and has them probed. For a thread that may wait.

What a process maps is looked at when it is admitted, when perf tells that it has mapped a library,
and when it is seen to speak TLS. Files that most programs map later are probed before that:
:meth:`Finder.prepare` looks for them where distributions put them, and where the command that is
about to be executed has its own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from agentwall.flow.tls import TlsReading, Unread
from agentwall.probes.attached import Attached
from agentwall.probes.command import Command, files_of
from agentwall.probes.mappings import FileId, Mapping
from agentwall.probes.mounts import Mounts, Table, mount_of
from agentwall.probes.starting import Start, open_container, open_root, root_mount
from agentwall.probes.survey import Found, examine, survey
from agentwall.probes.walking import library_names, open_in

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

# By device, inode and times. To read one that holds thousands takes milliseconds.
_listed: dict[tuple[int, ...], list[str]] = {}
MAX_LISTED = 256
"""Directories of which it is remembered what is in them; the oldest is forgotten first."""

_MAX_COMM_BYTES = 64


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
        self._ours = Table("self")
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
        user, used = (sandbox, pid), []

        def use(found: Found) -> Unread | None:
            used.append(found.file)
            return self._use(found, user, now_s)

        reading, unopened = survey(pid, use, Mounts(pid, self._ours))
        for mapping in unopened:
            self._note_unreadable(sandbox, mapping)
        is_gone = reading.unread is Unread.GONE
        if used and is_gone:
            # Nobody will tell of its end any more.
            self.attached.drop(user, now_s)
        return Look(
            pid=pid,
            comm=_comm(pid),
            exe=_link(f"/proc/{pid}/exe"),
            reading=reading,
            is_user=bool(used) and not is_gone,
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
        mounts = Mounts(pid, self._ours)
        root, command = self._open_root(sandbox, mounts, start)
        if root is None:
            return

        def use(found: Found) -> Unread | None:
            return self._use(found, user, now_s(), is_ahead=True)

        try:
            for found, path in _installed(mounts, root, command):
                with suppress(OSError):
                    facts, _ = examine(mounts, found, path, use)
                    if facts.library is not None:
                        yield path
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
        self, sandbox: Hashable, mounts: Mounts, start: Start | None
    ) -> tuple[int | None, Command | None]:
        """Open the root directory that a process has or is going to have, if it is worth a look.

        With it comes what is going to be executed there, as far as that is known.
        """
        known = self._roots.setdefault(sandbox, set())
        root = open_root(mounts)
        if root is None:
            return None, None
        mount = mount_of(root)
        if start is None and (mount in known or len(known) >= MAX_ROOTS):
            os.close(root)
            return None, None
        known.add(mount)
        if start is None or isinstance(start, Command):
            return root, start
        container = open_container(mounts, root, start)
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
        self, found: Found, user: Hashable, now_s: float, *, is_ahead: bool = False
    ) -> Unread | None:
        """Have a library probed; say why its calls are not read, if they are not."""
        state = self.attached.use(
            found.file,
            found.fd,
            found.library,
            found.offsets,
            user,
            found.path,
            now_s,
            is_system=_is_hosts(found.file, found.path),
            is_ahead=is_ahead,
        )
        return state.unread


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


def _installed(mounts: Mounts, root: int, command: Command | None) -> Iterator[tuple[int, str]]:
    """Yield files below a root directory, open without rights, that may be TLS libraries.

    Those of *command*, and then of distributions; of these nothing outside that root's own file
    system is touched: what is mounted below it the sandbox may serve itself.
    """
    seen: set[tuple[int, int]] = set()
    own = () if command is None else files_of(mounts, root, command)
    for fd, path in chain(own, _distributed(root)):
        status = os.fstat(fd)
        file = status.st_dev, status.st_ino
        is_new = file not in seen and stat.S_ISREG(status.st_mode)
        if is_new and len(seen) < MAX_FOUND:
            seen.add(file)
            yield fd, path
            continue
        os.close(fd)
        if is_new:
            return


def _distributed(root: int) -> Iterator[tuple[int, str]]:
    seen: set[tuple[int, int]] = set()
    for place in PLACES:
        for name in _names(root, place, seen):
            path = f"/{place}/{name}"
            if (fd := open_in(root, path, os.O_PATH)) is not None:
                yield fd, path


def _names(root: int, place: str, seen: set[tuple[int, int]]) -> list[str]:
    fd = open_in(root, place, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
    if fd is None:
        return []
    try:
        status = os.fstat(fd)
        directory = status.st_dev, status.st_ino
        if directory in seen:
            return []  # /lib is a link to /usr/lib, mostly
        seen.add(directory)
        key = (*directory, status.st_mtime_ns, status.st_ctime_ns)
        if key not in _listed:
            while len(_listed) >= MAX_LISTED:
                del _listed[next(iter(_listed))]
            _listed[key] = library_names(fd)
        return _listed[key]
    finally:
        os.close(fd)


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            return file.read(_MAX_COMM_BYTES).decode(errors="backslashreplace").rstrip("\n")
    except OSError:
        return ""


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
