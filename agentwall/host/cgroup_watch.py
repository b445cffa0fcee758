# SPDX-License-Identifier: Apache-2.0
"""See cgroups come and go below some roots, which need not be there yet.

Every directory from the mount to a root is watched, so that the root's own coming and going is
seen, and every one below the root that may hold others. A directory is listed after its watch is
set, so nothing is missed in between; when the kernel had to drop events, all are listed again.
At rest this costs nothing but the kernel's memory, about 1 kB a watch.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from agentwall.errors import HostError
from agentwall.host import inotify
from agentwall.host.inotify import Event, Inotify
from agentwall.host.mountinfo import Mount, read_mounts

MAX_CGROUPS = 16_384
"""That are known at the same time. Whoever may make cgroups could make any number."""

_DEEPEST = 32
_LONGEST = 1024
"""Names and characters of a path, beyond which nothing is looked at: no runtime goes there,
but a sandbox that may make cgroups can."""
_MASK = inotify.CREATE | inotify.DELETE | inotify.ONLY_DIRECTORIES | inotify.NO_SYMLINK
_READS = 16
"""Buffers taken at once: the daemon's loop has others to serve."""


@dataclass(frozen=True, slots=True)
class Appeared:
    """A cgroup that is there: a root or one below."""

    path: str
    """As /proc/<pid>/cgroup spells it."""
    directory: Path
    cgroup_id: int
    """Its inode: another cgroup of the same path has another."""
    mono_ns: int
    """When it was seen, CLOCK_MONOTONIC; it may have been there before."""


@dataclass(frozen=True, slots=True)
class Vanished:
    """A cgroup that was there."""

    path: str


@dataclass(slots=True)
class _Known:
    cgroup_id: int
    descends: bool
    watch: int | None = None
    children: int = 0


@dataclass(frozen=True, slots=True)
class _Root:
    path: str
    directory: str
    spine: tuple[str, ...]
    """The directories from the mount to the parent of the root."""


class CgroupWatch:
    """Watches *roots*, paths as /proc/<pid>/cgroup spells them, none within another.

    The first :meth:`scan` begins it, and the first after :meth:`renew` adds the new roots.

    Args:
        roots: Where to look.
        descend: Says of a path below a root whether anything below that is of interest; asked once,
            when it appears.
        mounts: Of the host; None: this process's.
        limit: How many cgroups are known at the same time.

    Raises:
        HostError: No cgroup2 mount shows a root, or there are no more inotify instances.
    """

    def __init__(
        self,
        roots: Iterable[str],
        *,
        descend: Callable[[str], bool] = lambda path: True,
        mounts: tuple[Mount, ...] | None = None,
        limit: int = MAX_CGROUPS,
    ) -> None:
        self._mounts = read_mounts() if mounts is None else mounts
        self._descend = descend
        self._limit = limit
        self._roots: tuple[_Root, ...] = ()
        self._known: dict[str, _Known] = {}
        self._spine: dict[str, _Known] = {}
        self._paths: dict[int, str] = {}
        """Of the cgroups that are watched, by number of the watch."""
        self._spine_names: dict[int, set[str]] = {}
        """What matters in a directory of the spine, by number of the watch."""
        self._seen: list[Appeared | Vanished] = []
        self._missing = 0
        self._is_crowded = False
        self._inotify = Inotify()
        try:
            self.renew(roots)
        except HostError:
            self._inotify.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that is readable when something happened."""
        return self._inotify.fileno()

    def close(self) -> None:
        """End the watch."""
        self._inotify.close()

    @property
    def problem(self) -> str | None:
        """Why cgroups may come unseen until the next :meth:`scan`, or None."""
        if self._is_crowded:
            return f"cgroup watch: more than {self._limit} cgroups: the others are not seen"
        if self._missing:
            return (
                f"cgroup watch: {self._missing} cgroups are not watched: "
                "expected a higher fs.inotify.max_user_watches"
            )
        return None

    def renew(self, roots: Iterable[str]) -> None:
        """Watch other *roots* from now on; what leaves the view with one has not vanished.

        Raises:
            HostError: No cgroup2 mount shows a root. The old ones stay.
        """
        renewed = tuple(_find_root(path, self._mounts) for path in roots)
        kept = {root.path for root in renewed}
        for root in self._roots:
            if root.path not in kept and root.path in self._known:
                self._drop(root.path, tells=False)
        self._roots = renewed
        needed = {directory for root in renewed for directory in root.spine}
        for directory in set(self._spine) - needed:
            self._forget_spine(directory)

    def scan(self) -> list[Appeared]:
        """Look everywhere; return all there is, parents first.

        What is found to have gone comes with the next :meth:`read`.
        """
        self._rescan()
        self._seen = [each for each in self._seen if isinstance(each, Vanished)]
        now_ns = time.monotonic_ns()
        return [
            Appeared(path, Path(self._directory(path)), known.cgroup_id, now_ns)
            for path, known in sorted(self._known.items())
        ]

    def known(self) -> set[tuple[str, int]]:
        """Return what has been seen so far and is there, as far as is known: paths and inodes."""
        return {(path, each.cgroup_id) for path, each in self._known.items()}

    def read(self) -> list[Appeared | Vanished]:
        """Return what has come and gone since, in order; never wait for anything to happen."""
        has_overflown = False
        for _ in range(_READS):
            events = self._inotify.read()
            if not events:
                break
            for event in events:
                if event.mask & inotify.OVERFLOW:
                    has_overflown = True
                else:
                    self._take(event)
        if has_overflown:
            self._rescan()
        seen, self._seen = self._seen, []
        return seen

    def _take(self, event: Event) -> None:
        if event.mask & inotify.IGNORED:
            self._paths.pop(event.watch, None)
            self._spine_names.pop(event.watch, None)
        elif event.name in self._spine_names.get(event.watch, ()):
            self._look_for_roots()
        elif event.mask & inotify.IS_DIRECTORY and event.watch in self._paths:
            path = f"{self._paths[event.watch]}/{event.name}"
            if event.mask & inotify.DELETE and path in self._known:
                self._drop(path)
            elif event.mask & inotify.CREATE:
                self._add(path)

    def _rescan(self) -> None:
        self._missing, self._is_crowded = 0, False
        for path in sorted(self._known, reverse=True):
            known = self._known.get(path)
            if known and _id_of(self._directory(path)) != known.cgroup_id:
                self._drop(path)
        self._look_for_roots()
        for path in sorted(self._known):
            if (known := self._known[path]).descends:
                for child in self._enter(path, known):
                    self._add(child)

    # --- The way to the roots -------------------------------------------------------------------

    def _look_for_roots(self) -> None:
        for root in self._roots:
            for directory, below in zip(root.spine, (*root.spine[1:], root.directory), strict=True):
                if not self._watch_spine(directory, os.path.basename(below)):
                    break
            known = self._known.get(root.path)
            if known and _id_of(root.directory) != known.cgroup_id:
                self._drop(root.path)
            self._add(root.path)

    def _watch_spine(self, directory: str, name: str) -> bool:
        """Watch *directory* for *name*; say whether it is there."""
        cgroup_id = _id_of(directory)
        known = self._spine.get(directory)
        if known and known.cgroup_id != cgroup_id:
            self._forget_spine(directory)
            known = None
        if cgroup_id is None:
            return False
        if known is None:
            known = self._spine[directory] = _Known(cgroup_id, descends=True)
        self._watch(directory, known)
        if known.watch is not None:
            self._spine_names.setdefault(known.watch, set()).add(name)
        return True

    def _forget_spine(self, directory: str) -> None:
        watch = self._spine.pop(directory).watch
        if watch is not None:
            self._spine_names.pop(watch, None)
            self._inotify.forget(watch)

    # --- What is below --------------------------------------------------------------------------

    def _add(self, path: str) -> None:
        waiting = [path]
        while waiting:
            path = waiting.pop()
            if path in self._known:
                continue
            directory = self._directory(path)
            cgroup_id = _id_of(directory)
            if cgroup_id is None:
                continue
            if len(self._known) >= self._limit:
                self._is_crowded = True
                continue
            is_root = any(root.path == path for root in self._roots)
            known = _Known(cgroup_id, descends=is_root or self._may_descend(path))
            self._known[path] = known
            if parent := self._known.get(path.rpartition("/")[0]):
                parent.children += 1
            self._seen.append(Appeared(path, Path(directory), cgroup_id, time.monotonic_ns()))
            if known.descends:
                waiting += self._enter(path, known)

    def _may_descend(self, path: str) -> bool:
        is_plausible = path.count("/") < _DEEPEST and len(path) <= _LONGEST
        return is_plausible and self._descend(path)

    def _enter(self, path: str, known: _Known) -> list[str]:
        """Watch a cgroup, then list the ones in it; the last of them first."""
        directory = self._directory(path)
        self._watch(directory, known)
        if known.watch is not None:
            self._paths[known.watch] = path
        try:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []  # Gone already, as an event will say.
        return [f"{path}/{name}" for name in sorted(names, reverse=True)]

    def _watch(self, directory: str, known: _Known) -> None:
        if known.watch is not None:
            return
        try:
            known.watch = self._inotify.watch(directory, _MASK)
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.ENOMEM):
                self._missing += 1

    def _drop(self, path: str, *, tells: bool = True) -> None:
        gone = [path]
        if self._known[path].children:
            gone += [each for each in self._known if each.startswith(path + "/")]
        for each in sorted(gone, reverse=True):
            known = self._known.pop(each)
            if parent := self._known.get(each.rpartition("/")[0]):
                parent.children -= 1
            if known.watch is not None:
                self._paths.pop(known.watch, None)
                self._inotify.forget(known.watch)
            if tells:
                self._seen.append(Vanished(each))

    def _directory(self, path: str) -> str:
        for root in self._roots:
            if path == root.path or path.startswith(root.path + "/"):
                return root.directory + path[len(root.path) :]
        raise ValueError(f"cgroup {path}: expected one below a root")


def _id_of(directory: str) -> int | None:
    """The id of the cgroup; None if it is not there."""
    try:
        found = os.stat(directory, follow_symlinks=False)
    except OSError:
        return None
    return found.st_ino if stat.S_ISDIR(found.st_mode) else None


def _find_root(path: str, mounts: tuple[Mount, ...]) -> _Root:
    names = path[1:].split("/")
    if not path.startswith("/") or {"", ".", ".."} & set(names):
        raise HostError(f"cgroup {path!r}: expected a path below the root")
    # As `cgroup.locate` prefers them, but the cgroup itself need not be there.
    shown = [mount for mount in reversed(mounts) if mount.fstype == "cgroup2"]
    for mount in sorted(shown, key=lambda mount: "ro" in mount.options):
        above = mount.root.rstrip("/")
        if path.startswith(above + "/"):
            point = mount.point.rstrip("/")
            inner = path[len(above) + 1 :].split("/")
            spine = tuple("/".join((point, *inner[:index])) for index in range(len(inner)))
            return _Root(path, "/".join((point, *inner)), spine)
    raise HostError(f"cgroup {path}: no cgroup2 mount shows it")
